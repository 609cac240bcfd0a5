# SPDX-License-Identifier: GPL-2.0-only
"""What a Linux machine offers to a VMM at the system-call boundary: the contract, and the machine itself."""
