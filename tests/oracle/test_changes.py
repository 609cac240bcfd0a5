# SPDX-License-Identifier: GPL-2.0-only
"""Cases that change tables and code do what the architecture asks for, and the processor finds all as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pytest_kvm_sea.arm64 import descriptors as d
from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.asm_control import SYSTEM_OPERATIONS
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle import layout as at
from tests.oracle import strata, tables
from tests.oracle.case import Case
from tests.oracle.code_changes import CODE_MAKERS
from tests.oracle.granules import GRANULE_4K
from tests.oracle.simulated import Simulated
from tests.oracle.table_changes import TABLE_MAKERS, may_be_cached, needs_break
from tests.oracle.translations import TRANSLATION_MAKERS

NEW = (*TABLE_MAKERS, *TRANSLATION_MAKERS, *CODE_MAKERS)
LEAF = tables.leaf(GRANULE_4K, at.DATA, tables.USER)
BLOCK = tables.leaf(GRANULE_4K, at.GUEST, tables.USER, level=2)


def _cases(stratum: str, count: int, seed: int = 7) -> Iterator[Case]:
    index = list(strata.STRATA).index(stratum)
    return (strata.make("cases", seed, index + len(strata.STRATA) * number) for number in range(count))


def _operations(case: Case) -> list[str]:
    """Names of the SYS instructions, barriers and stores of a case."""
    names = {
        ENCODINGS["SYS"].encode(op1=a, CRn=b, CRm=c, op2=e, Rt=0): n for n, (a, b, c, e) in SYSTEM_OPERATIONS.items()
    }
    found = []
    for word in case.words:
        encoding = decode(word)
        assert encoding is not None
        found.append(names[word & ~31] if encoding.name == "SYS" else encoding.name)
    return found


@pytest.mark.parametrize(
    ("descriptor", "level", "cached"),
    [
        (0, 3, False),
        (LEAF, 3, True),
        (LEAF & ~d.ACCESS_FLAG, 3, False),
        (LEAF & ~d.TABLE_OR_PAGE, 3, False),
        (BLOCK, 2, True),
        (BLOCK & ~d.ACCESS_FLAG, 2, False),
        (d.table(at.STAGE1), 2, True),
    ],
)
def test_what_a_tlb_may_hold(descriptor: int, level: int, cached: bool) -> None:
    assert may_be_cached(descriptor, level) == cached


@pytest.mark.parametrize(
    ("old", "new", "level", "broken"),
    [
        (LEAF, 0, 3, False),
        (LEAF, LEAF | tables.READ_ONLY, 3, False),
        (LEAF, LEAF + at.PAGE, 3, True),
        (LEAF, LEAF | tables.NOT_GLOBAL, 3, True),
        (LEAF & ~d.ACCESS_FLAG, LEAF + at.PAGE, 3, False),
        (BLOCK, d.table(at.STAGE1), 2, True),
        (d.table(at.STAGE1), BLOCK, 2, True),
    ],
)
def test_what_has_to_be_invalid_before_it_changes(old: int, new: int, level: int, broken: bool) -> None:
    assert needs_break(old, new, level) == broken


def test_an_entry_that_may_be_cached_changes_with_maintenance() -> None:
    seen = set()
    for case in _cases("tables 0", 200):
        names = _operations(case)
        seen |= set(names)
        assert case.forget
        for number, name in enumerate(names):
            if name.startswith("tlbi"):
                assert names[number - 1] == names[number + 1] == "DSB"
    assert {"tlbi vae1", "tlbi vaae1is", "tlbi vale1", "tlbi vaale1is", "tlbi vmalle1", "tlbi aside1"} <= seen


def test_new_instructions_are_cleaned_invalidated_and_synchronized() -> None:
    for stratum in CODE_MAKERS:
        for case in _cases(stratum, 20):
            names = _operations(case)
            first = next(number for number, name in enumerate(names) if name.startswith("dc"))
            assert names[first + 1 : first + 5 : 2] == ["DSB", "DSB"]
            assert names[first + 2].startswith("ic")
            assert names[first + 4] == "ISB"


def test_code_that_was_called_cannot_be_any_more() -> None:
    """In most of these cases: they end with an abort of the second call, whose place a RET was."""
    processor = Simulated(strata.NEOVERSE.features)
    system = [processor.run(case).system for case in _cases("tables fetch", 60)]
    far, esr_el1 = at.SYSTEM.index("far_el1"), at.SYSTEM.index("esr_el1")
    assert sum(each[far] & 0xFFF == 0x40 and esr.ec(each[esr_el1]) in {0x20, 0x21} for each in system) > 20


@pytest.mark.parametrize("stratum", NEW)
def test_everything_is_put_back(stratum: str) -> None:
    """The same cases in another order, and each after itself, have the same results."""
    cases = list(_cases(stratum, 12))
    shared = Simulated(strata.NEOVERSE.features)
    results = [shared.run(case) for case in cases]
    assert [shared.run(case) for case in reversed(cases)] == results[::-1]
    assert [Simulated(strata.NEOVERSE.features).run(case) for case in cases] == results
    assert not any(result.trouble for result in results)


@pytest.mark.parametrize("stratum", NEW)
def test_no_memory_stays_changed(stratum: str) -> None:
    """Wherever a case writes: all that the next one can see is as it was."""
    processor = Simulated(strata.NEOVERSE.features)
    before = processor.memory()
    for case in _cases(stratum, 60):
        processor.run(case)
        assert processor.memory() == before, case.index


def test_code_is_changed_for_good_reason() -> None:
    """Without the store most of these cases end otherwise: the new instruction is what is executed."""
    processor = Simulated(strata.NEOVERSE.features)
    differ = 0
    for case in _cases("code loop", 40):
        before = processor.run(case)
        store = next(word for word in case.words if (each := decode(word)) is not None and each.name == "LDST_UIMM")
        case.words[case.words.index(store)] = ENCODINGS["HINT"].encode(CRm=0, op2=0)
        differ += processor.run(case) != before
    assert differ > 25


def test_accesses_through_a_changed_entry_succeed_and_fail() -> None:
    """An SVC behind the code, aborts of either level at both exception levels: a case has something to tell."""
    processor = Simulated(strata.NEOVERSE.features)
    ends = {esr.ec(processor.run(case).system[at.SYSTEM.index("esr_el1")]) for case in _cases("tables 1", 80)}
    assert {esr.EC.SVC64, 0x21, 0x24, 0x25} <= ends


def test_what_is_scanned_has_the_tables_that_change() -> None:
    memory = tables.guest_memory()
    for level, address in at.CHANGING.items():
        start = address - at.GUEST
        assert memory[start : start + 8 * at.CHANGING_ENTRIES[level]] in tables.pristine(memory)
        assert any(tables.changing(level))
    assert len(tables.pristine(memory)) == sum(size for _, size in at.SCANNED)
    assert random.Random("data").randbytes(8) == tables.pristine(memory)[:8]
