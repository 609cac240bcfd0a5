# SPDX-License-Identifier: GPL-2.0-only
"""A run that was killed goes on where it was, with the same command line, and its earlier half counts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_kvm_sea import outputs, reporting
from pytest_kvm_sea.reports.jsonl_reader import RunFile, read
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId
from pytest_kvm_sea.resume import WENT_DOWN
from pytest_kvm_sea.targets import properties_of

LOG = "log.json"
ARGUMENTS = (f"--kvm-sea-json={LOG}", "--kvm-sea-resume")
CRASHING = """
import os, signal, time, pytest
from pathlib import Path

LOG = Path("log.json").resolve()

def controller():
    # Once it has written down what it is told of this test.
    while not any('"started"' in line and '::test_crash"' in line for line in LOG.read_text().splitlines()):
        time.sleep(0.01)
    return os.getppid()

def ran(name):
    with open("ran", "a") as file:
        file.write(name + "\\n")

def test_a(): ran("a")
def test_b(): ran("b"); assert 0, "b is broken"
@pytest.mark.skip(reason="not today")
def test_c(): ran("c")
def test_crash():
    ran("crash")
    if VICTIM:
        os.kill(VICTIM(), signal.SIGKILL)
def test_d(): ran("d")
@pytest.mark.xfail(reason="known")
def test_e(): ran("e"); assert 0
"""
WHOLE = {
    "test_a": Outcome.PASS,
    "test_b": Outcome.FAIL,
    "test_c": Outcome.SKIP,
    "test_crash": Outcome.ERROR,
    "test_d": Outcome.PASS,
    "test_e": Outcome.XFAIL,
}


def write_tests(pytester: pytest.Pytester, victim: str) -> None:
    pytester.makepyfile(test_crashing=f"{CRASHING}\nVICTIM = {victim}\n")


def log(pytester: pytest.Pytester) -> RunFile:
    run = read(pytester.path / LOG)
    assert run is not None
    return run


def outcomes(run: RunFile) -> dict[str, Outcome]:
    return {record.test.name: record.outcome for record in run.records}


def how_often(pytester: pytest.Pytester) -> Mapping[str, int]:
    names = (pytester.path / "ran").read_text().split()
    return {name: names.count(name) for name in names}


def test_the_process_is_killed(pytester: pytest.Pytester) -> None:
    write_tests(pytester, "os.getpid")
    assert pytester.runpytest_subprocess(*ARGUMENTS).ret == -signal.SIGKILL
    run = log(pytester)
    assert run.end is None
    assert [test.name for test in run.running] == ["test_crash"]
    assert outcomes(run) == dict(list(WHOLE.items())[:3])
    with (pytester.path / LOG).open("ab") as file:
        file.write(b'{"event":"resul')  # the line that the crash tore

    result = pytester.runpytest_inprocess(*ARGUMENTS)
    result.assert_outcomes(passed=1, xfailed=1, deselected=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED  # because of test_b, which did not run now
    text = result.stdout.str()
    assert "4 of 6 planned tests have a result (1 pass, 1 fail, 1 skip, 1 error) and are not run again" in text
    assert "when it went down it ran test_crashing.py::test_crash" in text
    assert "FAIL test_crashing.py::test_b - AssertionError: b is broken" in text
    assert f"ERROR test_crashing.py::test_crash - {WENT_DOWN}" in text
    assert set(how_often(pytester).values()) == {1}
    run = log(pytester)
    assert outcomes(run) == WHOLE
    assert run.end is not None
    assert (run.end.exit_status, run.unfinished) == (1, ())

    # The same command line at the next boot.
    before = (pytester.path / LOG).read_bytes()
    result = pytester.runpytest_inprocess(*ARGUMENTS)
    result.assert_outcomes(deselected=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "(2 pass, 1 fail, 1 skip, 1 error, 1 xfail), nothing is run; delete the file to start anew" in (
        result.stdout.str()
    )
    assert (pytester.path / LOG).read_bytes() == before
    assert set(how_often(pytester).values()) == {1}


def test_a_worker_is_killed(pytester: pytest.Pytester) -> None:
    """xdist replaces it: the run goes on by itself, and what crashed is an error."""
    write_tests(pytester, "os.getpid")
    result = pytester.runpytest_inprocess("-n2", *ARGUMENTS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    run = log(pytester)
    assert outcomes(run) == WHOLE
    (crashed,) = (record for record in run.records if record.outcome is Outcome.ERROR)
    assert (crashed.phase, crashed.worker[:2]) == ("crash", "gw")
    assert run.is_over


def test_the_controller_is_killed(pytester: pytest.Pytester) -> None:
    write_tests(pytester, "controller")
    assert pytester.runpytest_subprocess("-n2", *ARGUMENTS).ret == -signal.SIGKILL
    earlier = log(pytester)
    running = [test.name for test in earlier.running]
    assert earlier.end is None
    assert len(earlier.planned) == len(WHOLE)
    assert "test_crash" in running

    result = pytester.runpytest_inprocess("-n2", *ARGUMENTS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = outcomes(log(pytester))
    assert found == WHOLE | dict.fromkeys(running, Outcome.ERROR)
    assert how_often(pytester)["crash"] == 1
    assert log(pytester).is_over


class Sink:
    """Writes down what a format would get."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, run: RunStart) -> None:
        self.calls.append(f"start {run.time}")

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        self.calls.append(" ".join(["planned", *(test.name for test in tests), *(error.nodeid for error in errors)]))

    def started(self, test: TestId) -> None:
        pass

    def finished(self, record: Record) -> None:
        self.calls.append(f"{record.test.name} {record.outcome.value}")

    def end(self, run: RunEnd) -> None:
        self.calls.append(f"end {run.exit_status} {run.stopped}".strip())

    def abandon(self) -> None:
        self.calls.append("abandon")


