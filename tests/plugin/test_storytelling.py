# SPDX-License-Identifier: GPL-2.0-only
"""The story of a failure in pytest's own reports: section, file, JUnit XML, and what travels to the controller."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_kvm_sea.reporting import PAYLOAD, make_record
from pytest_kvm_sea.reports.record import Outcome, TestId
from pytest_kvm_sea.storytelling import PAYLOAD as OWN_PAYLOAD
from pytest_kvm_sea.storytelling import TITLE

TESTS = """
import pytest
from pytest_kvm_sea.guest.program import GuestProgram

def talks(g):
    g.printf("hello \\x1b[31mred\\n")
    g.sync(1)
    g.label_here("again")
    g.asm.b("again")

@pytest.fixture
def vcpu(kvm_sea_vm):
    vcpu, = kvm_sea_vm(GuestProgram.build(talks)).vcpus
    vcpu.timeout = 0.05
    return vcpu

def test_passes(vcpu):
    vcpu.expect_sync(1)

def test_fails(vcpu):
    vcpu.expect_sync(2)

def test_loops(vcpu):
    vcpu.expect_sync(1)
    vcpu.expect_done()

@pytest.mark.xfail(strict=True)
def test_xfails(vcpu):
    vcpu.expect_sync(2)

def test_skips(vcpu):
    pytest.skip("[none] nothing is missing; nothing to get")

def test_own():
    assert False, "not ours"
"""
ONE = "--kvm-sea-platform=ampereone"
FILE = re.compile(r"the whole story: (.*\.txt)")


class Reports:
    """All reports of a run, as the process that prints them has them."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.all.append(report)

    def of(self, name: str, when: str = "call") -> Any:
        (found,) = [report for report in self.all if f"::{name}[" in report.nodeid and report.when == when]
        return found


def run(pytester: pytest.Pytester, *arguments: str, tests: str = TESTS) -> tuple[pytest.RunResult, Reports]:
    pytester.makepyfile(test_stories_of=tests)
    reports = Reports()
    return pytester.runpytest_inprocess(ONE, *arguments, plugins=[reports]), reports


def test_a_failure_is_told_and_nothing_else_is(pytester: pytest.Pytester) -> None:
    result, reports = run(pytester)
    result.assert_outcomes(passed=1, failed=3, xfailed=1, skipped=1)
    text = result.stdout.str()
    assert text.count(TITLE) == 2
    assert "\x1b" not in text
    result.stdout.fnmatch_lines(["*kvm-sea: what happened*", "sim-ampereone-mainline, Linux *", "*ucall SYNC(1)*"])
    for name in ("test_fails", "test_loops"):
        sections = reports.of(name).longrepr.sections
        assert [title for title, *_ in sections] == [TITLE]
        assert len(sections[0][1].splitlines()) <= 40
    files = {Path(found) for found in FILE.findall(text)}
    assert files == {path.relative_to(pytester.path) for path in pytester.path.glob(".pytest_cache/d/kvm-sea/*")}
    assert len(files) == 2
    (fails,) = [path.read_text() for path in files if "test_fails" in path.name]
    assert fails.startswith("test      test_stories_of.py::test_fails[sim-ampereone-mainline]\n")
    for heading in ("What failed", "What happened", "Registers of vCPU 0", "Code: vCPU 0", "The guest's console"):
        assert f"\n== {heading}\n" in fails
    assert r"hello \x1b[31mred" in fails
    assert "expected stage 2, got stage 1" in fails


def test_under_xdist_it_reaches_terminal_and_junit(pytester: pytest.Pytester) -> None:
    result, reports = run(pytester, "-n1", "--junitxml=out.xml", "--kvm-sea-trace=stories", "--kvm-sea-json=out.json")
    result.assert_outcomes(passed=1, failed=3, xfailed=1, skipped=1)
    (path,) = {Path(found) for found in FILE.findall(result.stdout.str()) if "test_fails" in found}
    assert path.parent == Path("stories")
    whole = (pytester.path / path).read_text()
    assert "ucall SYNC(1)" in whole
    cases = ET.parse(pytester.path / "out.xml").iter("testcase")
    failures = {str(case.get("name")).partition("[")[0]: case.findtext("failure", "") for case in cases}
    assert "ucall SYNC(1)" in failures["test_fails"]
    assert TITLE not in failures["test_own"]
    payload = getattr(reports.of("test_passes"), PAYLOAD)
    assert payload["story"]["console"][0] == r"hello \x1b[31mred"
    assert payload["timeout"] is False
    assert getattr(reports.of("test_loops"), PAYLOAD)["timeout"] is True


