# SPDX-License-Identifier: GPL-2.0-only
"""What explains a difference of the MMU, and what does not."""

from __future__ import annotations

import pytest

from pytest_kvm_sea.arm64.encodings import encode
from tests.oracle import layout as at
from tests.oracle import strata
from tests.oracle.case import Case, Result
from tests.oracle.known import known
from tests.oracle.known_translation import reserved_block, walk_level, with_walk_level

TCR_64K, TCR_4K = 16 | 16 << 16 | 1 << 14 | 3 << 30, 16 | 16 << 16 | 2 << 30
BLOCK = at.GUEST + (1 << 42)
"""At level 1 with 64 KiB, where there are none."""
S1PTW = 0x9200_0080
AT_S1E1R = encode("SYS", op1=0, CRn=7, CRm=8, op2=0, Rt=3)
NOP = encode("HINT", CRm=0, op2=0)


def _result(*, esr_el2: int = 0, ipa: int = 0, **system: int) -> Result:
    values = tuple(system.get(name, 0) for name in at.SYSTEM)
    return Result((0,) * 31, 0, 0, 0, 0, esr_el2, 0, ipa >> 12 << 4, values, ())


def _case(*words: int) -> Case:
    case = strata.make("cases", 1, 1)
    case.words = list(words)
    case.x[3] = BLOCK
    return case


@pytest.mark.parametrize(
    ("tcr", "esr", "far", "explained"),
    [
        (TCR_64K, 0x9600_0005, BLOCK, True),
        (TCR_64K, 0x8200_0005, BLOCK, True),
        (TCR_64K, 0x9600_0006, BLOCK, False),
        (TCR_64K, 0x9600_000D, BLOCK, False),
        (TCR_64K, 0x5600_0005, BLOCK, False),
        (TCR_64K, 0x9600_0005, at.GUEST, False),
        (TCR_64K | 22, 0x9600_0005, BLOCK, False),
        (TCR_4K, 0x9600_0005, BLOCK, False),
    ],
)
def test_a_translation_fault_at_a_block_that_its_level_does_not_have(
    tcr: int, esr: int, far: int, explained: bool
) -> None:
    ours = _result(tcr_el1=tcr, esr_el1=esr, far_el1=far)
    assert reserved_block(_case(NOP), _result(), ours) == explained


@pytest.mark.parametrize(
    ("word", "par", "explained"),
    [(AT_S1E1R, 5 << 1 | 1, True), (AT_S1E1R, 6 << 1 | 1, False), (AT_S1E1R, 5 << 1, False), (NOP, 5 << 1 | 1, False)],
)
def test_the_same_in_par_el1(word: int, par: int, explained: bool) -> None:
    assert reserved_block(_case(word), _result(), _result(tcr_el1=TCR_64K, par_el1=par)) == explained


def test_the_level_of_a_stage_2_fault_in_a_walk() -> None:
    ours = _result(esr_el2=S1PTW | 7, ipa=at.NO_TABLE)
    assert walk_level(_case(NOP), _result(esr_el2=S1PTW | 5, ipa=at.NO_TABLE), ours)
    assert not walk_level(_case(NOP), _result(esr_el2=S1PTW | 9, ipa=at.NO_TABLE), ours)
    assert not walk_level(_case(NOP), _result(esr_el2=S1PTW & ~0x80 | 5, ipa=at.NO_TABLE), ours)
    wrong = _result(esr_el2=S1PTW | 5, ipa=at.NO_TABLE)
    assert not walk_level(_case(NOP), ours, wrong), "the level that the model has must be right"


def test_it_may_come_with_another_difference() -> None:
    theirs, ours = _result(esr_el2=S1PTW | 5, ipa=at.NO_TABLE), _result(esr_el2=S1PTW | 7, ipa=at.NO_TABLE)
    theirs = theirs._replace(changes=((at.DATA, 1),))
    assert with_walk_level(theirs, ours).esr_el2 == ours.esr_el2
    case = _case(encode("LDST_UIMM", size=3, opc=0, imm12=0, Rn=0, Rt=1))
    ours, theirs = (each._replace(pc=case.pc) for each in (ours, theirs))
    explanation = known(case, theirs, ours)
    assert explanation is not None
    assert explanation.name == "half of a store"
