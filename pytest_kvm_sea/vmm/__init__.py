# SPDX-License-Identifier: GPL-2.0-only
"""The VMM: virtual machines, vCPUs and guest memory, driven through the user API of KVM over any host."""
