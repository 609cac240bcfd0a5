# SPDX-License-Identifier: GPL-2.0-only
"""The rules of `known`: each explains what it is for, and nothing that differs in anything else besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.difference import ELR, ESR, FAR, NOP, PAR, SPSR, Difference, normal, with_register, with_system
from tests.oracle.known import KNOWN, known
from tests.oracle.known_examples import (
    BYSTANDER,
    EXAMPLES,
    LDR_SP,
    PAIR,
    RESULT,
    SCTLR,
    VALUE,
    Example,
    case_of,
    simulate,
)


def _explain(case: Case, qemu: Result, simulated: Result) -> str:
    found = known(Difference(case, normal(qemu), simulated, PAIR.simulate))
    return "" if found is None else found.known.name


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
def test_a_rule_explains_what_it_is_for(example: Example) -> None:
    case, qemu = example.make()
    simulated = simulate(case)
    assert qemu != simulated
    assert _explain(case, qemu, simulated) == example.name


def test_every_rule_has_an_example() -> None:
    assert {each.name for each in KNOWN} == {each.name for each in EXAMPLES}


def test_a_check_that_the_case_switches_on_is_not_explained() -> None:
    case = case_of(encode("MSR", sysreg=0x4080, Rt=VALUE), LDR_SP)
    case.x[VALUE] = SCTLR | state.SCTLR_SA
    case.sp_el1 += 8
    simulated = simulate(case)
    assert esr.ec(simulated.system[ESR]) == esr.EC.SP_ALIGNMENT
    assert _explain(case, simulate(case, case.words[0], NOP), simulated) == ""


def _saved_state(result: Result) -> Result:
    """Another mode that the exception came from."""
    if esr.ec(result.esr_el2) == esr.EC.HVC64:
        return with_system(result, SPSR, result.system[SPSR] ^ 1 << 3)
    return result._replace(pstate=result.pstate ^ 1 << 3)


_FORGERIES: Final[dict[str, Callable[[Result], Result]]] = {
    "another register": lambda result: with_register(result, BYSTANDER, 0xBAD),
    "SP_EL0": lambda result: result._replace(sp_el0=0xBAD),
    "SP_EL1": lambda result: result._replace(sp_el1=result.sp_el1 + 16),
    "where it came from": _saved_state,
    "memory elsewhere": lambda result: result._replace(changes=(*result.changes, (at.DATA + 0x800, 0xBAD))),
    "where it ended": lambda result: result._replace(pc=result.pc + 0x80),
    "another cause": lambda result: result._replace(esr_el2=result.esr_el2 ^ 1 << 26),
    "ELR_EL1": lambda result: with_system(result, ELR, result.system[ELR] ^ 0x10),
}


@pytest.mark.parametrize("forgery", _FORGERIES)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
def test_nothing_else_is_excused(example: Example, forgery: str) -> None:
    case, qemu = example.make()
    assert _explain(case, _FORGERIES[forgery](qemu), simulate(case)) == ""


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
        ("in QEMU only", lambda r: with_register(r, BYSTANDER, 0xBAD)),
    ],
)
def test_what_the_simulated_one_did_is_looked_at(name: str, forge: Callable[[Result], Result]) -> None:
    for example in EXAMPLES:
        if example.name == name:
            case, qemu = example.make()
            assert _explain(case, qemu, forge(simulate(case))) == ""


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        # What a rule allows in one place it does not allow in the next
        ("in QEMU only", lambda r: with_system(r, PAR, 0xBAD0)),
        ("in QEMU only", lambda r: with_system(r, ESR, r.system[ESR] ^ 1 << 14)),
        ("in QEMU only", lambda r: r._replace(far_el2=r.far_el2 + 64)),
        ("in the model only", lambda r: r._replace(changes=((at.DATA, 0x1004),))),
        ("store-exclusive that fails and would abort", lambda r: with_register(r, 3, 0)),
        ("SP alignment", lambda r: with_register(r, RESULT, 0xBAD)),
        ("LDAPR, LDAPUR, STLUR alignment", lambda r: with_register(r, RESULT, 0xBAD)),
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
    for example in EXAMPLES:
        if example.name == name:
            case, qemu = example.make()
            assert _explain(case, forge(qemu), simulate(case)) == ""
