# SPDX-License-Identifier: GPL-2.0-only
"""The gate and `--kvm-sea-resume`: both parts of a run are one run, and each promise is in it once."""

from __future__ import annotations

import json

import pytest

TESTS = """
import pytest
def test_a(kvm_sea_host): pass
def test_b(kvm_sea_host): pass
def test_c(kvm_sea_host): {c}
def test_d(kvm_sea_host): pass
"""
PLATFORM = "--kvm-sea-platform=ampereone"
JSON = ("--kvm-sea-json=log.json", "--kvm-sea-resume")
GATE = "--kvm-sea-expect=e.yaml"
PAGE = "--kvm-sea-report=page.html"
PROMISE = "e.yaml::sim-ampereone-mainline-kvm"


def broken_off(pytester: pytest.Pytester, *arguments: str, c: str = "pass", rules: str = "") -> None:
    """Leave a run that was killed when all but test_d was over."""
    pytester.makepyfile(test_it=TESTS.format(c=c))
    (pytester.path / "e.yaml").write_text(f"version: 1\npromises: [kvm]\n{rules}\n")
    pytester.runpytest_inprocess(PLATFORM, *JSON, *arguments)
    log = pytester.path / "log.json"
    lines = log.read_text().splitlines(keepends=True)
    over = [
        line for line in lines if json.loads(line)["event"] == "end" or "test_d" in str(json.loads(line).get("nodeid"))
    ]
    log.write_text("".join(line for line in lines if line not in over))


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "worker"])
def test_at_least_counts_both_parts(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    broken_off(pytester, GATE, rules="at_least: 4")
    result = pytester.runpytest_inprocess(PLATFORM, *JSON, GATE, *workers)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["e.yaml: 1 promise tested, 4 tests ran (at least 4)*"])


def test_at_least_does_not_count_what_ran_in_neither(pytester: pytest.Pytester) -> None:
    broken_off(pytester, GATE, rules="at_least: 5")
    result = pytester.runpytest_inprocess(PLATFORM, *JSON, GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED: *5 tests were to run, and 4 did"])


def test_nothing_is_left_to_run(pytester: pytest.Pytester) -> None:
    broken_off(pytester, GATE)
    assert pytester.runpytest_inprocess(PLATFORM, *JSON, GATE).ret == 0
    result = pytester.runpytest_inprocess(PLATFORM, *JSON, GATE)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("FAILED:*")


@pytest.mark.parametrize(
    ("c", "rules", "finding"),
    [
        ('pytest.skip("[x] no x")', "", "*test_c*: skip that e.yaml does not allow: *no x"),
        (
            "pass",
            "known: [{tests: 'test_it.py::test_c', reason: r, link: https://example.org/1}]",
            "*test_c*: unexpected pass: *",
        ),
    ],
    ids=["skip", "pass"],
)
def test_a_first_part_without_a_gate_is_judged(pytester: pytest.Pytester, c: str, rules: str, finding: str) -> None:
    broken_off(pytester, c=c, rules=rules)
    result = pytester.runpytest_inprocess(PLATFORM, *JSON, GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAILED: {finding}"])


def test_a_promise_is_in_every_report_once_with_its_last_result(pytester: pytest.Pytester) -> None:
    broken_off(pytester, GATE)
    log = pytester.path / "log.json"
    log.write_text(log.read_text().replace('"outcome":"pass"', '"outcome":"fail"', 1))
    kcidb = ("--kvm-sea-kcidb=k.json", "--kvm-sea-kcidb-origin=me")
    assert pytester.runpytest_inprocess(PLATFORM, *JSON, GATE, PAGE, *kcidb).ret == 0
    results = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["outcome"] for line in results if line["event"] == "result" and line["nodeid"] == PROMISE] == [
        "fail",
        "pass",
    ]
    assert "No test of 5 failed" in (pytester.path / "page.html").read_text()
    assert len(json.loads((pytester.path / "k.json").read_text())["tests"]) == 5


def test_a_usage_error_of_the_gate_takes_nothing_from_the_first_part(pytester: pytest.Pytester) -> None:
    broken_off(pytester, rules="known: [{tests: none.py, reason: r, link: https://example.org/1}]")
    result = pytester.runpytest_inprocess(PLATFORM, *JSON, GATE)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*: 3 of 4 planned tests have a result (3 pass) and are not run again"])
