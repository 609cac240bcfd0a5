# SPDX-License-Identifier: GPL-2.0-only
"""Our KTAP as the kernel's kunit.py and as tap.py read it: what they count, not only what they return."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import unittest
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from pytest_kvm_sea.reports.record import Outcome, Record
from tests.reports.ktap_reader import Reader
from tests.reports.test_ktap_text import file_of, leaves, records

GOOD = "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_good(n): pass\n"
SKIPPED = "import pytest\n@pytest.mark.skip(reason='[root] not root; run as root')\ndef test_skipped(): pass\n"
OTHERS = """
import pytest

@pytest.fixture
def broken(): raise OSError

def test_bad(): print("ok 1 - #\\x1b[0m"); assert 0, "reboot: System halted # SKIP"
def test_set_up(broken): pass

@pytest.mark.xfail(reason="[known] that")
def test_xfail(): assert 0

@pytest.mark.xfail(reason="[known] that", strict=False)
def test_xpass(): pass
"""
KILLED = "import os, signal\ndef test_killed(): os.kill(os.getpid(), signal.SIGKILL)\ndef test_after(): pass\n"


@dataclass(frozen=True)
class Run:
    """Files of tests, arguments, and what a parser must find, with the words of kunit.py's JSON."""

    files: dict[str, str]
    passed: int = 0
    failed: int = 0
    crashed: int = 0
    skipped: int = 0
    errors: int = 0
    expected_failures: int = 0
    """Of those that passed for kunit.py."""
    arguments: tuple[str, ...] = ()
    dies: bool = False


MIXED = {"a": GOOD, "b": SKIPPED, "c": OTHERS, "d": SKIPPED + GOOD}
RUNS = {
    "all-passed": Run({"a": GOOD, "b": GOOD}, passed=10),
    "mixed": Run(MIXED, passed=12, failed=2, skipped=2, expected_failures=1),
    "mixed-n4": Run(MIXED, passed=12, failed=2, skipped=2, expected_failures=1, arguments=("-n", "4")),
    "all-skipped": Run({"a": SKIPPED, "b": SKIPPED}, skipped=2),
    # kunit.py counts each test that is planned and missing, the file whose line of result is, and that of the last.
    "killed": Run({"a": GOOD, "b": KILLED, "c": GOOD}, passed=5, crashed=3, errors=4, dies=True),
    "worker-killed-n4": Run({"a": GOOD, "b": KILLED}, passed=6, failed=1, arguments=("-n", "4")),
    "collection": Run({"a": GOOD, "b": "import nothing_of_this_name"}, failed=6),
    "stopped": Run({"a": GOOD, "b": OTHERS, "c": GOOD}, passed=5, failed=1, skipped=8, arguments=("-x",)),
    "interrupted": Run({"a": GOOD, "b": "def test_b(): raise KeyboardInterrupt"}, passed=5, failed=1),
}


def ktap(pytester: pytest.Pytester, run: Run, mode: str) -> Path:
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    for name, text in run.files.items():
        (pytester.path / f"test_{name}.py").write_text(text)
    arguments = ("--kvm-sea-ktap=out.ktap", f"--kvm-sea-ktap-mode={mode}", *run.arguments)
    if run.dies:
        assert pytester.runpytest_subprocess(*arguments).ret == -9
    else:
        pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)
    return pytester.path / "out.ktap"


