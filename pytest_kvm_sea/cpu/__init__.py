# SPDX-License-Identifier: GPL-2.0-only
"""An A64 processor at EL0 and EL1, in Python. Knows nothing of KVM: traps to EL2 are returned to whoever runs it."""
