# SPDX-License-Identifier: GPL-2.0-only
"""The simulated KVM: ioctls on handles, memslots, exits, and what KVM does with aborts."""
