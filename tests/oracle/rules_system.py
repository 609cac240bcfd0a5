# SPDX-License-Identifier: GPL-2.0-only
"""Rules of `known` about system registers and instructions, and about exceptions."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.arm64.sysregs import SYSREGS
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle.case import Result
from tests.oracle.difference import (
    ALLINT,
    ELR,
    ESR,
    FAR,
    M64,
    NOP,
    PAR,
    SPSR,
    Difference,
    reached_el1,
    with_register,
    with_system,
)

_WFE: Final = encode("HINT", CRm=0, op2=2)
_WFX_TRAPPED: Final = esr.syndrome(esr.EC.WFX, 1 << 24 | 0xE << 20 | 1)
"""CV, COND (always), TI (WFE)."""
_UNKNOWN_AFTER_ILLEGAL: Final = ALLINT | pstate.SSBS | pstate.DIT | pstate.UAO | pstate.PAN
_OWN_VALUES: Final = frozenset(
    SYSREGS[name]
    for name in SYSREGS
    if (name.startswith(("id_", "cnt")) and name != "cntkctl_el1")
    or name in {"revidr_el1", "aidr_el1", "ctr_el0", "dczid_el0", "clidr_el1", "ccsidr_el1", "rvbar_el1", "actlr_el1"}
)  # fmt: skip
_ID_SPACE: Final = range(0xC000, 0xC040)
_OP0_AND_CRN: Final = 1 << 19 | 0xF << 12
"""Of an MRS: 3 and 0 for identification."""


def _first_class(d: Difference) -> str:
    encoding = decode(d.case.words[0])
    return "" if encoding is None else encoding.name


def wfe(d: Difference) -> Difference | bool:
    """The simulated one traps WFE of EL0, as SCTLR_EL1.nTWE says; for QEMU it is a NOP."""
    if d.ours.syndrome != _WFX_TRAPPED or d.ours.word != _WFE or d.ours.number is None:
        return False
    return d.instead(d.ours.number, NOP)


def pc_alignment(d: Difference) -> bool:
    """The same PC is in FAR; QEMU has an instruction abort, of EL1 or of stage 2, and otherwise all is equal."""
    if d.ours.ec != esr.EC.PC_ALIGNMENT or not d.theirs.is_instruction_abort or not d.ours.far & 3:
        return False
    qemu, simulated = d.qemu, d.simulated
    if _returns_illegally(d):
        qemu, simulated = _known_after_illegal(qemu), _known_after_illegal(simulated)
    if reached_el1(qemu):
        return with_system(qemu, ESR, d.ours.syndrome) == simulated
    theirs = (qemu.x, qemu.sp_el0, qemu.sp_el1, qemu.changes, qemu.far_el2, qemu.pc, qemu.pstate)
    return d.stage2_instead(esr.EC.IABT_LOWER) and theirs == (
        *(simulated.x, simulated.sp_el0, simulated.sp_el1, simulated.changes),
        *(simulated.system[FAR], simulated.system[ELR], simulated.system[SPSR]),
    )


def daif_syndrome(d: Difference) -> bool:
    """Nothing but op1 and op2 in ESR_EL1."""
    if _first_class(d) != "MSR_IMM" or d.simulated.system[ESR] >> 26 != esr.EC.SYSREG:
        return False
    ours = d.simulated.system[ESR]
    op1, op2 = ours >> 14 & 7, ours >> 17 & 7
    swapped = ours & ~(0x3F << 14) | op1 << 17 | op2 << 14
    return with_system(d.simulated, ESR, swapped) == d.qemu


def illegal_return(d: Difference) -> bool:
    """Nothing but bits that are UNKNOWN, and tags in addresses."""
    return _returns_illegally(d) and _known_after_illegal(d.qemu) == _known_after_illegal(d.simulated)


def _returns_illegally(d: Difference) -> bool:
    return _first_class(d) == "ERET" and d.case.system["spsr_el1"] & 0x1F not in pstate.MODES


def _known_after_illegal(result: Result) -> Result:
    return _without(_without_tags(result), _UNKNOWN_AFTER_ILLEGAL)


def device_shareability(d: Difference) -> bool:
    """Nothing but PAR_EL1.SH."""
    ours, theirs = d.simulated.system[PAR], d.qemu.system[PAR]
    if _first_class(d) != "SYS" or ours & 1 or ours >> 60:
        return False
    only_sh = (ours ^ theirs) & ~(3 << 7) == 0
    return ours >> 7 & 3 == 2 and only_sh and with_system(d.simulated, PAR, theirs) == d.qemu


def own_value(d: Difference) -> bool:
    """Nothing but what MRS has read of such a register."""
    if _first_class(d) != "MRS":
        return False
    word = d.case.words[0]
    register, rt = 0x8000 | word >> 5 & 0x7FFF, word & 31
    if rt == 31 or (register not in _OWN_VALUES and register not in _ID_SPACE):
        return False
    return with_register(d.simulated, rt, d.qemu.x[rt]) == d.qemu


def trap_iss(word: int) -> int:
    """Of a trapped MRS, MSR or system instruction (Arm ARM, D24.2.39, EC 0x18)."""
    op0, op1, crn, crm, op2 = (word >> shift & mask for shift, mask in ((19, 3), (16, 7), (12, 15), (8, 15), (5, 7)))
    return op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | (word & 31) << 5 | crm << 1 | word >> 21 & 1


def id_space(d: Difference) -> bool:
    """Nothing but the exception class."""
    if d.theirs.name != "MRS" or d.theirs.word is None or d.theirs.word & _OP0_AND_CRN != 1 << 19:
        return False
    undefined = with_system(d.qemu, ESR, esr.syndrome(esr.EC.UNKNOWN))
    return d.theirs.syndrome == esr.syndrome(esr.EC.SYSREG, trap_iss(d.theirs.word)) and undefined == d.simulated


def _without(result: Result, bits: int) -> Result:
    """The result without these bits of PSTATE, wherever it was saved."""
    changed = with_system(result, SPSR, result.system[SPSR] & ~bits) if result.system else result
    return changed._replace(pstate=changed.pstate & ~bits)


def _without_tags(result: Result) -> Result:
    """Addresses without their top byte."""
    low = M64 >> 8
    for index in (ELR, FAR):
        result = with_system(result, index, result.system[index] & low)
    return result._replace(pc=result.pc & low, far_el2=result.far_el2 & low)
