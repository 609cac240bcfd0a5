# SPDX-License-Identifier: GPL-2.0-only
"""Memory errors: EINJ, pagemap translation, SIGBUS."""
