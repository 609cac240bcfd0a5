# SPDX-License-Identifier: GPL-2.0-only
"""Whatever text is in a run, its KTAP has the structure that was planned, for all parsers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.reports import ktap_text
from pytest_kvm_sea.reports.ktap_lines import STYLES
from pytest_kvm_sea.reports.record import Outcome, Record, RunEnd, Subtest, TestId
from tests.reports.ktap_reader import Reader, as_lkft, from_runner
from tests.reports.ktap_runs import record, write

NASTY = [
    "ok 1 x",
    "not ok 7 - y",
    "1..3",
    "KTAP version 1",
    "TAP version 13",
    "# Subtest: x",
    "# SKIP x",
    "x # SKIP y # TODO z #",
    "Bail out! x",
    "- x",
    ":- x",
    " ",
    "\n",
    "\r\n  ok 2 x\n",
    "\x1b[31mred\x1b[0m",
    "\x00\x0b\x0c\x1c\x85\u2028",
    "\udc80\U0001f600é",
    "reboot: System halted",
    "List of all partitions:",
    "Kernel panic - not syncing: VFS: x",
    "[gw0] linux -- Python 3.11.7 x\n  y",
    "<object at 0x7f0011223344>",
    "x" * 3000,
    "[root] x | [kvm] y",
    "\\",
]
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(max_size=20), st.lists(st.sampled_from(NASTY)).map("".join))
OUTCOMES = st.sampled_from(Outcome)
SUBTESTS = st.lists(st.builds(Subtest, TEXTS, OUTCOMES, TEXTS, TEXTS), max_size=3)
FILES = TEXTS.map(lambda text: text.replace("::", "") or "x")


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Of different tests, in the order of collection."""
    ids = draw(
        st.lists(st.builds(lambda file, name: f"{file}::{name}", FILES, TEXTS), min_size=1, max_size=6, unique=True)
    )
    return [
        Record(
            TestId(nodeid),
            draw(OUTCOMES),
            draw(st.sampled_from(["setup", "call", "teardown", "crash"])),
            draw(TEXTS),
            draw(TEXTS),
            draw(TEXTS),
            draw(st.dictionaries(st.sampled_from(["Captured stdout call", "Captured log call"]), TEXTS)),
            subtests=draw(SUBTESTS) if draw(st.booleans()) else (),
        )
        for nodeid in ids
    ]


def whole(one: Record) -> Outcome:
    """The outcome of a test with its subtests."""
    bad = any(sub.outcome.is_bad for sub in one.subtests)
    return Outcome.FAIL if bad and not one.outcome.is_bad else one.outcome


def leaves(one: Record) -> list[Outcome]:
    inner = [sub.outcome for sub in one.subtests]
    bad = any(outcome.is_bad for outcome in inner)
    return [*inner, *([one.outcome] if not inner or (one.outcome.is_bad and not bad) else [])]


def file_of(some: Sequence[Record], mode: str) -> str:
    return write([one.test.nodeid for one in some], some, RunEnd(1.0, 1), mode=mode)


@settings(max_examples=50)
@given(records())
def test_nested(some: list[Record]) -> None:
    reader = Reader(file_of(some, "nested"))
    assert reader.counts() == Counter(outcome for one in some for outcome in leaves(one))
    files = list(dict.fromkeys(one.test.file for one in some))
    assert len({file.name for file in reader.top}) == len(files)
    for file, path in zip(reader.top, files, strict=True):
        members = [one for one in some if one.test.file == path]
        assert [test.outcome for test in file.children] == list(map(whole, members))
        assert len({file.name, *(test.name for test in file.children)}) == len(members) + 1


@settings(max_examples=50)
@given(records(), st.sampled_from(["flat", "tap13"]))
def test_flat(some: list[Record], mode: str) -> None:
    reader = Reader(file_of(some, mode), STYLES[mode].header)
    assert [test.outcome for test in reader.top] == list(map(whole, some))
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", test.name) for test in reader.top)


