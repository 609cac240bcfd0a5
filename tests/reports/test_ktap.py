# SPDX-License-Identifier: GPL-2.0-only
"""What a run looks like as KTAP: results of every kind, the order, broken runs, several hosts."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm_sea.reports.ktap import Ktap
from pytest_kvm_sea.reports.ktap_lines import STYLES
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, Subtest, TestId
from tests.reports.ktap_reader import Node, Reader
from tests.reports.ktap_runs import START, Memory, ident, record, write

TESTS = ["d/test_a.py::test_x[sim-1]", "d/test_a.py::test_y", "test_b.py::TestZ::test_z"]
FAILED = RunEnd(1.0, 1)
BROKEN = RunEnd(1.0, 2, "interrupted from the keyboard", broken=True)
STOPPED = RunEnd(1.0, 1, "interrupted: stopping after 1 failures")
"""As under xdist."""

EXPECTED = """\
KTAP version 1
1..2
# pytest-kvm-sea 1.2, simulated host
  KTAP version 1
  # Subtest: d/test_a.py
  1..2
  ok 1 test_x[sim-1]
  # failed in call: assert 1 == 2
  # | def test_y():
  # | >       assert 1 == 2
  # |
  # | d/test_a.py:3: AssertionError
  # Captured stdout call:
  # | ok 1 said the guest
  not ok 2 test_y
not ok 1 d/test_a.py
  KTAP version 1
  # Subtest: test_b.py
  1..1
  ok 1 TestZ::test_z # SKIP [root] not root; run as root
