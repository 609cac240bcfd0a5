# SPDX-License-Identifier: GPL-2.0-only
"""What an entry speaks of: kernels, tests, targets, capabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.gate import kernels
from pytest_kvm_sea.gate.patterns import function, matches_test, portable
from pytest_kvm_sea.gate.rules import closure
from pytest_kvm_sea.gate.verdict import Tally, add, judge_run, judge_skip
from tests.gate.gate_files import NEEDS, rules

KERNELS = [
    # range, releases in it, releases outside
    ("", ["7.3.4", "anything"], []),
    (">=6.17,<7.4", ["6.17.0", "6.17-rc1", "6.18.3-cloud-arm64", "7.3.99"], ["6.16.12", "7.4.0", "7.4-rc1", "8.0"]),
    ("==7.3", ["7.3", "7.3.0", "7.3.4", "7.3-rc2"], ["7.2.9", "7.30.1", "7.4"]),
    ("!=7.3", ["7.2.9", "7.30"], ["7.3.4"]),
    ("<=7.3", ["7.3.4", "6.1"], ["7.4"]),
    (">7.3", ["7.4-rc1", "8"], ["7.3.4"]),
    (">7.3.2", ["7.3.3", "7.4"], ["7.3.2", "7.3", "7.3-rc5"]),
    (" >= 6.9 , < 6.10 ", ["6.9.9"], ["6.10", "6.1"]),
    ("<8", ["7.3.4"], ["8.0", "8.0.0-rc1", "no number at all"]),
]


@pytest.mark.parametrize(("text", "inside", "outside"), KERNELS)
def test_kernels(text: str, inside: list[str], outside: list[str]) -> None:
    span = kernels.parse(text)
    assert [release for release in inside + outside if release in span] == inside


@pytest.mark.parametrize("text", ["7.3", "=>7.3", ">=7.3,", ">=7.3.4.5", ">=7.3-rc1", ">=", ">=7 <8", "~=7.3"])
def test_no_kernels(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range of kernel releases; valid: "):
        kernels.parse(text)


numbers = st.lists(st.integers(0, 30), min_size=1, max_size=3)


@given(numbers, numbers)
def test_one_bound_and_its_opposite_share_all_releases(release: list[int], bound: list[int]) -> None:
    texts = [".".join(map(str, found)) for found in (release, bound)]
    for one, other in [(">=", "<"), (">", "<="), ("==", "!=")]:
        assert (texts[0] in kernels.parse(one + texts[1])) != (texts[0] in kernels.parse(other + texts[1]))


ID = "../x/selftests/test_a.py::TestB::test_c[sim-d-e::f]"
PATTERNS = [
    ("*", True),
    ("test_a.py", True),
    ("selftests/test_a.py", True),
    ("tests/test_a.py", False),
    ("_a.py", False),
    ("test_a.py::*", True),
    ("test_?.py::*", True),
    ("test_a.py::TestB", True),
    ("test_a.py::Test", False),
    ("test_a.py::TestB::test_c", True),
    ("test_a.py::TestB::test_", False),
    ("test_a.py::TestB::test_c[*]", True),
    ("test_a.py::TestB::test_c[sim-d-*]", True),
    ("test_a.py::TestB::test_c[sim-x-*]", False),
    ("test_a.py::*::test_c", True),
    ("*::test_c", False),
    ("test_c", False),
    (ID, True),
]


@pytest.mark.parametrize(("pattern", "matches"), PATTERNS)
def test_tests(pattern: str, matches: bool) -> None:
    assert matches_test(pattern, ID) is matches


@given(st.text(min_size=1), st.text())
def test_every_id_means_itself(file: str, name: str) -> None:
    nodeid = f"{file.replace(':', '')}.py::{name}"
    assert matches_test(nodeid, nodeid)
    assert matches_test(portable(nodeid), nodeid)


def test_short_forms_of_an_id() -> None:
    assert portable(ID) == "x/selftests/test_a.py::TestB::test_c[sim-d-e::f]"
    assert function(ID) == "test_a.py::TestB::test_c"
    assert function("a/test_a.py") == "test_a.py"


def test_what_is_needed_is_promised_too() -> None:
    assert closure("ras", NEEDS) == {"ras", "kvm", "machine"}
    some = rules("promises: [ras, {name: table, targets: [u]}, kvm]")
    assert [str(one and one.name) for one in (some.promise_of(name, "t") for name in NEEDS)] == [
        "ras",  # the first of two that need it
        "kvm",  # itself before what needs it
        "ras",
        "None",
    ]
    assert [promise.name for promise in some.promises("u")] == ["ras", "table", "kvm"]
    assert some.promise_of("kvm", None) is None


def test_a_promise_counts_once() -> None:
    twice = rules("promises: [kvm, {name: kvm, targets: [t]}]")
    assert len(twice.promises("t")) == 1


def test_scopes() -> None:
    some = rules(
        'targets: [t]\nskips: [{id: a, reason: r}, {id: b, reason: r, targets: ["u*"]}, {id: "*", tests: x, reason: r}]'
    )
    allowed = {
        target: [name for name in ("a", "b", "") if some.allowing(name, "y", target)] for target in ("t", "u1", None)
    }
    # What is written without targets is for those of the file, and for tests that have none.
    assert allowed == {"t": ["a"], "u1": ["b"], None: ["a"]}
    assert some.allowing("", "x", "t")
    assert some.allowing("any", "x", None)
    assert not some.allowing("", "x", "u1")


def test_known() -> None:
    some = rules('known: [{tests: "f.py::*", reason: r, link: "https://x", kernel: "<7", targets: [t]}]')
    assert some.known("f.py::a", "t", "6.9")
    assert not some.known("g.py::a", "t", "6.9")
    assert not some.known("f.py::a", "u", "6.9")
    assert not some.known("f.py::a", "t", "7.0")


def test_two_entries_on_one_line_are_two() -> None:
    entries = ", ".join(f'{{tests: "f.py::{n}", reason: r, link: "https://x", kernel: "{n}7"}}' for n in ("<", ">="))
    some = rules(f"known: [{entries}]")
    assert some.known("f.py::<", None, "6.9")
    assert not some.known("f.py::>=", None, "6.9")


def test_unknown_tests() -> None:
    some = rules(
        """