Run: TypeAlias = Callable[..., list[str]]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest with some tests; gives what sinks are told."""
    make = outputs.make_outputs

    def run(body: str, *arguments: str, status: int = 0) -> list[str]:
        sink = Sink()
        monkeypatch.setattr(reporting, "make_outputs", lambda *some: [*make(*some), outputs.Output("the test's", sink)])
        pytester.makepyfile(test_x=body)
        assert pytester.runpytest_inprocess(*ARGUMENTS, *arguments, no_reraise_ctrlc=True).ret == status
        return sink.calls

    return run


def passing(*names: str) -> str:
    return "".join(f"def test_{name}(): pass\n" for name in names)


def cut_after(pytester: pytest.Pytester, event: str, name: str = "") -> None:
    """Leave what the file has up to an event, as a crash right behind it would."""
    path = pytester.path / LOG
    lines = path.read_text().splitlines(keepends=True)
    found = [(one["event"], one.get("nodeid", "").rpartition("::")[2]) for one in map(json.loads, lines)]
    path.write_text("".join(lines[: found.index((event, name)) + 1]))


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_every_sink_gets_the_whole_run_in_the_order_of_its_first_half(
    pytester: pytest.Pytester, run: Run, workers: Sequence[str]
) -> None:
    first = run(passing("a") + "def test_b(): assert 0\n" + passing("c", "d"), *workers, status=1)
    assert first[1] == "planned test_a test_b test_c test_d"
    cut_after(pytester, "started", "test_c")
    # With xdist a test may end before one that was planned before it.
    path = pytester.path / LOG
    start, planned, begin_a, end_a, *others, begin_c = path.read_text().splitlines(keepends=True)
    path.write_text("".join([start, planned, begin_a, *others, end_a, begin_c]))
    # Since then the tests have another order, there is a new one, and what ran would end otherwise.
    body = passing("d", "new") + "def test_c(): 1/0\n" + passing("b") + "def test_a(): 1/0\n"
    assert run(body, *workers, status=1) == [
        first[0],
        "planned test_a test_b test_c test_d test_new",
        "test_a pass",
        "test_b fail",
        "test_c error",
        "test_d pass",
        "test_new pass",
        "end 1",
    ]


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_run_of_which_nothing_is_left_but_its_end(
    pytester: pytest.Pytester, run: Run, workers: Sequence[str]
) -> None:
    """pytest says that no test was collected; all have passed."""
    run(passing("a", "b"), *workers)
    cut_after(pytester, "result", "test_b")
    assert run(passing("a", "b"), *workers)[1:] == ["planned test_a test_b", "test_a pass", "test_b pass", "end 0"]
    assert log(pytester).is_over


@pytest.mark.parametrize("body", [passing("a"), "def test_a(): assert 0\n"], ids=["passed", "failed"])
def test_a_run_that_is_over_says_the_same_again(pytester: pytest.Pytester, run: Run, body: str) -> None:
    status = int("assert" in body)
    first = run(body, status=status)
    # The new test is not run: the run is over.
    assert run(body + passing("new"), status=status) == first


def test_minus_x_is_an_end(pytester: pytest.Pytester, run: Run) -> None:
    body = "def test_a(): assert 0\n" + passing("b")
    first = run(body, "-x", status=1)
    assert first[-1] == "end 1 stopping after 1 failures"
    assert run(body, "-x", status=1) == first


def test_an_interrupt_is_none_and_what_it_hit_runs_again(pytester: pytest.Pytester, run: Run) -> None:
    run(passing("a") + "def test_b(): raise KeyboardInterrupt\n" + passing("c"), status=2)
    assert run(passing("a", "b", "c"))[2:] == ["test_a pass", "test_b pass", "test_c pass", "end 0"]


def test_a_file_that_could_not_be_collected_is_run_when_it_can(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_w=passing("w"))
    assert run("1/0", status=2)[1] == "planned test_w test_x.py"
    assert run(passing("a"))[1:] == ["planned test_w test_a", "test_w pass", "test_a pass", "end 0"]


def test_planned_tests_that_are_gone_are_no_success(pytester: pytest.Pytester, run: Run) -> None:
    run(passing("a", "b", "c"))
    cut_after(pytester, "result", "test_a")
    text = "end 1 2 of the tests that were planned are not collected any more, the first is test_x.py::test_b"
    assert run(passing("a"), status=1)[-1] == text
    # And nothing is lost: when they are back they run.
    assert run(passing("a", "b", "c"))[2:] == ["test_a pass", "test_b pass", "test_c pass", "end 0"]


def test_a_second_crash(pytester: pytest.Pytester, run: Run) -> None:
    """Also one before the test that the first crash hit has its line."""
    run(passing("a", "b", "c"))
    cut_after(pytester, "started", "test_b")
    path = pytester.path / LOG
    start = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps(start | {"event": "resume"}) + "\n")
    assert run(passing("a", "b", "c"), status=1)[2:] == ["test_a pass", "test_b error", "test_c pass", "end 1"]
    cut_after(pytester, "started", "test_c")
    assert run(passing("a", "b", "c"), status=1)[2:] == ["test_a pass", "test_b error", "test_c error", "end 1"]


@pytest.mark.parametrize("content", [None, "", '{"event":"star'], ids=["no file", "empty", "torn"])
def test_without_a_run_it_is_a_first_run(pytester: pytest.Pytester, run: Run, content: str | None) -> None:
    if content is not None:
        (pytester.path / LOG).write_text(content)
    assert run(passing("a"))[1:] == ["planned test_a", "test_a pass", "end 0"]
    assert log(pytester).is_over


def test_what_crashed_is_known_to_be_simulated(pytester: pytest.Pytester, run: Run) -> None:
    """Nobody must take it for a result of a kernel."""
    body = "import pytest\n@pytest.mark.parametrize('x', ['y'])\ndef test_a(kvm_sea_target, x): pass\n"
    platforms = ("--kvm-sea-platform=series-v1", "--kvm-sea-platform=series-v1-parity")
    run(body, *platforms)
    cut_after(pytester, "started", "test_a[sim-series-v1-parity-series-v1-y]")
    run(body, *platforms, status=1)
    first, second = log(pytester).records
    assert (second.outcome, second.test.name) == (Outcome.ERROR, "test_a[sim-series-v1-parity-series-v1-y]")
    assert second.properties == dict(first.properties) | {"kvm_sea_platform": "series-v1-parity"}
    assert second.is_simulated


@pytest.mark.parametrize(
    ("nodeid", "found"),
    [
        ("test_x.py::test_a[sim-a-mainline]", "a"),
        ("test_x.py::test_a[sim-a-mainline-el0]", "a"),
        ("test_x.py::test_a[sim-a-mainline-mainline-el0]", "a-mainline"),
        ("test_x.py::test_a[sim-a-mainliner]", None),
        ("test_x.py::test_a[x-sim-a-mainline]", None),
        ("test_x.py::test_a", None),
    ],
)
def test_what_a_test_ran_on_is_in_its_name(nodeid: str, found: str | None) -> None:
    targets = {"sim-a-mainline": {"is": "a"}, "sim-a-mainline-mainline": {"is": "a-mainline"}}
    assert properties_of(nodeid, targets).get("is") == found


def test_looking_at_the_tests_touches_no_file(pytester: pytest.Pytester, run: Run) -> None:
    run(passing("a", "b"))
    cut_after(pytester, "result", "test_a")
    before = (pytester.path / LOG).read_bytes()
    result = pytester.runpytest_inprocess("--collect-only", "-q", *ARGUMENTS)
    assert "2 tests collected" in result.stdout.str()
    assert (pytester.path / LOG).read_bytes() == before


def edit(**changes: object) -> Callable[[str], str]:
    """Change the first line."""

    def edited(text: str) -> str:
        first, rest = text.split("\n", 1)
        return json.dumps(json.loads(first) | changes) + "\n" + rest

    return edited


REFUSED: dict[str, tuple[Callable[[str], str] | None, Sequence[str], str]] = {
    "no file is named": (None, ["--kvm-sea-resume"], "there is no file to go on with; give it: --kvm-sea-json=FILE"),
    "each": (None, [*ARGUMENTS, "--dist=each"], "a run with --dist each cannot be resumed"),
    "each before": (
        lambda text: text.replace('"nodeid":', '"host":"gw0","nodeid":'),
        ARGUMENTS,
        "log.json is of another run: with --dist each, which cannot be resumed",
    ),
    "another version": (edit(plugin="0.0.9"), ARGUMENTS, "of another run: of plugin version 0.0.9, now "),
    "other platforms": (
        None,
        [*ARGUMENTS, "--kvm-sea-platform=no-ras"],
        "on targets sim-ampereone-mainline, now sim-no-ras-mainline; use the same as then",
    ),
    "another host": (None, [*ARGUMENTS, "--kvm-sea-host=linux"], "on host sim, now linux; on targets "),
    "another kernel": (
        edit(host="linux", targets={"linux-mainline": {}}, machine="box 7.3.4 #1"),
        [*ARGUMENTS, "--kvm-sea-host=linux"],
        "of another run: on machine box 7.3.4 #1, now ",
    ),
    "not ours": (lambda text: "my thesis\n" * 2, ARGUMENTS, "log.json:1: not a line of JSON, and not the last one"),
    "a later version of the format": (edit(version=2), ARGUMENTS, "log.json:1: version 2 of the format"),
    "nothing to read again": (
        None,
        ["--kvm-sea-json=/dev/null", "--kvm-sea-resume"],
        "/dev/null: not a file that can be read again; name a regular file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_runs(pytester: pytest.Pytester, run: Run, case: str) -> None:
    change, arguments, message = REFUSED[case]
    platform = () if any("linux" in argument for argument in arguments) else ("--kvm-sea-platform=ampereone",)
    run(passing("a", "b"), "--kvm-sea-platform=ampereone")
    path = pytester.path / LOG
    if change is not None:
        path.write_text(change(path.read_text()))
    before = path.read_text()
    if "other platforms" in case:
        platform = ()
    result = pytester.runpytest_inprocess(*platform, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--kvm-sea-resume: " in result.stderr.str()
    assert message in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert "collected" not in result.stdout.str()
    assert path.read_text() == before


def test_a_file_whose_name_is_no_text(pytester: pytest.Pytester) -> None:
    """Its name is written in another way than pytest has it, and is still found again."""
    path = Path(os.fsdecode(os.fsencode(pytester.path) + b"/test_\xff.py"))
    path.write_text(passing("a", "b"))
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *ARGUMENTS)
    cut_after(pytester, "result", "test_a")
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *ARGUMENTS)
    result.assert_outcomes(passed=1, deselected=1)
    assert result.ret == 0
