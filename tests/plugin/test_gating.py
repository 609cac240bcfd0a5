# SPDX-License-Identifier: GPL-2.0-only
"""The gate in one process: what becomes a failure, what stays as it is, what is refused before the first test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_kvm_sea import reporting
from pytest_kvm_sea.outputs import Output
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId

PLATFORM = "--kvm-sea-platform=ampereone"
PASSES = "def test_passes(): ...\n"
LATER = 'import pytest\ndef test_later(): pytest.skip("later")\n'
NO_TABLE = "--kvm-sea-platform=no-einj-table"
NEEDS_EINJ = "def test_einj(kvm_sea_einj): ...\n"
BROKEN = "def test_broken(): assert 1 == 2, 'broken'\n"


def known(tests: str, more: str = "") -> str:
    return f'known: [{{tests: "{tests}", reason: the cell leaks, link: "https://example.org/7"{more}}}]'


def gated(pytester: pytest.Pytester, tests: str, expectations: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=tests)
    pytester.makefile(".yaml", e=f"version: 1\n{expectations}")
    platform = () if any("platform" in option for option in options) else (PLATFORM,)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rA", "--kvm-sea-expect=e.yaml", *platform, *options)


def line(result: pytest.RunResult, text: str) -> str:
    """The first line of the output that has the text in it."""
    return next(found for found in result.outlines if text in found)


# Skips


def test_a_skip_that_is_not_allowed_is_a_failure(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES + LATER, "skips: []", "--junit-xml=j.xml")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    line(result, "skip that e.yaml does not allow: later")
    entry = line(result, "- {id:")
    assert entry == '  - {id: "*", tests: "test_it.py::test_later", reason: why that is fine}'
    (message,) = [one.get("message", "") for one in ET.parse(pytester.path / "j.xml").iter("failure")]
    assert message.startswith("Failed: skip that e.yaml does not allow: later\n")
    # What it told to write is what allows it.
    gated(pytester, PASSES + LATER, f"skips:\n{entry}").assert_outcomes(passed=1, skipped=1)


def test_a_skip_in_set_up_is_one_too(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES + NEEDS_EINJ, "", NO_TABLE)
    result.assert_outcomes(passed=1, errors=1)
    line(result, "skip that e.yaml does not allow: [einj-table] the firmware has no EINJ table; enable")
    entry = line(result, "- {id:")
    assert "{id: einj-table, " in entry
    assert "targets: [sim-no-einj-table-mainline]" in entry
    gated(pytester, PASSES + NEEDS_EINJ, f"skips:\n{entry}", NO_TABLE).assert_outcomes(passed=1, skipped=1)


def test_a_file_that_is_skipped_as_a_whole_is_a_finding(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="import pytest\npytest.skip('no time', allow_module_level=True)")
    result = gated(pytester, PASSES, "")
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == 1
    line(result, "FAILED: test_other.py: skip that e.yaml does not allow: no time")
    allowed = gated(pytester, PASSES, "skips: [{id: '*', tests: test_other.py, reason: fine}]")
    assert allowed.ret == 0


# Promises


def test_a_promise_is_a_test_even_where_no_test_needs_it(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES, "promises:\n- kvm\n- einj-module", NO_TABLE)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "PASSED e.yaml::sim-no-einj-table-mainline-kvm",
            "FAILED e.yaml::sim-no-einj-table-mainline-einj-module*",
        ]
    )
    line(result, "[einj-module] promised by e.yaml:4 but absent: [einj-table] the firmware has no EINJ table; enable")


def test_promises_are_made_after_deselection(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES + BROKEN, "promises: [kvm]", "-k", "passes")
    result.assert_outcomes(passed=2, deselected=1)


def test_a_skip_of_what_is_promised_is_a_failure_whatever_is_allowed(pytester: pytest.Pytester) -> None:
    tests = PASSES + NEEDS_EINJ
    expectations = 'promises: [einj-module]\nskips: [{id: "*", tests: "*", reason: any}]'
    result = gated(pytester, tests, expectations, NO_TABLE)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    line(result, "[einj-table] with einj-module, which needs it, promised by e.yaml:2 but absent: the firmware has no")


def test_a_promise_of_another_target_is_nobodys(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES, "promises: [{name: kvm, targets: [linux-mainline]}]")
    result.assert_outcomes(passed=1)
    line(result, "note: e.yaml:2: not looked after: kvm, for this run has none of its targets, linux-mainline")


# Known failures


def test_a_known_failure_is_expected(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES + BROKEN, known("test_it.py::test_broken"))
    result.assert_outcomes(passed=1, xfailed=1)
    assert result.ret == 0
    line(result, "XFAIL test_it.py::test_broken - the cell leaks; https://example.org/7 (e.yaml:2)")
    line(result, "e.yaml: 0 promises tested, 2 tests ran, 0 skips allowed, 1 known failure")


def test_a_known_failure_that_passes_is_a_failure(pytester: pytest.Pytester) -> None:
    result = gated(pytester, PASSES, known("test_it.py::test_passes"))
    result.assert_outcomes(failed=1)
    line(result, "unexpected pass: e.yaml:2 says that this test fails, and it does not any more: remove the entry")
    line(result, "the entry's reason: the cell leaks; https://example.org/7 (e.yaml:2)")


def test_a_strict_mark_does_not_hide_that_it_passes(pytester: pytest.Pytester) -> None:
    tests = f"import pytest\n@pytest.mark.xfail(strict=True)\n{PASSES}"
    gated(pytester, tests, known("test_it.py::test_passes")).assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("fixture", "outcomes"),
    [("assert False; yield", {"errors": 1}), ("yield; assert False", {"xfailed": 1, "errors": 1})],
    ids=["setup", "teardown"],
)
def test_errors_around_a_test_are_not_known(pytester: pytest.Pytester, fixture: str, outcomes: dict[str, int]) -> None:
    tests = f"import pytest\n@pytest.fixture\ndef around():\n    {fixture}\ndef test_broken(around): assert False"
    result = gated(pytester, tests, known("*"))
    result.assert_outcomes(**outcomes)
    assert result.ret == 1


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        (', kernel: ">=7.3,<7.4"', "xfailed"),
        (', kernel: "<7.3"', "failed"),
        (", targets: [sim-ampere*]", "xfailed"),
        (", targets: [linux-mainline]", "failed"),
    ],
)
def test_a_failure_is_known_on_some_kernels_and_targets(pytester: pytest.Pytester, more: str, outcome: str) -> None:
    tests = "def test_broken(kvm_sea_target): assert False"
    gated(pytester, tests, known("test_it.py::test_broken[*]", more)).assert_outcomes(**{outcome: 1})


def test_no_failure_is_known_with_runxfail(pytester: pytest.Pytester) -> None:
    gated(pytester, PASSES + BROKEN, known("*::test_broken"), "--runxfail").assert_outcomes(passed=1, failed=1)


SUBTESTS = "def test_parts(subtests):\n    for one in 1, 2:\n        with subtests.test(): assert one == {}\n"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has no subtests before 9")
@pytest.mark.parametrize(("right", "ret"), [(1, 0), ("one", 1)])
def test_a_known_failure_of_a_subtest(pytester: pytest.Pytester, right: object, ret: int) -> None:
    result = gated(pytester, SUBTESTS.format(right), known("test_it.py::test_parts"))
    assert result.ret == ret
    assert ("unexpected pass" in result.stdout.str()) is bool(ret)


# What others mark


@pytest.mark.parametrize(("body", "outcome"), [("...", "failed"), ("assert False", "xfailed")], ids=["passes", "fails"])
def test_a_mark_that_is_not_strict_lets_nothing_pass(pytester: pytest.Pytester, body: str, outcome: str) -> None:
    tests = f"import pytest\n@pytest.mark.xfail(strict=False, reason='why')\ndef test_x(): {body}"
    result = gated(pytester, tests, "")
    result.assert_outcomes(**{outcome: 1})
    assert ("unexpected pass: the test is marked xfail and passed" in result.stdout.str()) is (outcome == "failed")


def test_a_known_defect_of_the_selftests_stays_what_it_is(pytester: pytest.Pytester) -> None:
    tests = (
        "from pytest_kvm_sea.expectations import known_defect\n"
        "def test_x():\n    with known_defect('mainline-fnv', when=True): assert False"
    )
    result = gated(pytester, tests, "at_least: 1")
    result.assert_outcomes(xfailed=1)
    assert result.ret == 0


# The run as a whole

NOTHING = "FAILED: nothing ran: no test passed, failed, or failed as expected, so nothing was tested"


@pytest.mark.parametrize(
    ("tests", "options"),
    [
        (LATER, ()),
        (PASSES, ("-k", "nothing")),
        (PASSES, ("--collect-only",)),
        (PASSES, ("--setup-plan",)),
        ("import pytest\n@pytest.fixture\ndef f(): assert 0\ndef test_x(f): ...", ()),
        ("", ()),
    ],
    ids=["skipped", "deselected", "collected", "planned", "set-up", "none"],
)
def test_nothing_ran_is_never_green(pytester: pytest.Pytester, tests: str, options: tuple[str, ...]) -> None:
    result = gated(pytester, tests, 'promises: [kvm]\nskips: [{id: "*", tests: "*", reason: any}]', *options)
    assert result.ret == 1
    assert NOTHING in result.outlines


@pytest.mark.parametrize(("wanted", "ret"), [(3, 0), (4, 1)])
def test_at_least(pytester: pytest.Pytester, wanted: int, ret: int) -> None:
    # Promises, skips and errors of set-up are no tests that ran.
    tests = f"{PASSES}{BROKEN}{LATER}def test_ours(kvm_sea_target): ...\n{NEEDS_EINJ}"
    expectations = f"promises: [kvm]\nat_least: {wanted}\nskips: [{{id: '*', tests: '*', reason: any}}]"
    result = gated(pytester, tests, f"{expectations}\n{known('*::test_broken')}", NO_TABLE)
    assert result.ret == ret
    told = f"FAILED: e.yaml:3: at_least: {wanted} tests were to run, and 3 did"
    assert (told in result.outlines) is bool(ret)


class Listener:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.run: RunEnd | None = None

    def start(self, run: RunStart) -> None: ...

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None: ...

    def started(self, test: TestId) -> None: ...

    def finished(self, record: Record) -> None:
        self.records.append(record)

    def end(self, run: RunEnd) -> None:
        self.run = run

    def abandon(self) -> None: ...


def test_reports_say_the_same(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(reporting, "make_outputs", lambda *_: [Output("x", listener)])
    gated(pytester, PASSES + LATER, "promises: [kvm]\nat_least: 9")
    assert {record.test.name: record.outcome for record in listener.records} == {
        "sim-ampereone-mainline-kvm": Outcome.PASS,
        "test_passes": Outcome.PASS,
        "test_later": Outcome.FAIL,
    }
    # Nothing that was simulated may be taken for a result of this machine.
    assert listener.records[0].is_simulated
    assert listener.records[2].message == "Failed: skip that e.yaml does not allow: later"
    assert listener.run is not None
    assert listener.run.exit_status == 1
    assert listener.run.findings == ("e.yaml:3: at_least: 9 tests were to run, and 1 did",)


def test_a_run_that_was_stopped_is_not_judged_as_a_whole(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): raise KeyboardInterrupt")
    pytester.makefile(".yaml", e="version: 1\nat_least: 9")
    result = pytester.runpytest_inprocess("--kvm-sea-expect=e.yaml", PLATFORM, no_reraise_ctrlc=True)
    assert result.ret == 2
    line(result, "the run did not come to its end, so it is not judged as a whole")
    assert "at_least" not in result.stdout.str()


# What is refused

REFUSED = {
    "no file": ("", ("--kvm-sea-expect=absent.yaml",), "absent.yaml: cannot be read: No such file or directory; "),
    "unknown key": ("knwon: []", (), "e.yaml:2:1: unknown key 'knwon'; nearest valid key: known"),
    "no capability": ("promises: [kmv]", (), "e.yaml:2:12: promises[0].name: unknown requirement 'kmv'; nearest"),
    "no target": ("targets: [sim-amperone-*]", (), "e.yaml:2: targets: 'sim-amperone-*' is no target; nearest valid"),
    "not of this run": ("targets: [linux-*]", (), "e.yaml:2: targets: linux-*: this run has none of them; it has sim-"),
    "contradiction": ("promises: [ras]\nskips: [{id: kvm, reason: r}]", (), "e.yaml:3: a skip for [kvm] is allowed on"),
    "no test": (known("test_it.py::test_broke"), (), "e.yaml:2: tests: 'test_it.py::test_broke' matches no test of"),
    "and to write": ("", ("--kvm-sea-expect-write=new.yaml",), "new.yaml is written from a run that is judged by no"),
}


@pytest.mark.parametrize(("expectations", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_the_first_test(
    pytester: pytest.Pytester, expectations: str, options: tuple[str, ...], message: str
) -> None:
    result = gated(pytester, PASSES + BROKEN, expectations, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not re.search("passed|failed", result.stdout.str())


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        ((), True),
        ((".",), True),
        (("-k", "passes"), True),
        (("--deselect=test_it.py::test_broken",), True),
        (("test_it.py",), False),
        (("test_it.py::test_passes",), False),
        (("--ignore=test_other.py",), False),
    ],
)
def test_absent_tests_are_a_mistake_unless_the_run_was_narrowed(
    pytester: pytest.Pytester, options: tuple[str, ...], is_refused: bool
) -> None:
    result = gated(pytester, PASSES, known("test_other.py::test_x"), *options)
    assert result.ret == (4 if is_refused else 0)


def test_a_file_that_cannot_be_collected_is_told_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other=PASSES)
    result = gated(pytester, "import absent_module", known("test_it.py::test_x"))
    assert result.ret == 2
    assert "absent_module" in result.stdout.str()


def test_without_the_option_nothing_changes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LATER)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    assert "expectations" not in result.stdout.str()


# A first file


def selftests(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    modules = [f"pytest_kvm_sea.selftests.{name}" for name in ("test_einj_driver", "test_sigbus", "test_inject_iabt")]
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--pyargs", *modules, *options)


@pytest.mark.parametrize(
    "platforms", [("ampereone",), ("unprivileged",), ("no-ras", "series-v1", "no-einj-table")], ids="+".join
)
def test_the_run_that_wrote_the_file_keeps_it(pytester: pytest.Pytester, platforms: tuple[str, ...]) -> None:
    chosen = [f"--kvm-sea-platform={name}" for name in platforms]
    assert selftests(pytester, *chosen, "--kvm-sea-expect-write=new.yaml").ret == 0
    again = selftests(pytester, *chosen, "--kvm-sea-expect=new.yaml")
    assert again.ret == 0
    assert "note:" not in again.stdout.str()


LOST = "name: {}\ndescription: It was there yesterday.\nfirmware: {{einj: {{table: false}}}}\n"


@pytest.mark.parametrize("name", ["ampereone", "another"])
def test_a_machine_that_loses_something_is_red(pytester: pytest.Pytester, name: str) -> None:
    assert selftests(pytester, PLATFORM, "--kvm-sea-expect-write=new.yaml").ret == 0
    pytester.makefile(".yaml", lost=LOST.format(name))
    result = selftests(pytester, "--kvm-sea-platform=./lost.yaml", "--kvm-sea-expect=new.yaml", "-rfE")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAILED new.yaml::sim-{name}-mainline-einj-table*"])
    line(result, "FAILED: new.yaml:")


def test_what_failed_is_left_to_a_person(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=PASSES + BROKEN)
    assert pytester.runpytest_inprocess("--kvm-sea-expect-write=new.yaml").ret == 1
    text = (pytester.path / "new.yaml").read_text()
    assert "known:" not in [found.strip() for found in text.splitlines()]
    assert '#   - tests: "test_it.py::test_broken"\n#     reason:  # "AssertionError: broken"\n' in text


@pytest.mark.parametrize(
    ("path", "message"),
    [("here.yaml", "exists and is not overwritten; valid: a new file"), ("a/b.yaml", "there is no directory")],
)
def test_a_file_is_not_overwritten(pytester: pytest.Pytester, path: str, message: str) -> None:
    here: Path = pytester.makefile(".yaml", here="mine")
    result = pytester.runpytest_inprocess(f"--kvm-sea-expect-write={path}")
    assert result.ret == 4
    assert message in result.stderr.str()
    assert here.read_text() == "mine"


def test_a_run_of_nothing_writes_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LATER)
    result = pytester.runpytest_inprocess("--kvm-sea-expect-write=new.yaml")
    assert result.ret == 1
    line(result, "new.yaml was not written: nothing ran")
    assert not (pytester.path / "new.yaml").exists()
