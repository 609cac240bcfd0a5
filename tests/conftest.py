# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the tests of this project."""

from __future__ import annotations

from hypothesis import settings

# No deadline: how long one example takes on a busy machine says nothing about the code.
settings.register_profile("kvm-sea", deadline=None, print_blob=True)
settings.load_profile("kvm-sea")
