# SPDX-License-Identifier: GPL-2.0-only
"""What the gate says of a run as a whole, for those who read one file and nothing else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

GATE = "kvm-sea-expect"


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.RunResult:
    pytester.makepyfile("def test_it(kvm_sea_target): pass")
    (pytester.path / "e.yaml").write_text("version: 1\nat_least: 5\n")
    return pytester.runpytest_inprocess(
        "--kvm-sea-platform=ampereone",
        "--kvm-sea-expect=e.yaml",
        "--junitxml=j.xml",
        "--kvm-sea-kcidb=k.json",
        "--kvm-sea-kcidb-origin=mine",
    )


def test_junit_is_red(pytester: pytest.Pytester, run: pytest.RunResult) -> None:
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    suite = ET.parse(pytester.path / "j.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failed,) = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed.get("name") == GATE
    failure = failed.find("failure")
    assert failure is not None
    assert "at_least" in str(failure.text)


def test_kcidb_is_red(pytester: pytest.Pytester, run: pytest.RunResult) -> None:
    tests = json.loads((pytester.path / "k.json").read_text())["tests"]
    (failed,) = [test for test in tests if test["status"] == "FAIL"]
    assert failed["path"] == f"simulated.kvm_sea.{GATE}"
    assert "at_least" in failed["log_excerpt"]
    assert failed["environment"]["misc"]["simulated"] is True


def test_without_findings_there_is_no_such_entry(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(kvm_sea_target): pass")
    (pytester.path / "e.yaml").write_text("version: 1\nat_least: 1\n")
    result = pytester.runpytest_inprocess(
        "--kvm-sea-platform=ampereone", "--kvm-sea-expect=e.yaml", "--junitxml=j.xml", "--kvm-sea-json=r.jsonl"
    )
    assert result.ret == 0
    assert GATE not in (pytester.path / "j.xml").read_text()
