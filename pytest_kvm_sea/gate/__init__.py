# SPDX-License-Identifier: GPL-2.0-only
"""What a machine promises, and whether a run kept it. Knows nothing of pytest."""
