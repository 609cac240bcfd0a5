# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the tests of this project."""

from __future__ import annotations

import importlib.util

# pytest loads this file for the selftests as well when they run in a checkout, and they do not need Hypothesis.
if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # No deadline: how long one example takes on a busy machine says nothing about the code.
    settings.register_profile("kvm-sea", deadline=None, print_blob=True)
    settings.load_profile("kvm-sea")
