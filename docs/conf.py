# SPDX-License-Identifier: GPL-2.0-only
"""Sphinx: `tox run -e docs` builds these pages, warnings as errors. The pages are plain Markdown."""

from __future__ import annotations

project = "pytest-kvm-sea"
project_copyright = "the authors of pytest-kvm-sea, GPL-2.0-only"
extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Memory errors in arm64 KVM guests, tested from pytest", "page_width": "70em"}
nitpicky = True
highlight_language = "none"
