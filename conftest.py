# SPDX-License-Identifier: GPL-2.0-only
"""Nothing: the selftests run in a checkout too, and must not need what the project's own tests need."""
