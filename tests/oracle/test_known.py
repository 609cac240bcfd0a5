# SPDX-License-Identifier: GPL-2.0-only
"""The rules of `known`: each explains what it is for, and nothing that differs in anything else besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.descriptors import MAIR_EL1
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.compare import Pair
from tests.oracle.difference import ELR, ESR, FAR, NOP, PAR, SPSR, UDF, Difference, normal, with_register, with_system
from tests.oracle.known import KNOWN, known
from tests.oracle.strata import NEOVERSE
from tests.oracle.surroundings import M64

_SCTLR: Final = 0x3050_0800
_EL1H: Final = pstate.EL1H | pstate.DAIF
_ADDRESS, _VALUE, _RESULT, _BYSTANDER = 2, 4, 0, 7
"""Registers: of an address, of what is stored, of what is loaded, and one that no instruction here has."""
_PAIR: Final = Pair([], NEOVERSE)


def _case(
    *words: int, address: int = at.DATA, sctlr: int = 0, mode: int = _EL1H, pc: int = at.CODE, spsr: int = 0
) -> Case:
    system = dict.fromkeys(at.SYSTEM, 0) | {"sctlr_el1": _SCTLR | sctlr, "vbar_el1": at.VECTORS, "mair_el1": MAIR_EL1}
    system |= {"elr_el1": at.CODE + 0x100, "spsr_el1": spsr}
    x = [0x1000 + number for number in range(31)]
    x[_ADDRESS] = address
    return Case("test", list(words), x, at.DATA, at.DATA, mode, pc, at.CODE, system)


def _simulate(case: Case, *words: int) -> Result:
    """The simulated result, of other instructions if there are any."""
    return _PAIR.simulate(case if not words else _with_words(case, words))


def _with_words(case: Case, words: tuple[int, ...]) -> Case:
    return Case(**{name: getattr(case, name) for name in Case.__slots__} | {"words": list(words)})


def _system(operands: str, *, rt: int = _ADDRESS) -> int:
    op1, crn, crm, op2 = map(int, operands.split())
    return encode("SYS", op1=op1, CRn=crn, CRm=crm, op2=op2, Rt=rt)


_STXR: Final = encode("EXCLUSIVE", size=3, L=0, Rs=3, o0=0, Rn=_ADDRESS, Rt=_VALUE)
_MOV_STATUS_1: Final = encode("MOVE_WIDE", sf=0, opc=2, hw=0, imm16=1, Rd=3)
_LDR: Final = encode("LDST_UIMM", size=3, opc=1, imm12=0, Rn=_ADDRESS, Rt=_RESULT)
_STR: Final = encode("LDST_UIMM", size=3, opc=0, imm12=0, Rn=_ADDRESS, Rt=_VALUE)
_LDR_SP: Final = encode("LDST_UIMM", size=3, opc=1, imm12=0, Rn=31, Rt=_RESULT)
_LDAPR: Final = encode("LDAPR", size=3, Rn=_ADDRESS, Rt=_RESULT)
_LDLAR: Final = encode("ORDERED", size=3, L=1, o0=0, Rn=_ADDRESS, Rt=_RESULT)
_STLUR: Final = encode("LDAPR_UNSCALED", size=3, opc=0, imm9=0, Rn=_ADDRESS, Rt=_VALUE)
_LDP_ONE: Final = encode("LDST_PAIR", opc=2, mode=2, L=1, imm7=0, Rt2=_RESULT, Rn=_ADDRESS, Rt=_RESULT)
_LDXRH: Final = encode("EXCLUSIVE", size=1, L=1, Rs=31, o0=0, Rn=_ADDRESS, Rt=_RESULT)
_STXRB: Final = encode("EXCLUSIVE", size=0, L=0, Rs=3, o0=0, Rn=_ADDRESS, Rt=_VALUE)
_STRB: Final = encode("LDST_UIMM", size=0, opc=0, imm12=0, Rn=_ADDRESS, Rt=_VALUE)
_WFE: Final = encode("HINT", CRm=0, op2=2)
_ERET: Final = encode("ERET")
_DAIFSET: Final = encode("MSR_IMM", op1=3, CRm=15, op2=6)
_MRS_MIDR: Final = encode("MRS", sysreg=0x4000, Rt=_RESULT)
_MRS_ID_SPACE: Final = encode("MRS", sysreg=0x4007, Rt=_RESULT)
_MRS_DEBUG: Final = encode("MRS", sysreg=0x0004, Rt=_RESULT)
_MRS_TIMER: Final = encode("MRS", sysreg=0x5F19, Rt=_RESULT)
_TIMER_TRAP: Final = esr.syndrome(esr.EC.SYSREG, 3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | _RESULT << 5 | 3 << 1 | 1)
_CFINV: Final = 0xD500_401F
_FMAXNMV: Final = 0x0E70_C800
_DC_CVAC, _DC_CVAP, _AT = _system("3 7 10 1"), _system("3 7 12 1"), _system("0 7 8 0")
_AT_WITH_PAN: Final = _system("0 7 9 0")


def _as_stage2_abort(case: Case, simulated: Result, exception_class: int, far: int) -> Result:
    """As if the first instruction had been stopped by a fault of stage 2."""
    case_system = tuple(case.system[name] for name in at.SYSTEM)
    syndrome = esr.syndrome(exception_class, esr.FSC_TRANSLATION + 3)
    return simulated._replace(pstate=case.pstate, pc=case.pc, esr_el2=syndrome, far_el2=far, system=case_system)


def _sp_case() -> tuple[Case, Result]:
    case = _case(_LDR_SP, sctlr=state.SCTLR_SA)
    case.sp_el1 += 8
    unchecked = _case(_LDR_SP)
    unchecked.sp_el1 += 8
    result = _simulate(unchecked)
    return case, with_system(result, at.SYSTEM.index("sctlr_el1"), case.system["sctlr_el1"])


def _executed(case: Case, *words: int) -> tuple[Case, Result]:
    return case, _simulate(case, *words)


def _status(case: Case, index: int, change: Callable[[int], int]) -> tuple[Case, Result]:
    """QEMU has another value in a system register."""
    result = _simulate(case)
    return case, with_system(result, index, change(result.system[index]))


def _two_pages() -> tuple[Case, Result]:
    case = _case(_LDR, address=at.BROKEN + at.PAGE - 4)
    return case, _as_stage2_abort(case, _simulate(case), esr.EC.DABT_LOWER, at.BROKEN + at.PAGE)


def _pc_to_stage2() -> tuple[Case, Result]:
    case = _case(NOP, pc=at.HOLE + 2)
    return case, _as_stage2_abort(case, _simulate(case), esr.EC.IABT_LOWER, at.HOLE + 2)


def _half_a_store() -> tuple[Case, Result]:
    case = _case(_STR, address=at.DATA_END - 4)
    return case, _simulate(case)._replace(changes=((at.DATA_END - 8, 0x1004),))


def _two_sizes() -> tuple[Case, Result]:
    case = _case(_LDXRH, _STXRB)
    return case, with_register(_simulate(case, _LDXRH, _STRB), 3, 1)


def _ldlar() -> tuple[Case, Result]:
    case = _case(_LDLAR, address=at.HOLE)
    result = _simulate(case)
    return case, result._replace(esr_el2=result.esr_el2 & ~esr.AR)


def _loaded(case: Case, value: int, *words: int) -> tuple[Case, Result]:
    return case, with_register(_simulate(case, *words), _RESULT, value)


def _trapped(case: Case, syndrome: int) -> tuple[Case, Result]:
    return case, with_system(_simulate(case, UDF), ESR, syndrome)


def _line_not_mapped() -> tuple[Case, Result]:
    case = _case(_DC_CVAP, address=at.HOLE + 8)
    result = _simulate(case, _DC_CVAC)
    return case, result._replace(esr_el2=result.esr_el2 & ~(esr.CM | esr.WNR), far_el2=at.HOLE)


def _forbidden_by_pan() -> tuple[Case, Result]:
    case = _case(_AT_WITH_PAN)
    return case, with_system(_simulate(case, _AT), PAR, 1 << 11 | (esr.FSC_PERMISSION + 3) << 1 | 1)


def _flags(case: Case, flags: int) -> tuple[Case, Result]:
    """Of N, Z, C, V, which are clear before, those that are set then."""
    result = _simulate(case, NOP)
    return case, with_system(result, SPSR, result.system[SPSR] | flags)


class Example(NamedTuple):
    """Of a rule: a case, and what QEMU makes of it."""

    name: str
    make: Callable[[], tuple[Case, Result]]


_FP_TRAP: Final = esr.syndrome(esr.EC.FP_ASIMD, 1 << 24 | 0xE << 20)
_ID_TRAP: Final = esr.syndrome(esr.EC.SYSREG, 3 << 20 | 7 << 17 | _RESULT << 5 | 1)
_EXAMPLES: Final = (
    Example("in QEMU only", lambda: _loaded(_case(_MRS_DEBUG), 5, NOP)),
    Example("in QEMU only", lambda: _trapped(_case(_FMAXNMV), _FP_TRAP)),
    Example("in QEMU only", lambda: _executed(_case(_DC_CVAP), NOP)),
    Example("in QEMU only", _line_not_mapped),
    Example("in QEMU only", lambda: _executed(_case(_AT_WITH_PAN), _AT)),
    Example("in QEMU only", _forbidden_by_pan),
    Example("in QEMU only", lambda: _flags(_case(_CFINV), 1 << 29)),
    Example("in QEMU only", lambda: _flags(_case(_CFINV | 1 << 5), 1 << 31)),
    Example("in QEMU only", lambda: _trapped(_case(_MRS_TIMER, mode=pstate.EL0T), _TIMER_TRAP)),
    Example("in the model only", lambda: _executed(_case(_STLUR), UDF)),
    Example(
        "store-exclusive that fails and would abort", lambda: _executed(_case(_STXR, address=at.HOLE), _MOV_STATUS_1)
    ),
    Example(
        "store-exclusive to the last address", lambda: _status(_case(_STXR, address=M64), ESR, lambda v: v & ~esr.WNR)
    ),
    Example("SP alignment", _sp_case),
    Example("LDAPR, LDAPUR, STLUR alignment", lambda: _executed(_case(_LDAPR, address=at.DATA + 1), _LDR)),
    Example("WFE trapped", lambda: _executed(_case(_WFE, mode=pstate.EL0T), NOP)),
    Example("misaligned PC that cannot be fetched from", _pc_to_stage2),
    Example(
        "misaligned PC that cannot be fetched from",
        lambda: _status(_case(NOP, pc=at.CODE + 2), ESR, lambda _: esr.syndrome(esr.EC.IABT_CURRENT, 4)),
    ),
    Example(
        "syndrome of a trapped MSR DAIFSet, DAIFClr",
        lambda: _status(_case(_DAIFSET, mode=0), ESR, lambda v: v & ~(0x3F << 14) | 3 << 17 | 6 << 14),
    ),
    Example("illegal exception return", lambda: _status(_case(_ERET, spsr=0x1F), SPSR, lambda v: v ^ pstate.SSBS)),
    Example("AR of LDLAR and STLLR", _ldlar),
    Example("cache maintenance that aborts", lambda: _executed(_case(_DC_CVAC, address=at.HOLE), NOP)),
    Example("PAR_EL1.SH of Device memory", lambda: _status(_case(_AT), PAR, lambda v: v | 3 << 7)),
    Example("FAR of an external abort", lambda: _status(_case(_LDR, address=at.BROKEN + 1), FAR, lambda v: v - 1)),
    Example("access to two pages that both fail", _two_pages),
    Example("half of a store", _half_a_store),
    Example("registers with a value of their own", lambda: _loaded(_case(_MRS_MIDR), 5)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _loaded(_case(_LDP_ONE), 5)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _executed(_case(_LDP_ONE), UDF)),
    Example("CONSTRAINED UNPREDICTABLE", lambda: _executed(_case(_LDAPR & ~(1 << 16)), UDF)),
    Example("exclusives of two sizes", _two_sizes),
    Example("FEAT_IDST", lambda: _trapped(_case(_MRS_ID_SPACE, mode=0), _ID_TRAP)),
)


def _explain(case: Case, qemu: Result, simulated: Result) -> str:
    found = known(Difference(case, normal(qemu), simulated, _PAIR.simulate))
    return "" if found is None else found.known.name


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda each: each.name)
def test_a_rule_explains_what_it_is_for(example: Example) -> None:
    case, qemu = example.make()
    simulated = _simulate(case)
    assert qemu != simulated
    assert _explain(case, qemu, simulated) == example.name


def test_every_rule_has_an_example() -> None:
    assert {each.name for each in KNOWN} == {each.name for each in _EXAMPLES}


def _saved_state(result: Result) -> Result:
    """Another mode that the exception came from."""
    if esr.ec(result.esr_el2) == esr.EC.HVC64:
        return with_system(result, SPSR, result.system[SPSR] ^ 1 << 3)
    return result._replace(pstate=result.pstate ^ 1 << 3)


_FORGERIES: Final[dict[str, Callable[[Result], Result]]] = {
    "another register": lambda result: with_register(result, _BYSTANDER, 0xBAD),
    "SP_EL0": lambda result: result._replace(sp_el0=0xBAD),
    "SP_EL1": lambda result: result._replace(sp_el1=result.sp_el1 + 16),
    "where it came from": _saved_state,
    "memory elsewhere": lambda result: result._replace(changes=(*result.changes, (at.DATA + 0x800, 0xBAD))),
    "where it ended": lambda result: result._replace(pc=result.pc + 0x80),
    "another cause": lambda result: result._replace(esr_el2=result.esr_el2 ^ 1 << 26),
    "ELR_EL1": lambda result: with_system(result, ELR, result.system[ELR] ^ 0x10),
}


@pytest.mark.parametrize("forgery", _FORGERIES)
@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda each: each.name)
def test_nothing_else_is_excused(example: Example, forgery: str) -> None:
    case, qemu = example.make()
    assert _explain(case, _FORGERIES[forgery](qemu), _simulate(case)) == ""


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        ("store-exclusive that fails and would abort", lambda r: r._replace(far_el2=r.far_el2 + 8)),
        ("store-exclusive that fails and would abort", lambda r: r._replace(esr_el2=r.esr_el2 & ~esr.WNR)),
        ("cache maintenance that aborts", lambda r: r._replace(far_el2=r.far_el2 + 8)),
        ("cache maintenance that aborts", lambda r: r._replace(esr_el2=r.esr_el2 & ~esr.CM)),
        ("LDAPR, LDAPUR, STLUR alignment", lambda r: with_system(r, ESR, r.system[ESR] & ~0x3F | esr.FSC_TRANSLATION)),
        ("WFE trapped", lambda r: with_system(r, ESR, r.system[ESR] & ~1)),
        ("access to two pages that both fail", lambda r: with_system(r, FAR, r.system[FAR] + at.PAGE)),
        ("misaligned PC that cannot be fetched from", lambda r: with_system(r, FAR, r.system[FAR] + 4)),
        ("in QEMU only", lambda r: with_register(r, _BYSTANDER, 0xBAD)),
    ],
)
def test_what_the_simulated_one_did_is_looked_at(name: str, forge: Callable[[Result], Result]) -> None:
    for example in _EXAMPLES:
        if example.name == name:
            case, qemu = example.make()
            assert _explain(case, qemu, forge(_simulate(case))) == ""


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        # What a rule allows in one place it does not allow in the next
        ("in QEMU only", lambda r: with_system(r, PAR, 0xBAD0)),
        ("in QEMU only", lambda r: with_system(r, ESR, r.system[ESR] ^ 1 << 14)),
        ("in QEMU only", lambda r: r._replace(far_el2=r.far_el2 + 64)),
        ("in the model only", lambda r: r._replace(changes=((at.DATA, 0x1004),))),
        ("store-exclusive that fails and would abort", lambda r: with_register(r, 3, 0)),
        ("SP alignment", lambda r: with_register(r, _RESULT, 0xBAD)),
        ("LDAPR, LDAPUR, STLUR alignment", lambda r: with_register(r, _RESULT, 0xBAD)),
        ("FAR of an external abort", lambda r: with_system(r, FAR, r.system[FAR] - 64)),
        ("PAR_EL1.SH of Device memory", lambda r: with_system(r, PAR, r.system[PAR] ^ 1 << 9)),
        ("AR of LDLAR and STLLR", lambda r: r._replace(esr_el2=r.esr_el2 ^ esr.SF)),
        ("illegal exception return", lambda r: with_system(r, SPSR, r.system[SPSR] ^ pstate.IL)),
        ("half of a store", lambda r: r._replace(changes=((at.DATA_END - 0x88, 0x1004),))),
        ("exclusives of two sizes", lambda r: with_register(r, 3, 2)),
        ("FEAT_IDST", lambda r: with_system(r, ESR, r.system[ESR] ^ 1 << 17)),
    ],
)
def test_what_qemu_did_is_looked_at(name: str, forge: Callable[[Result], Result]) -> None:
    for example in _EXAMPLES:
        if example.name == name:
            case, qemu = example.make()
            assert _explain(case, forge(qemu), _simulate(case)) == ""
