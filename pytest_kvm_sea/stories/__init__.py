# SPDX-License-Identifier: GPL-2.0-only
"""From what a test left behind (trace, VMs, host) to the story of it. Knows VMM and RAS; knows nothing of pytest."""
