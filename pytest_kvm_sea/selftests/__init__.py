# SPDX-License-Identifier: GPL-2.0-only
"""The ported kselftests. Run them with: pytest --pyargs pytest_kvm_sea.selftests"""
