# SPDX-License-Identifier: GPL-2.0-only
"""Workers of xdist as hosts of their own: each with its own environment (`--dist each --tx ...//env:NAME=VALUE`)."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

ORIGIN = ("--kvm-sea-kcidb=kcidb.json", "--kvm-sea-kcidb-origin=my_lab")
TESTS = """
import pytest

def test_runs(kvm_sea_host): ...

def test_skips(kvm_sea_target):
    pytest.skip("[x] y; z")
"""


def hosts(**platforms: str) -> list[str]:
    """The arguments for one worker each; by the worker's name."""
    arguments = ["-p", "no:cacheprovider", "--dist=each"]
    for name, platform in platforms.items():
        arguments += ["--tx", f"popen//env:KVM_SEA_PLATFORM={platform}//id={name}"]
    return arguments


def test_three_hosts_with_platforms_of_their_own(pytester: pytest.Pytester) -> None:
    """Two of them have the same: what is one test by its id are two tests."""
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess(
        *hosts(first="ampereone", second="ampereone", third="series-v1"), *ORIGIN, "--junitxml=junit.xml"
    )
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "kvm-sea: host sim, *; each worker as its own environment says",
            "*= kvm-sea: 6 tests on 3 platforms: 3 passed, 3 skipped =*",
            "3 skipped  [[]x] y; z  (ampereone on first, ampereone on second, series-v1 on third)",
            "first: kvm-sea: host sim, platforms ampereone, *",
            "second: kvm-sea: host sim, platforms ampereone, *",
            "third: kvm-sea: host sim, platforms series-v1, *",
        ]
    )
    tests = json.loads((pytester.path / "kcidb.json").read_text())["tests"]
    places = [test["environment"]["misc"] for test in tests]
    assert Counter((place["gateway"], place["platform"], place["revision"]) for place in places) == {
        ("first", "ampereone", "mainline"): 2,
        ("second", "ampereone", "mainline"): 2,
        ("third", "series-v1", "series-v1"): 2,
    }
    assert len({place["kernel"] for place in places}) == 2
    assert len({test["path"] for test in tests}) == 4
    assert len({test["id"] for test in tests}) == 6
    suite = ET.parse(pytester.path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    found = {one.attrib["name"]: one.attrib["value"] for one in suite.findall("properties/property")}
    assert found["kvm_sea_platform"] == "ampereone, series-v1"
    assert found["kvm_sea_revision"] == "mainline, series-v1"
    for case in suite.findall("testcase"):
        own = {one.attrib["name"]: one.attrib["value"] for one in case.findall("properties/property")}
        assert own["kvm_sea_platform"] in case.attrib["name"]
        assert own["kvm_sea_capabilities"]


def test_an_environment_that_is_not_valid_is_told_once(pytester: pytest.Pytester) -> None:
    """An error at its start would make xdist start the worker again and again."""
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess(*hosts(good="ampereone", bad="ampereon"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    problem = r"^ERROR: (worker bad: environment variable KVM_SEA_PLATFORM: 'ampereon': unknown .*?);"
    assert len(re.findall(problem, result.stderr.str(), re.M)) == 1
    for word in ("node down", "Traceback", "INTERNALERROR", "replacing"):
        assert word not in text


def test_a_file_that_is_no_platform_is_told_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.makefile(".yaml", mine="name: mine\nunknown: 1\n")
    result = pytester.runpytest_inprocess(*hosts(bad="mine.yaml"))
    result.stderr.fnmatch_lines(["ERROR: worker bad: --kvm-sea-platform: *mine.yaml*unknown*"])
    assert "node down" not in result.stdout.str()


def test_a_worker_in_the_place_of_one_that_died_is_the_same_host(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_x(kvm_sea_target, number):
            if number == 1 and kvm_sea_target.name == "ampereone":
                os._exit(3)
        """
    )
    result = pytester.runpytest_inprocess(*hosts(dies="ampereone", lives="neoverse-v2"), *ORIGIN)
    result.assert_outcomes(passed=5, failed=1)
    tests = json.loads((pytester.path / "kcidb.json").read_text())["tests"]
    assert Counter((test["environment"]["misc"]["gateway"], test["status"]) for test in tests) == {
        ("dies", "PASS"): 2,
        ("dies", "ERROR"): 1,
        ("lives", "PASS"): 3,
    }


def test_equal_hosts_are_hosts_of_their_own(pytester: pytest.Pytester) -> None:
    """`--tx 2*popen` gives workers that compare equal."""
    pytester.makepyfile("def test_x(kvm_sea_target): ...")
    arguments = ("-p", "no:cacheprovider", "--dist=each", "--tx=2*popen", "--kvm-sea-platform=ampereone")
    result = pytester.runpytest_inprocess(*arguments, *ORIGIN)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*= kvm-sea: 2 tests on 2 platforms: 2 passed =*"])
    tests = json.loads((pytester.path / "kcidb.json").read_text())["tests"]
    assert {test["environment"]["misc"]["gateway"] for test in tests} == {"gw0", "gw1"}


def test_workers_that_share_the_tests_are_one_host(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-n", "2", "-p", "no:cacheprovider", "--kvm-sea-platform=ampereone")
    result.stdout.fnmatch_lines(["*= kvm-sea: 2 tests on 1 platform: 1 passed, 1 skipped =*"])
    text = result.stdout.str()
    assert "each worker" not in text
    assert "gw0: kvm-sea" not in text
    assert "on gw" not in text
