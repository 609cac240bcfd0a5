# SPDX-License-Identifier: GPL-2.0-only
"""A simulated arm64 Linux host: KVM, physical memory with poison, firmware with EINJ, procfs and debugfs."""
