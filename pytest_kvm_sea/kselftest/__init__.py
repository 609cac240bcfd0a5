# SPDX-License-Identifier: GPL-2.0-only
"""The selftests as one kselftest: `python -m pytest_kvm_sea.kselftest`, and what puts it into an installed tree."""
