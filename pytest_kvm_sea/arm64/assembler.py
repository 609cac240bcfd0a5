# SPDX-License-Identifier: GPL-2.0-only
"""An A64 assembler: one method per mnemonic, labels, data.

::

    asm = Assembler()
    asm.mov(X0, 0x81234bad)
    asm.ldr(X1, Post(X0, 8))
    asm.ret()
    code = asm.assemble(base=0x10000)

Every instruction is encoded through `encodings.ENCODINGS`. An operand that an instruction does not take is a ValueError
that names the operand and what is valid.
"""

from __future__ import annotations

from pytest_kvm_sea.arm64.asm_control import Control
from pytest_kvm_sea.arm64.asm_data import DataProcessing
from pytest_kvm_sea.arm64.asm_memory import LoadsStores
from pytest_kvm_sea.arm64.operands import *  # noqa: F403 - one import gives who writes assembly its operands


class Assembler(DataProcessing, Control, LoadsStores):
    """Code in the making."""
