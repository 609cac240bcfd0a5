# SPDX-License-Identifier: GPL-2.0-only
"""Every mutant is killed by the tests that ought to notice it, which pass on a sound host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant, unmatched
from pytest_kvm_sea.mutants.report import BEGIN, END
from pytest_kvm_sea.mutants.runner import FAILED, Plan, run
from pytest_kvm_sea.mutants.table import AREAS, MUTANTS
from pytest_kvm_sea.mutants.verdict import KILLED, judge
from pytest_kvm_sea.platforms.names import bundled_names

PAGE = Path(__file__).parents[2] / "docs/mutants.md"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_as_expected(whole_package: None, name: str) -> None:
    verdict = judge(MUTANTS[name], expected_only=True)
    assert (verdict.state, verdict.missed) == (KILLED, []), verdict.problem


@pytest.mark.parametrize("platform", sorted({name for mutant in MUTANTS.values() for name in mutant.platforms}))
def test_the_same_tests_pass_on_a_sound_host(whole_package: None, platform: str) -> None:
    """A line that selects no test would prove nothing. Where APEI claims, a skip is how the test ends."""
    mutants = [mutant for mutant in MUTANTS.values() if platform in mutant.platforms]
    results = run([platform], Plan(lambda test: any(mutant.expects(test) for mutant in mutants)))
    assert results.failed == []
    assert unmatched((killer for mutant in mutants for killer in mutant.killers), results.outcomes) == []


def test_a_core_that_says_more_is_no_bug(whole_package: None) -> None:
    """One mutant needs a processor that sets a bit; what is wrong is that the kernel shows it."""
    mutant = MUTANTS["esr-not-sanitised"]
    core, _ = mutant.changes
    with core.applied():
        results = run(mutant.platforms, Plan(mutant.expects), mutant.modules)
    assert FAILED not in results.outcomes.values()
    assert results.outcomes


def test_there_are_enough_and_each_is_itself() -> None:
    mutants = [mutant for area in AREAS.values() for mutant in area]
    assert len(mutants) == len(MUTANTS) >= 60
    assert len({(str(mutant.changes), mutant.platforms) for mutant in mutants}) == len(mutants)
    assert len({mutant.bug for mutant in mutants}) == len(mutants)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", mutant.name) for mutant in mutants)
    assert all(mutant.bug.endswith(".") for mutant in mutants)
    assert {name for mutant in mutants for name in mutant.platforms} <= set(bundled_names())


def test_every_mutant_is_in_the_documentation() -> None:
    """The tables are those of a run of all of these mutants, in which all were killed."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    assert [row.split("|")[1:4] for row in rows] == [cells(mutant) for mutant in MUTANTS.values()]
    assert not re.search(r"\*\*[A-Z]+\*\*", table)
    assert re.findall("^## (.*)$", table, re.MULTILINE) == list(AREAS)


def test_the_example_of_the_documentation_is_one_of_them() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    name = re.findall(r'"([a-z0-9-]+)",', example)[0]
    mutant = MUTANTS[name]
    (edit,) = mutant.changes
    assert isinstance(edit, Edit)
    for text in (mutant.bug, edit.where, edit.old, edit.new, *mutant.killers, *mutant.platforms, *mutant.defects):
        assert f'"{text}"' in example


def cells(mutant: Mutant) -> list[str]:
    bug = mutant.bug + (f" ({', '.join(mutant.defects)})" if mutant.defects else "")
    return [f" `{mutant.name}` ", f" {bug} ", f" {', '.join(mutant.platforms)} "]
