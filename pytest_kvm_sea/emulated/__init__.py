# SPDX-License-Identifier: GPL-2.0-only
"""An arm64 host of one's own: a real Linux with a real KVM, booted by QEMU on any machine with apt.

``python -m pytest_kvm_sea.emulated [OPTIONS] -- PYTEST ARGUMENTS``; docs/emulated.md says more.
"""
