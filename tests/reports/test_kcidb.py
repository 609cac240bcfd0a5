# SPDX-License-Identifier: GPL-2.0-only
"""The report for KCIDB. Where kcidb-io is installed, its schema judges every report; what the schema says is checked
here as well, as far as it matters."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_kvm_sea.reports.kcidb import MAX_EXCERPT, KcidbSink, Submitter
from pytest_kvm_sea.reports.kcidb_path import path_of, paths_of
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, Subtest, TestId

try:
    from kcidb_io import schema
except ImportError:
    schema = None

PATH = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*")
ID = re.compile(r"[a-z0-9_]+:[^\0]*")
SIM = {
    "kvm_sea_host": "sim",
    "kvm_sea_platform": "ampereone",
    "kvm_sea_revision": "mainline",
    "kvm_sea_kernel": "7.3.4",
    "kvm_sea_capabilities": "arm64, kvm, ras",
    "kvm_sea_firmware_tables": "EINJ",
}
REAL = SIM | {"kvm_sea_host": "linux", "kvm_sea_platform": "", "kvm_sea_node": "server-1"}
START = RunStart(1e9, "0.1", "sim")
END = RunEnd(1e9 + 60, 0)


def report(
    directory: Path,
    records: Sequence[Record],
    *,
    planned: Sequence[TestId] | None = None,
    errors: Sequence[CollectionError] = (),
    build: str | None = None,
    start: RunStart = START,
    end: RunEnd = END,
) -> list[dict[str, Any]]:
    """The tests of a report that is valid by the schema."""
    sink = KcidbSink(directory / "kcidb.json", Submitter("my_lab", build))
    sink.start(start)
    sink.planned([record.test for record in records] if planned is None else planned, errors)
    for record in records:
        sink.started(record.test)
        sink.finished(record)
    try:
        sink.end(end)
    finally:
        tests = check(json.loads((directory / "kcidb.json").read_text(encoding="utf-8")))
    return tests


def values(tree: object) -> list[object]:
    """All that is in a tree of JSON and is no tree."""
    if isinstance(tree, dict):
        return [leaf for each in tree.values() for leaf in values(each)]
    return [leaf for each in tree for leaf in values(each)] if isinstance(tree, list) else [tree]


def check(found: dict[str, Any]) -> list[dict[str, Any]]:
    if schema is not None:  # test_the_schema_is_the_judge says so where it is not there
        schema.LATEST.validate(found)
    assert found["version"] == {"major": 5, "minor": 3}
    assert found["builds"] == found["checkouts"] == []
    tests: list[dict[str, Any]] = found["tests"]
    for test in tests:
        assert PATH.fullmatch(test["path"]), test["path"]
        assert ID.fullmatch(test["id"])
        assert ID.fullmatch(test["build_id"])
        assert len(test.get("log_excerpt", "")) <= MAX_EXCERPT
        assert None not in values(test)
        assert "\\u0000" not in json.dumps(test)
        if "start_time" in test:
            assert datetime.fromisoformat(test["start_time"]).utcoffset() == timedelta(0)
    assert len({test["id"] for test in tests}) == len(tests)
    return tests


def record(outcome: Outcome, name: str = "test_x", target: str = "sim-ampereone-mainline", **more: Any) -> Record:
    more.setdefault("properties", SIM if target.startswith("sim") else REAL)
    return Record(TestId(f"test_sea.py::{name}[{target}]"), outcome, **more)


def test_the_schema_is_the_judge(tmp_path: Path) -> None:
    if schema is None:
        pytest.skip("[kcidb-io] the schema of KCIDB is not installed; pip install kcidb-io, or tox -e parsers")
    report(tmp_path, [record(outcome, outcome.value) for outcome in Outcome])
    found = json.loads((tmp_path / "kcidb.json").read_text())
    assert schema.LATEST.is_valid(found)
    version = schema.LATEST
    assert (version.major, version.minor) == (5, 3)
    found["tests"][0]["surprise"] = 1
    assert not schema.LATEST.is_valid(found)


# Outcomes


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.PASS, "PASS"),
        (Outcome.XPASS, "PASS"),
        (Outcome.FAIL, "FAIL"),
        (Outcome.XFAIL, "FAIL"),
        (Outcome.TIMEOUT, "FAIL"),
        (Outcome.ERROR, "ERROR"),
        (Outcome.SKIP, "SKIP"),
    ],
)
def test_status(tmp_path: Path, outcome: Outcome, status: str) -> None:
    (test,) = report(tmp_path, [record(outcome)])
    assert test["status"] == status
    assert test["misc"]["outcome"] == outcome.value


def test_an_expected_failure_says_that_it_is_one(tmp_path: Path) -> None:
    failed, expected, gone = report(
        tmp_path,
        [
            record(Outcome.FAIL, "a", message="assert 1 == 2"),
            record(Outcome.XFAIL, "b", reason="[mainline-fnv] FnV is never set; a link"),
            record(Outcome.XPASS, "c", reason="[mainline-fnv] FnV is never set; a link"),
        ],
    )
    assert "expected_failure" not in failed["misc"]
    for test in (expected, gone):
        assert test["misc"]["expected_failure"] == "[mainline-fnv] FnV is never set; a link"
    assert failed["comment"] == "assert 1 == 2"


def test_a_test_in_full(tmp_path: Path) -> None:
    (test,) = report(
        tmp_path,
        [
            record(
                Outcome.FAIL,
                message="it failed",
                detail="line 1\nE  it failed",
                output={"Captured stdout call": "hello", "Captured log call": "E  it failed"},
                start=1_700_000_000.25,
                duration=1.5,
                worker="gw1",
                subtests=[Subtest("a", Outcome.FAIL, message="no"), Subtest("b", Outcome.PASS)],
            )
        ],
    )
    assert test["start_time"] == "2023-11-14T22:13:20.250000+00:00"
    assert test["duration"] == 1.5
    assert test["log_excerpt"] == "line 1\nE  it failed\nCaptured stdout call\nhello"
    assert test["misc"] == {
        "outcome": "fail",
        "node_id": "test_sea.py::test_x[sim-ampereone-mainline]",
        "phase": "call",
        "worker": "gw1",
        "subtests": [
            {"name": "a", "outcome": "fail", "reason": "no"},
            {"name": "b", "outcome": "pass", "reason": ""},
        ],
    }
    assert test["environment"]["misc"] == {
        "simulated": True,
        "host": "sim",
        "platform": "ampereone",
        "revision": "mainline",
        "kernel": "7.3.4",
        "capabilities": ["arm64", "kvm", "ras"],
        "firmware_tables": ["EINJ"],
    }


def test_what_did_not_run_is_missing(tmp_path: Path) -> None:
    """Nobody may take a report of two tests for a report of all."""
    done = record(Outcome.PASS, "done", "linux-mainline")
    planned = [
        done.test,
        TestId("test_sea.py::TestX::late[linux-mainline-el0]"),
        TestId("test_sea.py::v1[linux-series-v1]"),
        TestId("test_sea.py::simulated[sim-ampereone-mainline]"),
        TestId("test_other.py::test_of_others"),
        TestId("test_other.py::test_of_others[linux-kernel]"),
    ]
    tests = report(
        tmp_path,
        [done],
        planned=planned,
        build="maestro:1",
        end=RunEnd(1.0, 2, stopped="interrupted from the keyboard", broken=True),
    )
    assert [(test["status"], test["path"], test["build_id"]) for test in tests] == [
        ("PASS", "kvm_sea.test_sea.done.linux-mainline", "maestro:1"),
        ("MISS", "kvm_sea.test_sea.TestX.late.linux-mainline-el0", "maestro:1"),
        ("MISS", "kvm_sea.test_sea.v1.linux-series-v1", "maestro:1"),
        ("MISS", "simulated.kvm_sea.test_sea.simulated.sim-ampereone-mainline", "my_lab:kvm-sea-simulated"),
    ]
    assert all("interrupted from the keyboard" in test["comment"] for test in tests[1:])


def test_what_could_not_be_collected_is_missing(tmp_path: Path) -> None:
    error = CollectionError("test_y.py", "ImportError: no module x", "x" * 20_000)
    for host, build, prefix in (("sim", None, "simulated."), ("linux", "maestro:1", "")):
        (test,) = report(tmp_path, [], errors=[error], build=build, start=RunStart(1.0, "0.1", host))
        assert (test["status"], test["path"]) == ("MISS", f"{prefix}kvm_sea.test_y")
        assert test["comment"] == "ImportError: no module x"
        assert len(test["log_excerpt"]) > MAX_EXCERPT - 100


def test_a_worker_that_crashed_leaves_no_properties(tmp_path: Path) -> None:
    crashed = record(Outcome.ERROR, target="linux-mainline", phase="crash", properties={})
    (test,) = report(tmp_path, [crashed], build="maestro:1")
    assert (test["status"], test["build_id"]) == ("ERROR", "maestro:1")
    assert "start_time" not in test


# Whose results they are


def test_tests_of_others_are_left_out(tmp_path: Path) -> None:
    assert report(tmp_path, [Record(TestId("test_x.py::test_x[1]"), Outcome.FAIL)]) == []


def test_a_simulated_test_is_never_one_of_a_kernel(tmp_path: Path) -> None:
    """Also where workers of one run have hosts of both kinds."""
    simulated, real = report(
        tmp_path, [record(Outcome.PASS), record(Outcome.PASS, target="linux-mainline")], build="maestro:1"
    )
    assert simulated["build_id"] == "my_lab:kvm-sea-simulated"
    assert simulated["path"].startswith("simulated.")
    assert simulated["environment"]["misc"]["simulated"] is True
    assert simulated["environment"]["comment"].startswith("SIMULATED host ampereone: no kernel was tested")
    assert real["build_id"] == "maestro:1"
    assert real["path"] == "kvm_sea.test_sea.test_x.linux-mainline"
    assert real["environment"]["misc"]["simulated"] is False
    assert real["environment"]["comment"] == "server-1, Linux 7.3.4"


@pytest.mark.parametrize(
    ("build", "kernels", "problem"),
    [
        (None, ("7.3.4",), "no build was named"),
        ("maestro:1", ("7.3.4", "7.4.0"), r"several kernels ran: 7\.3\.4, 7\.4\.0"),
    ],
)
def test_real_tests_without_one_build_are_left_out_aloud(
    tmp_path: Path, build: str | None, kernels: tuple[str, ...], problem: str
) -> None:
    real = [
        record(Outcome.PASS, f"test_{kernel}", "linux-mainline", properties=REAL | {"kvm_sea_kernel": kernel})
        for kernel in kernels
    ]
    with pytest.raises(OSError, match=problem):
        report(tmp_path, [*real, record(Outcome.PASS)], build=build)
    (test,) = json.loads((tmp_path / "kcidb.json").read_text())["tests"]
    assert test["environment"]["misc"]["simulated"]


# Texts


def test_a_long_failure_keeps_both_ends(tmp_path: Path) -> None:
    detail = "def test_x():\n" + "x" * (1 << 20) + "\nE  the last word"
    (test,) = report(tmp_path, [record(Outcome.FAIL, detail=detail)])
    excerpt = test["log_excerpt"]
    assert MAX_EXCERPT - 200 < len(excerpt) <= MAX_EXCERPT
    assert excerpt.startswith("def test_x():\n")
    assert excerpt.endswith("\nE  the last word")
    left_out = re.search(r"\[\.\.\. (\d+) characters are left out \.\.\.\]", excerpt)
    assert left_out is not None
    assert int(left_out[1]) + len(excerpt) - len(left_out[0]) - 2 == len(detail)


@given(st.text(st.characters(codec=None), max_size=30), st.sampled_from(Outcome))
@example("\0 \x1b[31m \ud800 \udcff \uffff", Outcome.FAIL)
@example("null", Outcome.PASS)
def test_whatever_the_guest_printed_is_valid(
    tmp_path_factory: pytest.TempPathFactory, text: str, outcome: Outcome
) -> None:
    directory = tmp_path_factory.mktemp("kcidb")
    one = record(
        outcome,
        reason=text,
        message=text,
        detail=text,
        output={f"Captured stdout {text}": text},
        subtests=[Subtest(text, Outcome.FAIL, text)],
        properties=SIM | {"kvm_sea_platform": text, f"kvm_sea_{text}": text},
    )
    report(directory, [one], errors=[CollectionError(text, text, text)])


# Paths


WORDS = st.text(st.sampled_from("ab_-.[]:/ ü\0"), max_size=8)
NODEIDS = st.one_of(
    st.text(max_size=20),
    st.builds("{}.py::{}[{}]".format, WORDS, WORDS, WORDS),
    st.builds("{}/{}.py::{}::{}".format, WORDS, WORDS, WORDS, WORDS),
)


@given(st.lists(NODEIDS, unique=True))
@example(["a/b.py::c", "a.py::b::c", "a.py::b[c]", "a.b.c", "a_b.py::c"])
@example(["", "[", "]", "::", "[]", "."])
def test_any_ids_have_valid_paths_of_their_own(nodeids: list[str]) -> None:
    paths = paths_of(nodeids)
    assert list(paths) == nodeids
    assert len(set(paths.values())) == len(nodeids)
    for path in paths.values():
        assert PATH.fullmatch(path)
        assert path.startswith("kvm_sea")
    # Nor does a path depend on the order.
    assert paths_of(reversed(nodeids)) == paths


@pytest.mark.parametrize(
    ("nodeid", "path"),
    [
        ("test_sea.py::test_x[sim-ampereone-mainline-el0]", "test_sea.test_x.sim-ampereone-mainline-el0"),
        ("pytest_kvm_sea/selftests/test_sea.py::test_x[linux-mainline]", "test_sea.test_x.linux-mainline"),
        (
            "../venv/lib/python3.11/site-packages/pytest_kvm_sea/selftests/test_sea.py::test_x[linux-mainline]",
            "test_sea.test_x.linux-mainline",
        ),
        ("../lib/site-packages/other/test_sea.py::test_x", "other.test_sea.test_x"),
        ("tests/my/test_sea.py::TestX::test_y", "tests.my.test_sea.TestX.test_y"),
        ("test_x.py::test_x[sim-mainline-6.19-mainline]", "test_x.test_x.sim-mainline-6_19-mainline"),
        ("test_x.py::test_x[a/b::c[d]]", "test_x.test_x.a_b__c_d_"),
    ],
)
def test_a_path_is_the_same_wherever_the_tests_are(nodeid: str, path: str) -> None:
    assert path_of(nodeid) == f"kvm_sea.{path}"


# From the command line

TESTS = """
import pytest