def test_what_the_controller_makes_of_it(pytester: pytest.Pytester) -> None:
    assert OWN_PAYLOAD == PAYLOAD
    _, reports = run(pytester, "--kvm-sea-json=out.json")
    records = {
        name: make_record(TestId(name), [reports.of(name, when) for when in ("setup", "call", "teardown")], (), "")
        for name in ("test_passes", "test_fails", "test_loops", "test_xfails")
    }
    assert {name: record.outcome for name, record in records.items()} == {
        "test_passes": Outcome.PASS,
        "test_fails": Outcome.FAIL,
        "test_loops": Outcome.TIMEOUT,
        "test_xfails": Outcome.XFAIL,
    }
    for record in records.values():
        assert record.story is not None
        assert json.loads(json.dumps(record.story))["target"] == "sim-ampereone-mainline"
    assert "expected stage 2" in records["test_fails"].message


def test_stories_are_made_only_for_who_reads_them(pytester: pytest.Pytester) -> None:
    _, reports = run(pytester)
    assert getattr(reports.of("test_fails"), PAYLOAD) == {"timeout": False, "story": None}
    assert not hasattr(reports.of("test_passes"), PAYLOAD)
    assert not hasattr(reports.of("test_xfails"), PAYLOAD)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("-p", "no:cacheprovider"), "the whole story: give --kvm-sea-trace=DIR (pytest's cache is off)"),
        (("--kvm-sea-trace=file/below",), "the whole story could not be written: *file*: Not a directory; give*"),
    ],
    ids=["no cache", "unwritable"],
)
def test_no_place_for_the_whole(pytester: pytest.Pytester, arguments: tuple[str, ...], line: str) -> None:
    (pytester.path / "file").write_text("in the way")
    result, _ = run(pytester, *arguments)
    result.assert_outcomes(passed=1, failed=3, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines([line])


def test_what_goes_wrong_in_setup_and_teardown(pytester: pytest.Pytester) -> None:
    result, reports = run(
        pytester,
        "--kvm-sea-json=out.json",
        tests="""
import pytest

@pytest.fixture
def before(kvm_sea_vm):
    kvm_sea_vm()
    raise RuntimeError("before")

@pytest.fixture
def after(kvm_sea_vm):
    kvm_sea_vm()
    yield
    raise RuntimeError("after")

def test_before(before): pass
def test_after(after): pass
""",
    )
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["the whole story: *.setup.txt", "the whole story: *.teardown.txt"])
    assert "KVM_CREATE_VM VM 0" in [
        e["title"] for e in getattr(reports.of("test_before", "setup"), PAYLOAD)["story"]["events"]
    ]
    notes = getattr(reports.of("test_after", "teardown"), PAYLOAD)["story"]["notes"]
    assert not any("kept" in note for note in notes)


def test_a_defect_of_the_storyteller_costs_no_result(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("pytest_kvm_sea.stories.builder.build", broken)
    result, _ = run(pytester)
    result.assert_outcomes(passed=1, failed=3, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["cannot be told, which is a defect of pytest-kvm-sea: ZeroDivisionError('by design')"])
    result.stdout.fnmatch_lines(["*expected stage 2, got stage 1*"])


def test_a_timeout_of_pytest_timeout_is_one(pytester: pytest.Pytester) -> None:
    _, reports = run(
        pytester,
        tests="""
import pytest
@pytest.mark.parametrize("text", ["Timeout (>1.0s) from pytest-timeout.", "Timeout >1.0s", "A Timeout >1.0s"])
def test_ends(kvm_sea_target, text):
    pytest.fail(text)
""",
    )
    calls = [report for report in reports.all if report.when == "call"]
    assert [getattr(report, PAYLOAD)["timeout"] for report in calls] == [True, True, False]


def test_nothing_of_a_test_is_kept(pytester: pytest.Pytester) -> None:
    """Items live to the end of the run; their hosts have gigabytes of address space."""
    result, _ = run(
        pytester,
        tests="""
import gc, weakref
hosts = []
def test_one(kvm_sea_host, kvm_sea_vm):
    kvm_sea_vm()
    hosts.append(weakref.ref(kvm_sea_host))
def test_two():
    gc.collect()
    assert hosts[0]() is None
""",
    )
    result.assert_outcomes(passed=2)
