# SPDX-License-Identifier: GPL-2.0-only
"""Shared by all tests of this project."""
