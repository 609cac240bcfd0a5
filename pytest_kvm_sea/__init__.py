# SPDX-License-Identifier: GPL-2.0-only
"""Memory errors in arm64 KVM guests, tested from pytest.

Importing this package costs nothing on purpose: pytest imports it in every run of an environment where it is installed.
"""
