# SPDX-License-Identifier: GPL-2.0-only
"""Differences of the MMU that are no bugs of the simulated processor; `known` lists them with their reasons."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from tests.oracle import layout as at
from tests.oracle import stage2, tables
from tests.oracle.case import Case, Result
from tests.oracle.granules import of

_ESR: Final = at.SYSTEM.index("esr_el1")
_FAR: Final = at.SYSTEM.index("far_el1")
_PAR: Final = at.SYSTEM.index("par_el1")
_TCR: Final = at.SYSTEM.index("tcr_el1")
_ABORTS_EL1: Final = frozenset({0x20, 0x21, 0x24, 0x25})
_LEVEL: Final = 3
_AT: Final = ENCODINGS["SYS"].encode(op1=0, CRn=7, CRm=8, op2=0, Rt=0)
_AT_FIELDS: Final = 0x3F


def reserved_block(case: Case, _qemu: Result, simulated: Result) -> bool:
    """The model ends with a translation fault at a block that its level does not have."""
    tcr = simulated.system[_TCR]
    if esr.ec(simulated.system[_ESR]) in _ABORTS_EL1:
        va, fsc = simulated.system[_FAR], esr.fsc(simulated.system[_ESR])
        if _is_reserved(tcr, va, fsc):
            return True
    if case.words[0] & ~(_AT_FIELDS | 3 << 5) != _AT & ~_AT_FIELDS or case.words[0] & 31 == 31:
        return False
    par = simulated.system[_PAR]
    return bool(par & 1) and _is_reserved(tcr, case.x[case.words[0] & 31], par >> 1 & 0x3F)


def _is_reserved(tcr: int, va: int, fsc: int) -> bool:
    if fsc & ~_LEVEL != esr.FSC_TRANSLATION:
        return False
    half = va >> 55 & 1
    return tables.reserved_block_level(of(tcr, half), tcr >> 16 * half & 0x3F, va) == fsc & _LEVEL


def with_walk_level(qemu: Result, simulated: Result) -> Result:
    """QEMU's result with the model's level of a fault of stage 2 in a walk of stage 1, where the model's is right."""
    ours = simulated.esr_el2
    if not ours & qemu.esr_el2 & esr.S1PTW or ours & _LEVEL != stage2.level(simulated.hpfar_el2 << 8):
        return qemu
    return qemu._replace(esr_el2=qemu.esr_el2 & ~_LEVEL | ours & _LEVEL)


def walk_level(_case: Case, qemu: Result, simulated: Result) -> bool:
    return with_walk_level(qemu, simulated) == simulated
