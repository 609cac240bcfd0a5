# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin. Nothing heavy is imported at module level: every pytest run of the environment loads this file."""