skips:
- {id: a, tests: "f.py::test_on", reason: r}
- {id: b, reason: for all tests}
- {id: a, tests: "f.py::nothing", targets: [elsewhere], reason: r}
known:
- {tests: "f.py::test_one", reason: r, link: "https://x", kernel: "<1"}
- {tests: "g.py", reason: r, link: "https://x"}
"""
    )
    first, second = some.unknown_tests(["d/f.py::test_one[a]"], ["t"])
    assert first.startswith("e.yaml:4: tests: 'f.py::test_on' matches no test of this run; nearest: f.py::test_one; ")
    assert second.startswith("e.yaml:9: tests: 'g.py' matches no test of this run; valid: FILE::TEST[PARAMETERS]")


SKIPS = {
    "allowed": ("skips: [{id: a, reason: r}]", "[a] b; c", ""),
    "one of two is allowed": (
        "skips: [{id: a, reason: r}]",
        "[a] b; c | [d] e; f",
        "skip that e.yaml does not allow: [d] e; f\n"
        'to allow it, add to skips of e.yaml:\n  - {id: d, tests: "f.py::x", '
        "targets: [t], reason: why that is fine}\nthe whole reason of the skip: [a] b; c | [d] e; f",
    ),
    "without an id": (
        "skips: [{id: a, reason: r}]",
        "later",
        'skip that e.yaml does not allow: later\nto allow it, add to skips of e.yaml:\n  - {id: "*", tests: "f.py::x", '
        "targets: [t], reason: why that is fine}",
    ),
    "promised": ("promises: [kvm]", "[kvm] none; buy", "[kvm] promised by e.yaml:2 but absent: none; buy"),
    "promised, whatever is allowed": (
        'promises: [kvm]\nskips: [{id: "*", tests: "*", reason: r}]',
        "[kvm] none; buy",
        "[kvm] promised by e.yaml:2 but absent: none; buy",
    ),
    "needed by what is promised": (
        "promises:\n- ras",
        "[machine] none; buy",
        "[machine] with ras, which needs it, promised by e.yaml:3 but absent: none; buy",
    ),
}


@pytest.mark.parametrize(("text", "reason", "problem"), SKIPS.values(), ids=SKIPS)
def test_skips(text: str, reason: str, problem: str) -> None:
    assert judge_skip(rules(text), reason, "d/f.py::x[p]", "t")[0] == problem


def test_the_entry_that_a_finding_shows_is_the_one_that_allows() -> None:
    for reason in ("[d] e; f", "later"):
        problem, _ = judge_skip(rules(""), reason, "d/f.py::x[p]", "t")
        entry = problem.rpartition("\n")[2].strip()
        assert judge_skip(rules(f"skips:\n{entry}"), reason, "d/f.py::x[p]", "t")[0] == ""


RUNS = {
    "green": ([Tally("e", 3, 9, ran=3)], []),
    "too few": ([Tally("e", 3, 9, ran=2)], ["e:9: at_least: 3 tests were to run, and 2 did"]),
    "enough together": ([Tally("e", 3, 9, ran=2), Tally("e", 3, 9, ran=1)], []),
    "nothing": (
        [Tally("e", ran=0, promises=7)],
        ["nothing ran: no test passed, failed, or failed as expected, so nothing was tested"],
    ),
    "told twice": ([Tally("e", ran=1, findings=["f"]), Tally("e", ran=1, findings=["f", "g"])], ["f", "g"]),
}


@pytest.mark.parametrize(("tallies", "findings"), RUNS.values(), ids=RUNS)
def test_runs(tallies: list[Tally], findings: list[str]) -> None:
    assert list(judge_run({"": add(tallies)}).findings) == findings


def test_every_machine_is_judged_by_itself() -> None:
    verdict = judge_run({"gw0": Tally("e", 3, 9, ran=3), "gw1": Tally("f", 1, 4)}, lost=["gw2"], ungated=["gw3"])
    assert [finding.partition(": ")[0] for finding in verdict.findings[:-1]] == ["gw1"]
    assert verdict.findings[-1].startswith("the worker gw2 went down")
    assert verdict.notes == ("gw3 has no file of expectations, so nothing that it ran was judged by one",)


def test_an_entry_is_idle_only_where_all_say_so() -> None:
    total = add([Tally("e", ran=1, unused=["e:1", "e:2"], skips=1), Tally("e", ran=1, unused=["e:2"], skips=2)])
    assert (total.unused, total.skips) == (["e:2"], 3)
