# SPDX-License-Identifier: GPL-2.0-only
"""The user API of KVM: request numbers, structures and capabilities, one table per revision."""
