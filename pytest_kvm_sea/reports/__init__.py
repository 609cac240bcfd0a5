# SPDX-License-Identifier: GPL-2.0-only
"""What people and CI systems read after a run. Knows nothing of pytest: `pytest_kvm_sea.reporting` feeds it."""