def read_by_kunit(kunit: Path, file: Path) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON."""
    found = file.with_suffix(".json")
    command = [sys.executable, "-B", str(kunit / "kunit.py"), "parse", f"--json={found}", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(found.read_text())


@pytest.mark.parametrize(
    ("name", "mode"),
    # That the file is the same under xdist does not depend on the mode.
    [
        (name, mode)
        for name in RUNS
        for mode in ("nested", "flat")
        if mode == "nested" or "-n" not in RUNS[name].arguments
    ],
)
def test_kunit(pytester: pytest.Pytester, kunit: Path, name: str, mode: str) -> None:
    run = RUNS[name]
    status, found = read_by_kunit(kunit, ktap(pytester, run, mode))
    counts = {word: number for word, number in found["misc"].items() if word not in ("tests", "errors")}
    expected = {word: getattr(run, word) for word in counts}
    if run.dies and mode == "flat":
        expected["crashed"] += 4  # of the file that was not begun
    assert counts == expected
    assert bool(found["misc"]["errors"]) == run.dies
    # A run in which nothing but skips happened is none for kunit.py.
    assert (status == 0) == (run.passed > 0 and not run.failed and not run.crashed)


def test_kunit_knows_the_names(pytester: pytest.Pytester, kunit: Path) -> None:
    _, found = read_by_kunit(kunit, ktap(pytester, RUNS["mixed"], "nested"))
    third = found["sub_groups"][2]
    assert third["name"] == "test_c.py"
    assert [(case["name"], case["status"]) for case in third["test_cases"]] == [
        ("test_bad", "FAIL"),
        ("test_set_up", "FAIL"),
        ("test_xfail", "PASS"),
        ("test_xpass", "PASS"),
    ]
    _, found = read_by_kunit(kunit, ktap(pytester, RUNS["mixed"], "flat"))
    assert ("test_c.test_xfail", "PASS") in [(case["name"], case["status"]) for case in found["test_cases"]]


def test_kunit_reads_nothing_selected_as_nothing(pytester: pytest.Pytester, kunit: Path) -> None:
    status, found = read_by_kunit(kunit, ktap(pytester, Run({"a": GOOD}, arguments=("-k", "nothing")), "nested"))
    assert status == 1
    assert found["misc"]["passed"] == 0


def test_kunit_reads_the_selftests(pytester: pytest.Pytester, kunit: Path) -> None:
    arguments = ("--pyargs", "pytest_kvm_sea.selftests", "--kvm-sea-platform=ampereone")
    file = ktap(pytester, Run({}, arguments=arguments), "nested")
    status, found = read_by_kunit(kunit, file)
    counts = Reader(file.read_text()).counts()
    assert status == 0
    assert found["misc"] == {
        "tests": counts.total(),
        "passed": counts[Outcome.PASS] + counts[Outcome.XFAIL],
        "failed": 0,
        "crashed": 0,
        "skipped": counts[Outcome.SKIP],
        "errors": 0,
    }
    assert "pytest_kvm_sea/selftests/test_sea_to_user.py" in [group["name"] for group in found["sub_groups"]]


def test_kunit_reads_whatever_text(kunit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(kunit)
    parser, printer = (importlib.import_module(name) for name in ("kunit_parser", "kunit_printer"))
    words = {Outcome.SKIP: "skipped"} | {outcome: "failed" for outcome in Outcome if outcome.is_bad}

    @given(records())
    def check(some: list[Record]) -> None:
        expected = Counter(words.get(outcome, "passed") for one in some for outcome in leaves(one))
        for mode in ("nested", "flat"):
            test = parser.parse_run_tests(file_of(some, mode).splitlines(), printer.null_printer)
            if mode == "nested":
                counts = {"passed": test.counts.passed, "failed": test.counts.failed, "skipped": test.counts.skipped}
                assert {word: counts[word] for word in expected} == expected
            assert (test.counts.errors, test.counts.crashed) == (0, 0)

    check()


# tap.py

LOADER_LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def read_by_tap_py(file: Path) -> unittest.TestResult:
    """As its command `tappy` reads, with all rules of TAP 13."""
    suite = importlib.import_module("tap.loader").Loader().load_suite_from_file(str(file))
    result = unittest.TestResult()
    suite.run(result)
    return result


@LOADER_LEAVES_FILES_OPEN
@pytest.mark.usefixtures("tap_py")
@pytest.mark.parametrize("name", RUNS)
def test_tap_py(pytester: pytest.Pytester, name: str) -> None:
    run = RUNS[name]
    result = read_by_tap_py(ktap(pytester, run, "tap13"))
    broken = run.crashed > 0  # told as one failure: so many were planned, so many ran
    assert (len(result.failures), len(result.skipped)) == (run.failed + broken, run.skipped)
    assert len(result.expectedFailures) == run.expected_failures
    assert result.testsRun == run.passed + run.failed + run.skipped + broken
    assert result.wasSuccessful() == (not run.failed and not run.crashed)


@LOADER_LEAVES_FILES_OPEN
@pytest.mark.usefixtures("tap_py")
def test_tap_py_reads_nothing_selected_as_a_skip(pytester: pytest.Pytester) -> None:
    result = read_by_tap_py(ktap(pytester, Run({"a": GOOD}, arguments=("-k", "nothing")), "tap13"))
    assert (result.testsRun, len(result.skipped)) == (1, 1)


@pytest.mark.usefixtures("tap_py")
@pytest.mark.parametrize(("mode", "unknown"), [("flat", 1), ("tap13", 0)])
def test_tap_py_knows_every_line(pytester: pytest.Pytester, mode: str, unknown: int) -> None:
    """But for the header of KTAP."""
    lines = list(importlib.import_module("tap.parser").Parser().parse_file(str(ktap(pytester, RUNS["mixed"], mode))))
    assert Counter(line.category for line in lines)["unknown"] == unknown
    assert sum(line.category == "test" for line in lines) == 16


@pytest.mark.usefixtures("tap_py")
def test_tap_py_sees_the_files_of_what_is_nested(pytester: pytest.Pytester) -> None:
    lines = importlib.import_module("tap.parser").Parser().parse_file(str(ktap(pytester, RUNS["mixed"], "nested")))
    results = [(line.description, line.ok, line.skip) for line in lines if line.category == "test"]
    assert results == [
        ("test_a.py", True, False),
        ("test_b.py", True, True),
        ("test_c.py", False, False),
        ("test_d.py", True, False),
    ]
