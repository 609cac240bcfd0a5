# SPDX-License-Identifier: GPL-2.0-only
"""What runs inside the VM: programs written in Python and emitted as A64 machine code, vectors, ucalls."""