@pytest.mark.parametrize("what", ["a b", "a:b", "c.d"])
def test_x(kvm_sea_target, what):
    print("\\0\\x1b[31m", what)
    assert what == "c.d"

@pytest.fixture
def broken(kvm_sea_target):
    raise RuntimeError("set-up")

def test_broken(broken): ...

@pytest.mark.xfail(reason="[known] a defect", strict=True)
def test_known(kvm_sea_target):
    assert False
"""
ORIGIN = "--kvm-sea-kcidb-origin=my_lab"
FILE = "--kvm-sea-kcidb=kcidb.json"
SOME = ("--kvm-sea-platform=ampereone", "--kvm-sea-platform=neoverse-v2", "-p", "no:cacheprovider")


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=" ".join)
def test_a_run(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess(FILE, ORIGIN, *SOME, *arguments)
    result.assert_outcomes(passed=2, failed=4, errors=2, xfailed=2)
    tests = check(json.loads((pytester.path / "kcidb.json").read_text()))
    assert len({test["path"] for test in tests}) == 10
    found = Counter((test["path"].split(".")[3], test["status"]) for test in tests)
    assert found == {
        ("test_x", "PASS"): 2,
        ("test_x", "FAIL"): 4,
        ("test_broken", "ERROR"): 2,
        ("test_known", "FAIL"): 2,
    }
    for test in tests:
        assert test["path"].startswith("simulated.kvm_sea.test_a_run.")
        assert test["build_id"] == "my_lab:kvm-sea-simulated"
        misc = test["environment"]["misc"]
        assert misc["platform"] in {"ampereone", "neoverse-v2"}
        assert "sea-to-user" in misc["capabilities"]
        assert misc["kernel"]


def test_two_runs_have_ids_of_their_own(tmp_path: Path) -> None:
    first, second = (report(tmp_path, [record(Outcome.PASS)]) for _ in range(2))
    assert first[0]["id"] != second[0]["id"]
    assert first[0]["path"] == second[0]["path"]


LINUX = "--kvm-sea-host=linux"
BUILD = "--kvm-sea-kcidb-build=maestro:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (FILE,),
            "--kvm-sea-kcidb: 'kcidb.json': a report needs the name of the CI system: --kvm-sea-kcidb-origin=*",
        ),
        ((FILE, ORIGIN, LINUX), "a report on this machine's kernel needs the build*: --kvm-sea-kcidb-build=ORIGIN:ID"),
        (
            (FILE, ORIGIN, BUILD),
            "--kvm-sea-kcidb-build: 'maestro:1': a simulated run tests no*host linux",
        ),
        ((BUILD,), "--kvm-sea-kcidb-build: 'maestro:1': a simulated run tests no kernel's build*"),
        ((FILE, "--kvm-sea-kcidb-origin=My Lab"), "'My Lab': not the name of a CI system; valid: lower-case letters*"),
        ((FILE, "--kvm-sea-kcidb-origin="), "'': not the name of a CI system*"),
        ((FILE, "--kvm-sea-kcidb-origin=a\n"), "'a\\n': not the name of a CI system*"),
        ((LINUX, "--kvm-sea-kcidb-build=1"), "'1': not the id of a build; valid: the name of a CI system*, a colon*"),
        ((LINUX, "--kvm-sea-kcidb-build=A:1"), "'A:1': not the id of a build*"),
        ((LINUX, "--kvm-sea-kcidb-build=a:"), "'a:': not the id of a build*"),
        ((LINUX, "--kvm-sea-kcidb-build=a:\udcff"), "not the id of a build*"),
        (("--kvm-sea-kcidb=none/k.json", ORIGIN), "--kvm-sea-kcidb: *none/k.json: cannot be written: No such file*"),
    ],
)
def test_usage_errors(pytester: pytest.Pytester, arguments: tuple[str, ...], message: str) -> None:
    pytester.makepyfile("def test_x(): raise SystemError")
    result = pytester.runpytest_inprocess(*arguments, "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message.replace('[', '[[]')}"])
    assert "Traceback" not in result.stderr.str()


def test_a_build_in_the_ini_file_is_for_real_hosts(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nkvm_sea_kcidb_build = maestro:1\n")
    pytester.makepyfile("def test_x(kvm_sea_target): ...")
    result = pytester.runpytest_inprocess(FILE, ORIGIN, *SOME[:1], "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    (test,) = check(json.loads((pytester.path / "kcidb.json").read_text()))
    assert test["build_id"] == "my_lab:kvm-sea-simulated"


def test_a_run_that_dies_leaves_no_report_of_another(pytester: pytest.Pytester) -> None:
    (pytester.path / "kcidb.json").write_text("old")
    pytester.makepyfile("import os\ndef test_x(kvm_sea_target):\n    os._exit(9)")
    pytester.runpytest_subprocess(FILE, ORIGIN, *SOME)
    assert not (pytester.path / "kcidb.json").exists()


def test_an_internal_error_of_a_worker_is_no_success(pytester: pytest.Pytester) -> None:
    """xdist ends such a run with 0; the text of this failure cannot be sent to the controller."""
    pytester.makepyfile("def test_x(kvm_sea_target):\n    raise AssertionError('\\ud800')\n")
    result = pytester.runpytest_inprocess(FILE, ORIGIN, SOME[0], "-n", "1", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    (test,) = check(json.loads((pytester.path / "kcidb.json").read_text()))
    assert test["status"] == "MISS"
    assert "internal error" in test["comment"]
