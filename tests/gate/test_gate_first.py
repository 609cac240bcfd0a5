# SPDX-License-Identifier: GPL-2.0-only
"""The first file: the run that it was written from keeps it, and a machine that loses something does not."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.gate.first import Failed, Seen, Skipped, write
from pytest_kvm_sea.gate.loader import parse
from pytest_kvm_sea.gate.rules import closure
from pytest_kvm_sea.gate.verdict import judge_skip
from tests.gate.gate_files import NEEDS

TARGETS = ("sim-a-mainline", "sim-b-mainline")
causes = st.one_of(
    st.text(),
    st.builds(
        "[{}] {}; {}".format, st.sampled_from([*NEEDS, "other", "el2"]), st.text(max_size=5), st.text(max_size=5)
    ),
)
skips = st.builds(
    Skipped,
    st.builds("{}f.py::{}".format, st.sampled_from(["", "../", "d/"]), st.text("a[*]?:", min_size=1)),
    st.lists(causes, min_size=1, max_size=3).map(" | ".join),
    st.sampled_from([*TARGETS, None]),
)
seen = st.builds(
    Seen,
    st.fixed_dictionaries(dict.fromkeys(TARGETS, st.lists(st.sampled_from(sorted(NEEDS)), unique=True))),
    st.lists(skips, max_size=5),
    st.lists(st.builds(Failed, st.text("a[]", min_size=1), st.just("call"), st.text()), max_size=2),
    st.integers(1, 1000),
)


@given(seen)
def test_the_same_run_keeps_it(run: Seen) -> None:
    rules = parse(write(run, NEEDS), "e.yaml", NEEDS)
    rules.check_targets(TARGETS, [])
    assert rules.given.at_least == run.ran
    assert rules.unknown_tests([skip.nodeid for skip in run.skipped] or ["x"], TARGETS) == []
    for skip in run.skipped:
        assert judge_skip(rules, skip.reason, skip.nodeid, skip.target)[0] == ""
    for target, found in run.found.items():
        assert {promise.name for promise in rules.promises(target)} <= set(found)


@given(seen)
def test_what_is_there_is_promised_unless_a_test_found_it_missing(run: Seen) -> None:
    run.skipped = []
    rules = parse(write(run, NEEDS), "e.yaml", NEEDS)
    for target, found in run.found.items():
        assert {promise.name for promise in rules.promises(target)} == set(found)
        for name in found:
            for need in closure(name, NEEDS):
                assert "promised by" in judge_skip(rules, f"[{need}] gone; x", "f.py::x", target)[0]


def test_what_all_have_holds_for_a_machine_of_another_name() -> None:
    run = Seen({"sim-a-mainline": ["machine", "kvm"], "sim-b-mainline": ["machine"]}, ran=3)
    rules = parse(write(run, NEEDS), "e.yaml", NEEDS)
    assert [promise.name for promise in rules.promises("sim-c-mainline")] == ["machine"]
    assert [promise.name for promise in rules.promises("sim-a-mainline")] == ["machine", "kvm"]


def test_a_failure_is_known_when_a_person_says_why() -> None:
    run = Seen(
        {"sim-a-mainline": []},
        failed=[Failed("../f.py::t[x]", "call", "assert 1 == 2"), Failed("f.py::s", "setup", "no: 'such' \"file\"")],
        ran=1,
    )
    text = write(run, NEEDS)
    assert parse(text, "e.yaml", NEEDS).given.known == ()
    lines = text.splitlines()
    start = lines.index("# known:")
    uncommented = "\n".join(line.removeprefix("# ") for line in lines[start:])
    assert yaml.safe_load(uncommented)["known"] == [
        {"tests": "f.py::t[x]", "reason": None, "link": None},
        {"tests": "f.py::s", "reason": None, "link": None},
    ]
    assert '"assert 1 == 2"' in text
    assert "in setup, which no known failure covers" in text


def test_it_survives_the_way_from_a_worker() -> None:
    run = Seen({"t": ["kvm"]}, [Skipped("a", "b", None)], [Failed("a", "call", "b")], 7)
    assert Seen.from_json(run.as_json()) == run
    run.add(Seen({"t": ["kvm"], "u": []}, [Skipped("c", "d", "u")], [], 3))
    assert (set(run.found), len(run.skipped), run.ran) == ({"t", "u"}, 2, 10)