@settings(max_examples=50)
@given(records())
def test_as_lkft_reads_it(some: list[Record]) -> None:
    words = {Outcome.SKIP: "skip"} | {outcome: "fail" for outcome in Outcome if outcome.is_bad}
    expected = [words.get(whole(one), "pass") for one in some]
    (runner,) = as_lkft(from_runner(file_of(some, "flat"), passed="fail" not in expected))
    assert [found.result for found in runner.children] == expected
    # A reason may follow the name of what was skipped.
    assert len({found.name for found in runner.children if found.result != "skip"}) == sum(
        word != "skip" for word in expected
    )
    assert not any(found.children for found in runner.children)


@settings(max_examples=50)
@given(records())
def test_as_lkft_reads_what_is_nested(some: list[Record]) -> None:
    """Without levels: every line of result is one, and nothing else is."""
    text = file_of(some, "nested")
    (runner,) = as_lkft(from_runner(text, passed=True))
    assert len(runner.children) == len(re.findall(r"^ *(?:not )?ok \d", text, re.MULTILINE))
    assert not any(found.children for found in runner.children)


@settings(max_examples=50)
@given(records(), st.randoms())
def test_order_of_results_does_not_matter(some: list[Record], random: object) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ids = [one.test.nodeid for one in some]
    assert write(ids, shuffled) == write(ids, some)


def test_names_that_differ_for_lkft() -> None:
    ids = ["a.py::t[x.y]", "a.py::t[x_y]", "a.py::t[-1]", "a.py::t[1]", "a.py::t[é]", "a.py::t[ü]"]
    names = [test.name for test in Reader(write(ids, map(record, ids), mode="flat")).top]
    assert names == ["a.t.x_y", "a.t.x_y_2", "a.t.-1", "a.t.1_2", "a.t._", "a.t.__2"]


def test_a_name_is_cut_with_a_digest() -> None:
    ids = [f"a.py::t[{'x' * 1000}{end}]" for end in "ab"]
    for mode in STYLES:
        nodes = Reader(write(ids, map(record, ids), mode=mode), STYLES[mode].header).top
        names = [leaf.name for node in nodes for leaf in node.leaves()]
        assert len(set(names)) == 2
        assert all(len(name) == 240 for name in names)
        again = Reader(write(ids[1:], map(record, ids[1:]), mode=mode), STYLES[mode].header).top
        assert names[1] in [leaf.name for node in again for leaf in node.leaves()]


BIG = 1 << 20


@pytest.mark.parametrize("text", ["x" * BIG, "y\n" * (BIG // 2), "\x1b" * BIG, "é" * (BIG // 2)], ids="1234")
def test_a_flood_is_cut_and_counted(text: str) -> None:
    one = record("a.py::t", Outcome.FAIL, message="m", detail=text, output={"Captured stdout call": text})
    written = write(["a.py::t"], [one])
    assert len(written) < 65536
    (file,) = Reader(written).top
    (test,) = file.children
    for limit in (ktap_text.DETAIL, ktap_text.OUTPUT):
        shown = [line for line in ktap_text.quoted(text, limit) if line in test.diagnostics]
        (cut,) = [line for line in shown if re.match(r"# \| \.\.\. cut \d+ bytes \.\.\.$", line)]
        # Of what is between the beginning and the end nothing is lost.
        gone = int(re.findall(r"\d+", cut)[0])
        assert BIG - 2 * limit.characters - 2 <= gone < BIG
        assert len(shown) <= limit.lines + 1


def test_a_long_line_is_cut() -> None:
    assert ktap_text.plain("é" * 500) == "\\xe9" * 100 + " ... cut 800 bytes"
    assert ktap_text.reason("x " * 400) == "x " * 200 + " ... cut 399 bytes"


def test_what_happens_to_be_is_not_shown() -> None:
    detail = "[gw3] linux -- Python 3.11.7 /x\n\n    def t():\n<T object at 0x7fe012345678>"
    one = record("a.py::t", Outcome.FAIL, message="<T object at 0x7fe012345678> is bad", detail=detail)
    assert "# failed in call: <T object at 0x> is bad\n  # | def t():\n  # | <T object at 0x>\n" in write(
        ["a.py::t"], [one]
    )
