# SPDX-License-Identifier: GPL-2.0-only
"""Hosts with one bug each, to prove that the selftests can fail (docs/mutants.md). No ordinary run imports this."""