ok 2 test_b.py # SKIP all tests were skipped
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
"""
FLAT = """\
1..3
# pytest-kvm-sea 1.2, simulated host
ok 1 d.test_a.test_x.sim-1
# failed in call: assert 1 == 2
# | def test_y():
# | >       assert 1 == 2
# |
# | d/test_a.py:3: AssertionError
# Captured stdout call:
# | ok 1 said the guest
not ok 2 d.test_a.test_y
# skip: [root] not root; run as root
ok 3 test_b.TestZ.test_z # SKIP [root]
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
"""
RECORDS = [
    record(TESTS[0]),
    record(
        TESTS[1],
        Outcome.FAIL,
        message="assert 1 == 2",
        detail="def test_y():\n>       assert 1 == 2\n\nd/test_a.py:3: AssertionError",
        output={"Captured stdout call": "ok 1 said the guest\n"},
    ),
    record(TESTS[2], Outcome.SKIP, phase="setup", reason="[root] not root; run as root"),
]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nested", EXPECTED),
        ("flat", f"KTAP version 1\n{FLAT}"),
        ("tap13", f"TAP version 13\n{FLAT}"),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_the_same_file_for_every_order_of_results(mode: str, expected: str, order: tuple[int, ...]) -> None:
    """And at any time a beginning of it."""
    seen: list[str] = []
    text = write(TESTS, [RECORDS[number] for number in order], FAILED, mode=mode, seen=seen.append)
    assert text == expected
    assert all(text.startswith(beginning) for beginning in seen)
    # All that can be written is written: what misses is from the first test on that has no result.
    assert ("test_x" in seen[0]) == (order[0] == 0)
    assert ("assert 1 == 2" in seen[1]) == (set(order[:2]) == {0, 1})


def test_without_the_header_in_another_test() -> None:
    assert write(TESTS, RECORDS, FAILED, header=False) == EXPECTED.partition("\n")[2]


LINES = [
    (record("a.py::t", Outcome.PASS), "ok 1 t", "ok 1 a.t", None),
    (record("a.py::t", Outcome.FAIL), "not ok 1 t", "not ok 1 a.t", None),
    (record("a.py::t", Outcome.ERROR, phase="setup"), "not ok 1 t # ERROR set-up", "not ok 1 a.t # ERROR set-up", None),
    (
        record("a.py::t", Outcome.ERROR, phase="teardown"),
        "not ok 1 t # ERROR tear-down",
        "not ok 1 a.t # ERROR tear-down",
        None,
    ),
    (
        record("a.py::t", Outcome.TIMEOUT, message="the guest ran for 10 s"),
        "not ok 1 t # TIMEOUT the guest ran for 10 s",
        "not ok 1 a.t # TIMEOUT the guest ran for 10 s",
        None,
    ),
    (
        record("a.py::t", Outcome.SKIP, reason="[root] not root; sudo | [kvm] no KVM; boot at EL2"),
        "ok 1 t # SKIP [root] not root; sudo | [kvm] no KVM; boot at EL2",
        "ok 1 a.t # SKIP [root] [kvm]",
        None,
    ),
    (record("a.py::t", Outcome.SKIP), "ok 1 t # SKIP", "ok 1 a.t # SKIP", None),
    (
        record("a.py::t", Outcome.XFAIL, reason="[fnv] known"),
        "ok 1 t # XFAIL [fnv] known",
        "ok 1 a.t # XFAIL [fnv]",
        "not ok 1 a.t # TODO [fnv]",
    ),
    (record("a.py::t", Outcome.XPASS, reason="was bad"), "ok 1 t # XPASS was bad", "ok 1 a.t # XPASS was bad", None),
]


@pytest.mark.parametrize(("one", "nested", "flat", "tap13"), LINES, ids=lambda value: getattr(value, "outcome", ""))
def test_lines(one: Record, nested: str, flat: str, tap13: str | None) -> None:
    for mode, expected in (("nested", f"  {nested}"), ("flat", flat), ("tap13", tap13 or flat)):
        assert f"\n{expected}\n" in write(["a.py::t"], [one], mode=mode)


def test_every_outcome_is_in_the_totals() -> None:
    tests = [f"a.py::{outcome.value}" for outcome in Outcome]
    text = write(tests, [record(test, outcome) for test, outcome in zip(tests, Outcome, strict=True)])
    assert text.endswith("\n# Totals: pass:1 fail:2 xfail:1 xpass:1 skip:1 error:1\n")
    assert Reader(text).counts() == Counter(dict.fromkeys(Outcome, 1))


# Files


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("pass skip", Outcome.PASS),
        ("skip skip", Outcome.SKIP),
        ("xfail skip", Outcome.PASS),
        ("xpass", Outcome.PASS),
        ("pass timeout", Outcome.FAIL),
        ("error skip", Outcome.FAIL),
    ],
)
def test_the_result_of_a_file(outcomes: str, expected: Outcome) -> None:
    records = [record(f"a.py::t{number}", Outcome(word)) for number, word in enumerate(outcomes.split())]
    (file,) = Reader(write([one.test.nodeid for one in records], records)).top
    assert (file.name, file.outcome) == ("a.py", expected)


def test_files_are_grouped_where_they_come_first() -> None:
    tests = ["b.py::t1", "a.py::t1", "b.py::t2", "a.py::t2"]
    top = Reader(write(tests, map(record, tests))).top
    assert [(file.name, [test.name for test in file.children]) for file in top] == [
        ("b.py", ["t1", "t2"]),
        ("a.py", ["t1", "t2"]),
    ]


def test_names_of_files_may_be_changed() -> None:
    text = write(["t.py::t"], [record("t.py::t")], file_name=lambda path: f"package/{path}")
    assert [file.name for file in Reader(text).top] == ["package/t.py"]
    text = write(["t.py::t"], [record("t.py::t")], file_name=lambda path: f"package/{path}", mode="flat")
    assert [test.name for test in Reader(text).top] == ["package.t.t"]


def test_a_test_that_was_collected_twice() -> None:
    tests = ["a.py::t", "a.py::t"]
    (file,) = Reader(write(tests, [record("a.py::t"), record("a.py::t", Outcome.FAIL)], FAILED)).top
    assert [(test.name, test.outcome) for test in file.children] == [("t", Outcome.PASS), ("t_2", Outcome.FAIL)]


# Subtests


def subtests(*outcomes: Outcome) -> tuple[Subtest, ...]:
    return tuple(Subtest(f"s {outcome.value}", outcome, message="bad" * outcome.is_bad) for outcome in outcomes)


def test_subtests_are_one_level_deeper() -> None:
    one = record("a.py::t", Outcome.FAIL, subtests=subtests(Outcome.PASS, Outcome.FAIL, Outcome.SKIP))
    text = write(["a.py::t"], [one], FAILED)
    assert "\n    # failed: bad\n    not ok 2 s fail\n" in text
    ((test,),) = (file.children for file in Reader(text).top)
    assert [(sub.name, sub.outcome) for sub in test.children] == [
        ("s pass", Outcome.PASS),
        ("s fail", Outcome.FAIL),
        ("s skip", Outcome.SKIP),
    ]
    assert "# subtest s fail: fail: bad\n" in write(["a.py::t"], [one], FAILED, mode="flat")


def test_a_bad_subtest_makes_its_test_bad() -> None:
    one = record("a.py::t", Outcome.SKIP, reason="gave up", subtests=subtests(Outcome.FAIL))
    for mode in STYLES:
        text = write(["a.py::t"], [one], FAILED, mode=mode)
        assert text.endswith("# Totals: pass:0 fail:1 xfail:0 xpass:0 skip:0 error:0\n")
        assert "# SKIP" not in text


def test_what_fails_outside_of_subtests_is_a_leaf() -> None:
    """kunit.py counts leaves: with good subtests only, it would count nothing bad."""
    one = record("a.py::t", Outcome.ERROR, phase="teardown", message="m", subtests=subtests(Outcome.SKIP))
    ((test,),) = (file.children for file in Reader(write(["a.py::t"], [one], FAILED)).top)
    assert [(sub.name, sub.outcome) for sub in test.children] == [
        ("s skip", Outcome.SKIP),
        ("the test itself", Outcome.ERROR),
    ]


# What did not run


def results(nodes: list[Node]) -> list[tuple[Outcome, str]]:
    return [(leaf.outcome, leaf.why) for node in nodes for leaf in node.leaves()]


@pytest.mark.parametrize("mode", STYLES)
def test_after_x(mode: str) -> None:
    text = write(TESTS, [record(TESTS[0], Outcome.FAIL)], STOPPED, mode=mode)
    why = "[not-run]" if mode != "nested" else "[not-run] stopping after 1 failures"
    expected = [(Outcome.FAIL, ""), (Outcome.SKIP, why), (Outcome.SKIP, why)]
    assert results(Reader(text, STYLES[mode].header).top) == expected
    assert "# tests without a result: 2 (stopping after 1 failures)\n" in text


@pytest.mark.parametrize("mode", STYLES)
def test_after_an_interrupt(mode: str) -> None:
    out = Memory()
    sink = Ktap(out, STYLES[mode])
    sink.start(START)
    sink.planned([ident(test) for test in TESTS], ())
    sink.finished(record(TESTS[0]))
    sink.started(ident(TESTS[1]))
    sink.end(BROKEN)
    assert results(Reader(out.text, STYLES[mode].header).top) == [
        (Outcome.PASS, ""),
        (Outcome.ERROR, "unfinished: interrupted from the keyboard"),
        (Outcome.ERROR, "not run: interrupted from the keyboard"),
    ]


@pytest.mark.parametrize("mode", STYLES)
@pytest.mark.parametrize("last", [Outcome.PASS, Outcome.SKIP, Outcome.XFAIL])
def test_a_run_that_breaks_after_its_last_test(mode: str, last: Outcome) -> None:
    seen: list[str] = []
    records = [*map(record, TESTS[:2]), record(TESTS[2], last, reason="why")]
    text = write(TESTS, records, RunEnd(1.0, 3, "internal error: boom", broken=True), mode=mode, seen=seen.append)
    assert text.startswith(seen[-1])
    found = results(Reader(text, STYLES[mode].header).top)
    assert found[-1] == (Outcome.ERROR, "the run broke: internal error: boom")
    assert "# the test ended so: " in text


def test_results_that_never_came() -> None:
    found = results(Reader(write(TESTS, map(record, TESTS[:2]), FAILED)).top)
    assert found[-1] == (Outcome.ERROR, "not run: pytest ended with status 1")
    found = results(Reader(write(TESTS, map(record, TESTS[:2]))).top)
    assert found[-1] == (Outcome.ERROR, "not run: no result came")


@pytest.mark.parametrize("mode", STYLES)
def test_stopped_without_a_failure(mode: str) -> None:
    """By a plugin that had enough: a skip would make the whole green."""
    text = write(TESTS, map(record, TESTS[:2]), RunEnd(1.0, 2, "interrupted: out of time"), mode=mode)
    assert results(Reader(text, STYLES[mode].header).top)[-1] == (Outcome.ERROR, "not run: out of time")


def test_only_collected() -> None:
    found = results(Reader(write(TESTS, [], RunEnd(1.0, 0, "--collect-only"))).top)
    assert set(found) == {(Outcome.SKIP, "[not-run] --collect-only")}


# Collection


def test_a_file_that_cannot_be_collected() -> None:
    error = CollectionError("c.py", "ImportError: no x", "[gw1] linux -- Python 3.11\nE   ImportError: no x")
    for mode in STYLES:
        text = write(TESTS, [], RunEnd(1.0, 2, "1 error during collection"), [error], mode)
        assert "# collection failed: ImportError: no x\n# | E   ImportError: no x\nnot ok 1 c" in text
        found = results(Reader(text, STYLES[mode].header).top)
        assert found == [(Outcome.ERROR, "collection"), *[(Outcome.ERROR, "not run: 1 error during collection")] * 3]


def test_errors_do_not_depend_on_their_order() -> None:
    errors = [CollectionError(file, "m", "d") for file in ("c.py", "a.py::TestX", "b.py")]
    texts = {write(TESTS, map(record, TESTS), FAILED, some) for some in (errors, errors[::-1])}
    (text,) = texts
    assert [node.name for node in Reader(text).top] == ["a.py::TestX", "b.py", "c.py", "d/test_a.py", "test_b.py"]


def test_a_class_that_cannot_be_collected_is_in_its_file() -> None:
    error = CollectionError("test_b.py::TestX", "m", "d")
    first, second = Reader(write(TESTS, map(record, TESTS), FAILED, [error])).top
    assert (first.name, first.outcome) == ("test_b.py", Outcome.FAIL)
    assert [test.name for test in first.children] == ["TestX", "TestZ::test_z"]
    assert (second.name, second.outcome) == ("d/test_a.py", Outcome.PASS)


def test_nothing_selected() -> None:
    text = write([], [], RunEnd(1.0, 5))
    assert text == "KTAP version 1\n1..0 # SKIP no test was selected\n# pytest-kvm-sea 1.2, simulated host\n"


@pytest.mark.parametrize("end", [BROKEN, RunEnd(1.0, 4)])
def test_nothing_planned_and_broken(end: RunEnd) -> None:
    (run,) = Reader(write([], [], end)).top
    assert (run.name, run.outcome) == ("run", Outcome.ERROR)


# Several hosts

BOTH = [TestId(test, host) for host in ("gw0", "gw1") for test in TESTS]


def test_hosts_are_outermost() -> None:
    text = write(BOTH, [record(test, Outcome.FAIL if test == BOTH[4] else Outcome.PASS) for test in reversed(BOTH)])
    top = Reader(text).top
    assert [(host.name, host.outcome) for host in top] == [("gw0", Outcome.PASS), ("gw1", Outcome.FAIL)]
    assert [file.name for host in top for file in host.children] == ["d/test_a.py", "test_b.py"] * 2
    flat = Reader(write(BOTH, map(record, BOTH), mode="flat")).top
    assert flat[3].name == "gw1.d.test_a.test_x.sim-1"


def test_hosts_are_in_the_order_of_their_numbers() -> None:
    tests = [TestId(TESTS[0], host) for host in ("gw10", "gw2", "gw1")]
    assert [host.name for host in Reader(write(tests, map(record, tests))).top] == ["gw1", "gw2", "gw10"]


def test_a_worker_that_replaces_a_crashed_one_goes_on_for_it() -> None:
    records = [record(BOTH[0], Outcome.ERROR, phase="crash", message="worker 'gw0' crashed"), *map(record, BOTH[3:])]
    records += [record(TestId(test, "gw2")) for test in TESTS[1:]]
    text = write(BOTH, records, FAILED)
    assert "# crashed: worker 'gw0' crashed\n" in text
    assert Reader(text).counts() == {Outcome.PASS: 5, Outcome.ERROR: 1}


def test_a_failure_that_nobody_planned_is_told() -> None:
    stray = record("x.py::t", Outcome.FAIL)
    found = results(Reader(write(TESTS, [*map(record, TESTS), stray], FAILED)).top)
    assert found[-1] == (Outcome.ERROR, "tests that were not planned failed: x.py::t")
    assert Reader(write(TESTS, [*map(record, TESTS), record("x.py::t")])).counts() == {Outcome.PASS: 3}


# The gate


def test_the_gate_has_a_line() -> None:
    good = Reader(write(TESTS, map(record, TESTS), gate=True)).top[-1]
    assert (good.name, good.outcome) == ("kvm-sea-expect", Outcome.PASS)
    for mode in STYLES:
        text = write(TESTS, map(record, TESTS), RunEnd(1.0, 1, findings=["no EINJ", "lost #2"]), gate=True, mode=mode)
        bad = Reader(text, STYLES[mode].header).top[-1]
        assert (bad.name, bad.outcome) == ("kvm-sea-expect", Outcome.ERROR)
        assert bad.diagnostics == ["# finding: no EINJ", "# finding: lost #2"]


def test_the_gate_of_a_run_without_tests() -> None:
    (run,) = Reader(write([], [], RunEnd(1.0, 1, findings=["no test ran"]), gate=True)).top
    assert (run.outcome, run.why) == (Outcome.ERROR, "no test ran")


def test_findings_are_told_without_a_line_for_the_gate() -> None:
    found = results(Reader(write(TESTS, map(record, TESTS), RunEnd(1.0, 1, findings=["tainted"]))).top)
    assert found[-1] == (Outcome.ERROR, "tainted")


# The file


def test_one_write_per_test() -> None:
    out = Memory()
    sink = Ktap(out, STYLES["nested"])
    sink.start(START)
    sink.planned([ident(test) for test in TESTS], ())
    before = out.writes
    sink.finished(record(TESTS[0]))
    assert out.writes == before + 1


@pytest.mark.parametrize(("host", "synced"), [("sim", False), ("linux", True)])
def test_a_real_host_may_die_in_the_next_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, synced: bool
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    with io.FileIO(tmp_path / "ktap", "w") as file:
        sink = Ktap(file, STYLES["nested"])
        sink.start(RunStart(0.0, "1", host))
        assert bool(calls) == synced


def test_a_pipe_cannot_be_synced() -> None:
    reading, writing = os.pipe()
    with io.FileIO(writing, "w") as pipe, io.FileIO(reading) as end:
        Ktap(pipe, STYLES["flat"]).start(RunStart(0.0, "1", "linux"))
        assert end.read(100) == b"KTAP version 1\n"


def test_a_full_pipe_that_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    waited: list[Any] = []
    with io.FileIO(reading) as end, io.FileIO(writing, "w") as pipe:
        while pipe.write(b"x" * 65536) is not None:
            pass

        def select(*arguments: Any) -> None:
            waited.append(arguments)
            end.read(65536)

        monkeypatch.setattr("select.select", select)
        Ktap(pipe, STYLES["flat"]).start(START)
    assert waited == [([], [pipe], [])]


def test_abandon_raises_nothing() -> None:
    class Broken(Memory):
        def close(self) -> None:
            super().close()
            raise OSError

    Ktap(Broken(), STYLES["flat"]).abandon()
