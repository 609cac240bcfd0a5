# SPDX-License-Identifier: GPL-2.0-only
"""The gate in pytest: a run against a file of expectations (`gate`), and the writing of a first one."""
