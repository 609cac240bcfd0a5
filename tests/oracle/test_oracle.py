# SPDX-License-Identifier: GPL-2.0-only
"""The oracle itself: that it agrees with QEMU on a few cases, and that it finds and tells what does not agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import cpu as engine
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.regions import Region, compile_region
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.native import QEMU
from tests.oracle import __main__ as program
from tests.oracle import layout as at
from tests.oracle import qemu, report, stage2, strata
from tests.oracle.compare import Pair
from tests.oracle.encodings_of_one import ONLY_IN_QEMU, ONLY_IN_THE_MODEL, only_in_qemu, only_in_the_model
from tests.oracle.known import KNOWN
from tests.oracle.shrink import shrink
from tests.oracle.strata import KINDS, NEOVERSE

CASES = 500
needs_qemu = pytest.mark.skipif(
    shutil.which(QEMU) is None,
    reason=f"[qemu] {QEMU} is not installed; apt install qemu-system-arm, or tox run -e oracle, which fetches it",
)


@needs_qemu
@pytest.mark.parametrize("kind", KINDS)
def test_the_processors_agree(kind: str) -> None:
    tally = Pair([QEMU], KINDS[kind].processor).compare([strata.make(kind, 5, index) for index in range(CASES)])
    assert tally.cases.total() == CASES
    assert not tally.mismatches


@needs_qemu
def test_a_difference_is_found_and_shrunk_and_printed() -> None:
    wrong = Pair([QEMU], NEOVERSE._replace(features=Features(dit=False, lse=False)))
    index = list(strata.STRATA).index("SWP")
    cases = [strata.make("cases", 5, index + len(strata.STRATA) * number) for number in range(10)]
    tally = wrong.compare(cases, kind="cases")
    assert tally.differing["SWP"] >= 5
    small = shrink(wrong, tally.mismatches[0])
    assert sum(1 for value in small.case.x if value) <= 2
    text = "\n".join(report.mismatch(small, "the command"))
    assert "the command" in text
    assert "swp" in text
    assert "QEMU" in text
    assert "esr_el1" in text


@needs_qemu
def test_a_case_that_does_not_stop_is_told_and_the_next_ones_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "TIMEOUT", 2.0)
    cases = [strata.make("cases", 5, index) for index in range(3)]
    endless = replace(cases[1], words=[encode("B", op=0, imm26=0)], pc=at.CODE, code_at=at.CODE, pstate=0x3C5)
    (first, _), (theirs, ours), (last, _) = Pair([QEMU], NEOVERSE).results([cases[0], endless, cases[2]])
    assert (theirs.trouble, ours.trouble) == ("it does not stop",) * 2
    assert not first.trouble
    assert not last.trouble


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_made_from_seed_and_index(kind: str) -> None:
    assert strata.make(kind, 1, 77) == strata.make(kind, 1, 77)
    assert strata.make(kind, 1, 77) != strata.make(kind, 2, 77)


def test_every_stratum_makes_cases_that_fit() -> None:
    for index in range(4 * len(strata.STRATA)):
        case = strata.make("cases", 3, index)
        assert len(case.record()) == at.RECORD_IN * 8
        assert case.padded()[-1] == at.STOP


def test_loops_are_executed_as_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counted(pc: int, view: memoryview, warm: Callable[[int], bool]) -> Region | None:
        region = compile_region(pc, view, warm)
        compiled.append(region is not None)
        return region

    monkeypatch.setattr(engine, "compile_region", counted)
    pair = Pair([], NEOVERSE)
    start = list(strata.STRATA).index("loop 0")
    for number in range(50):
        case = strata.make("cases", 6, start + len(strata.STRATA) * number)
        assert case.compiled
        pair.simulate(case)
    assert sum(compiled) > 20


def test_stage2_levels() -> None:
    levels = [stage2.level(ipa) for ipa in (1 << 47, 3 << 30, at.GUEST + at.GUEST_SIZE, at.HOLE)]
    assert levels == [0, 1, 2, 3]


def test_encodings_of_one() -> None:
    assert only_in_qemu(0xD503201F) == ""
    assert only_in_qemu(0xD50B7C20) == "FEAT_DPB: DC CVAP"
    assert only_in_the_model(0xD50330FF).startswith("FEAT_SB")
    for _, pattern in (*ONLY_IN_QEMU, *ONLY_IN_THE_MODEL):
        assert len(pattern.replace(" ", "")) == 32


def test_no_qemu_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none(log: object) -> list[str]:
        raise EmulationError("apt-get is not on this machine")

    monkeypatch.setattr(qemu, "command", none)
    assert program.main(["--cases", "1"]) == program.USAGE
    assert capsys.readouterr().err == f"the oracle needs {QEMU}: apt-get is not on this machine; install it\n"


@pytest.mark.parametrize("value", ["cases", "cases:x", "other:1"])
def test_a_case_must_be_named_as_it_is_printed(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--only", value])
    assert ended.value.code == program.USAGE
    assert f"{value!r} is not KIND:INDEX; kinds: cases, later, simd, words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--cases", "-1", 0), ("--words", "many", 0), ("--simd", "1.5", 0), ("--jobs", "0", 1)],
)
def test_what_is_counted_is_a_number(option: str, value: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([f"{option}={value}"])
    assert ended.value.code == program.USAGE
    assert f"argument {option}: {value!r} is not a number from {least} on" in capsys.readouterr().err


def test_the_documentation_has_every_explanation() -> None:
    text = (Path(__file__).parents[2] / "docs/oracle.md").read_text(encoding="utf-8")
    assert [each.name for each in KNOWN if f"| {each.name} | {each.reason} |" not in text] == []
