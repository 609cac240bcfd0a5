# SPDX-License-Identifier: GPL-2.0-only
"""Does the simulated KVM do what a real one does? Scenarios that write down everything that can be observed."""
