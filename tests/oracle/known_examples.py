# SPDX-License-Identifier: GPL-2.0-only
"""Of each rule of `known` a case, and what QEMU makes of it, which is put together from simulated results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.descriptors import MAIR_EL1
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.compare import Pair
from tests.oracle.difference import ESR, FAR, NOP, PAR, SPSR, UDF, with_register, with_system
from tests.oracle.granules import GRANULE_64K
from tests.oracle.rules_translation import blocks_everywhere
from tests.oracle.strata import NEOVERSE
from tests.oracle.surroundings import M64

SCTLR: Final = 0x3050_0800
_EL1H: Final = pstate.EL1H | pstate.DAIF
_ADDRESS, VALUE, RESULT, BYSTANDER = 2, 4, 0, 7
"""Registers: of an address, of what is stored, of what is loaded, and one that no instruction here has."""
PAIR: Final = Pair([], NEOVERSE)


def case_of(
    *words: int, address: int = at.DATA, sctlr: int = 0, mode: int = _EL1H, pc: int = at.CODE, spsr: int = 0
) -> Case:
    """These instructions at EL1 or where ``mode`` says, the MMU off."""
    system = dict.fromkeys(at.SYSTEM, 0) | {"sctlr_el1": SCTLR | sctlr, "vbar_el1": at.VECTORS, "mair_el1": MAIR_EL1}
    system |= {"elr_el1": at.CODE + 0x100, "spsr_el1": spsr}
    x = [0x1000 + number for number in range(31)]
    x[_ADDRESS] = address
    return Case("test", list(words), x, at.DATA, at.DATA, mode, pc, at.CODE, system)


def simulate(case: Case, *words: int) -> Result:
    """The simulated result, of other instructions if there are any."""
    return PAIR.simulate(replace(case, words=list(words)) if words else case)


def _system(operands: str, *, rt: int = _ADDRESS) -> int:
    op1, crn, crm, op2 = map(int, operands.split())
    return encode("SYS", op1=op1, CRn=crn, CRm=crm, op2=op2, Rt=rt)


_STXR: Final = encode("EXCLUSIVE", size=3, L=0, Rs=3, o0=0, Rn=_ADDRESS, Rt=VALUE)
_MOV_STATUS_1: Final = encode("MOVE_WIDE", sf=0, opc=2, hw=0, imm16=1, Rd=3)
_LDR: Final = encode("LDST_UIMM", size=3, opc=1, imm12=0, Rn=_ADDRESS, Rt=RESULT)
_STR: Final = encode("LDST_UIMM", size=3, opc=0, imm12=0, Rn=_ADDRESS, Rt=VALUE)
LDR_SP: Final = encode("LDST_UIMM", size=3, opc=1, imm12=0, Rn=31, Rt=RESULT)
_LDAPR: Final = encode("LDAPR", size=3, Rn=_ADDRESS, Rt=RESULT)
_LDLAR: Final = encode("ORDERED", size=3, L=1, o0=0, Rn=_ADDRESS, Rt=RESULT)
_STLUR: Final = encode("LDAPR_UNSCALED", size=3, opc=0, imm9=0, Rn=_ADDRESS, Rt=VALUE)
_LDP_ONE: Final = encode("LDST_PAIR", opc=2, mode=2, L=1, imm7=0, Rt2=RESULT, Rn=_ADDRESS, Rt=RESULT)
_LDXRH: Final = encode("EXCLUSIVE", size=1, L=1, Rs=31, o0=0, Rn=_ADDRESS, Rt=RESULT)
_STXRB: Final = encode("EXCLUSIVE", size=0, L=0, Rs=3, o0=0, Rn=_ADDRESS, Rt=VALUE)
_STRB: Final = encode("LDST_UIMM", size=0, opc=0, imm12=0, Rn=_ADDRESS, Rt=VALUE)
_WFE: Final = encode("HINT", CRm=0, op2=2)
_ERET: Final = encode("ERET")
_DAIFSET: Final = encode("MSR_IMM", op1=3, CRm=15, op2=6)
_MRS_MIDR: Final = encode("MRS", sysreg=0x4000, Rt=RESULT)
_MRS_ID_SPACE: Final = encode("MRS", sysreg=0x4007, Rt=RESULT)
_MRS_DEBUG: Final = encode("MRS", sysreg=0x0004, Rt=RESULT)
_MRS_TIMER: Final = encode("MRS", sysreg=0x5F19, Rt=RESULT)
_TIMER_TRAP: Final = esr.syndrome(esr.EC.SYSREG, 3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | RESULT << 5 | 3 << 1 | 1)
_CFINV: Final = 0xD500_401F
_FMAXNMV: Final = 0x0E70_C800
_DC_CVAC, _DC_CVAP, _AT = _system("3 7 10 1"), _system("3 7 12 1"), _system("0 7 8 0")
_AT_WITH_PAN: Final = _system("0 7 9 0")
_UPPER: Final = 0xFFFF << 48


def _as_stage2_abort(case: Case, simulated: Result, exception_class: int, far: int) -> Result:
    """As if the first instruction had been stopped by a fault of stage 2."""
    case_system = tuple(case.system[name] for name in at.SYSTEM)
    syndrome = esr.syndrome(exception_class, esr.FSC_TRANSLATION + 3)
    return simulated._replace(pstate=case.pstate, pc=case.pc, esr_el2=syndrome, far_el2=far, system=case_system)


def _sp_case() -> tuple[Case, Result]:
    case = case_of(LDR_SP, sctlr=state.SCTLR_SA)
    case.sp_el1 += 8
    unchecked = case_of(LDR_SP)
    unchecked.sp_el1 += 8
    result = simulate(unchecked)
    return case, with_system(result, at.SYSTEM.index("sctlr_el1"), case.system["sctlr_el1"])


def _executed(case: Case, *words: int) -> tuple[Case, Result]:
    return case, simulate(case, *words)


def _status(case: Case, index: int, change: Callable[[int], int]) -> tuple[Case, Result]:
    """QEMU has another value in a system register."""
    result = simulate(case)
    return case, with_system(result, index, change(result.system[index]))


def _two_pages() -> tuple[Case, Result]:
    case = case_of(_LDR, address=at.BROKEN + at.PAGE - 4)
    return case, _as_stage2_abort(case, simulate(case), esr.EC.DABT_LOWER, at.BROKEN + at.PAGE)


def _pc_to_stage2() -> tuple[Case, Result]:
    case = case_of(NOP, pc=at.HOLE + 2)
    return case, _as_stage2_abort(case, simulate(case), esr.EC.IABT_LOWER, at.HOLE + 2)


def _half_a_store() -> tuple[Case, Result]:
    case = case_of(_STR, address=at.DATA_END - 4)
    return case, simulate(case)._replace(changes=((at.DATA_END - 8, 0x1004),))


def _two_sizes() -> tuple[Case, Result]:
    case = case_of(_LDXRH, _STXRB)
    return case, with_register(simulate(case, _LDXRH, _STRB), 3, 1)


def _ldlar() -> tuple[Case, Result]:
    case = case_of(_LDLAR, address=at.HOLE)
    result = simulate(case)
    return case, result._replace(esr_el2=result.esr_el2 & ~esr.AR)


def _loaded(case: Case, value: int, *words: int) -> tuple[Case, Result]:
    return case, with_register(simulate(case, *words), RESULT, value)


def _trapped(case: Case, syndrome: int) -> tuple[Case, Result]:
    return case, with_system(simulate(case, UDF), ESR, syndrome)


def _line_not_mapped() -> tuple[Case, Result]:
    case = case_of(_DC_CVAP, address=at.HOLE + 8)
    result = simulate(case, _DC_CVAC)
    return case, result._replace(esr_el2=result.esr_el2 & ~(esr.CM | esr.WNR), far_el2=at.HOLE)


def _forbidden_by_pan() -> tuple[Case, Result]:
    case = case_of(_AT_WITH_PAN)
    return case, with_system(simulate(case, _AT), PAR, 1 << 11 | (esr.FSC_PERMISSION + 3) << 1 | 1)


def _flags(case: Case, flags: int) -> tuple[Case, Result]:
    """Of N, Z, C, V, which are clear before, those that are set then."""
    result = simulate(case, NOP)
    return case, with_system(result, SPSR, result.system[SPSR] | flags)


_BLOCK: Final = at.GUEST + (1 << 42)
"""A block at level 1 with 64 KiB, where there are none."""


def _translated(word: int, address: int) -> Case:
    """With 64 KiB, and no table of the upper half that stage 2 has."""
    case = case_of(word, address=address)
    tcr = 16 | 16 << 16 | GRANULE_64K.tg0[0] << 14 | GRANULE_64K.tg1[0] << 30 | 5 << 32
    system = {"tcr_el1": tcr, "ttbr0_el1": GRANULE_64K.root(1), "ttbr1_el1": 1 << 41}
    case.system = {**case.system, **system, "sctlr_el1": SCTLR | state.SCTLR_M}
    return case


def _reserved_block(word: int) -> tuple[Case, Result]:
    case = _translated(word, _BLOCK)
    with blocks_everywhere():
        return case, simulate(replace(case, forget=True))


def _walk_level() -> tuple[Case, Result]:
    case = _translated(_LDR, at.DATA | _UPPER)
    result = simulate(case)
    return case, result._replace(esr_el2=result.esr_el2 ^ 1)


class Example(NamedTuple):
    """Of a rule: a case, and what QEMU makes of it."""

    name: str
    make: Callable[[], tuple[Case, Result]]


_FP_TRAP: Final = esr.syndrome(esr.EC.FP_ASIMD, 1 << 24 | 0xE << 20)
_ID_TRAP: Final = esr.syndrome(esr.EC.SYSREG, 3 << 20 | 7 << 17 | RESULT << 5 | 1)
EXAMPLES: Final = (
    Example("in QEMU only", lambda: _loaded(case_of(_MRS_DEBUG), 5, NOP)),
    Example("in QEMU only", lambda: _trapped(case_of(_FMAXNMV), _FP_TRAP)),
    Example("in QEMU only", lambda: _executed(case_of(_DC_CVAP), NOP)),
    Example("in QEMU only", _line_not_mapped),
    Example("in QEMU only", lambda: _executed(case_of(_AT_WITH_PAN), _AT)),
    Example("in QEMU only", _forbidden_by_pan),
    Example("in QEMU only", lambda: _flags(case_of(_CFINV), 1 << 29)),
    Example("in QEMU only", lambda: _flags(case_of(_CFINV | 1 << 5), 1 << 31)),
    Example("in QEMU only", lambda: _trapped(case_of(_MRS_TIMER, mode=pstate.EL0T), _TIMER_TRAP)),
    Example("in the model only", lambda: _executed(case_of(_STLUR), UDF)),
    Example(
        "store-exclusive that fails and would abort", lambda: _executed(case_of(_STXR, address=at.HOLE), _MOV_STATUS_1)
    ),
    Example(
        "store-exclusive to the last address", lambda: _status(case_of(_STXR, address=M64), ESR, lambda v: v & ~esr.WNR)
    ),
    Example("SP alignment", _sp_case),
    Example("LDAPR, LDAPUR, STLUR alignment", lambda: _executed(case_of(_LDAPR, address=at.DATA + 1), _LDR)),
    Example("WFE trapped", lambda: _executed(case_of(_WFE, mode=pstate.EL0T), NOP)),
    Example("misaligned PC that cannot be fetched from", _pc_to_stage2),
    Example(
        "misaligned PC that cannot be fetched from",
        lambda: _status(case_of(NOP, pc=at.CODE + 2), ESR, lambda _: esr.syndrome(esr.EC.IABT_CURRENT, 4)),
    ),
    Example(
        "syndrome of a trapped MSR DAIFSet, DAIFClr",
        lambda: _status(case_of(_DAIFSET, mode=0), ESR, lambda v: v & ~(0x3F << 14) | 3 << 17 | 6 << 14),
    ),
    Example("illegal exception return", lambda: _status(case_of(_ERET, spsr=0x1F), SPSR, lambda v: v ^ pstate.SSBS)),
    Example("AR of LDLAR and STLLR", _ldlar),
    Example("cache maintenance that aborts", lambda: _executed(case_of(_DC_CVAC, address=at.HOLE), NOP)),
    Example("PAR_EL1.SH of Device memory", lambda: _status(case_of(_AT), PAR, lambda v: v | 3 << 7)),
    Example("FAR of an external abort", lambda: _status(case_of(_LDR, address=at.BROKEN + 1), FAR, lambda v: v - 1)),
    Example("access to two pages that both fail", _two_pages),
    Example("half of a store", _half_a_store),
    Example("block at a level that has none", lambda: _reserved_block(_LDR)),
    Example("block at a level that has none", lambda: _reserved_block(_AT)),
    Example("level of a stage-2 fault in a walk", _walk_level),
    Example("registers with a value of their own", lambda: _loaded(case_of(_MRS_MIDR), 5)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _loaded(case_of(_LDP_ONE), 5)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _executed(case_of(_LDP_ONE), UDF)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _executed(case_of(_LDAPR & ~(1 << 16)), UDF)),
    Example("exclusives of two sizes", _two_sizes),
    Example("FEAT_IDST", lambda: _trapped(case_of(_MRS_ID_SPACE, mode=0), _ID_TRAP)),
)
