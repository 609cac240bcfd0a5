# SPDX-License-Identifier: GPL-2.0-only
"""What the selftests made of a mutant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_kvm_sea.mutants.mutant import Mutant, selects
from pytest_kvm_sea.mutants.runner import FAILED, SKIPPED, Plan, Results, RunError, run

GUEST_TIMEOUT = 0.3
"""Seconds that a guest may run on a mutant, where many hang. None needs a hundredth of it."""
ENOUGH = 10
"""Tests that fail besides those that ought to: when there are so many, the rest would say nothing new."""
KILLED, SURVIVED, MISSED, BROKEN = "killed", "SURVIVED", "MISSED", "BROKEN"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the selftests ended on one mutant."""

    mutant: Mutant
    results: Results
    problem: str = ""
    """Why there are no results."""

    @property
    def missed(self) -> list[str]:
        """What ought to have noticed and did not: tests with their outcome, or lines that select no test that ran."""
        found = []
        for killer in self.mutant.killers:
            meant = {test: end for test, end in self.results.outcomes.items() if selects(killer, test)}
            found += [f"{test} {end}" for test, end in meant.items() if end not in (FAILED, SKIPPED)]
            if FAILED not in meant.values():
                found.append(f"{killer} did not run" if set(meant.values()) <= {SKIPPED} else f"{killer} did not fail")
        return found

    @property
    def state(self) -> str:
        """KILLED; SURVIVED, no test failed; MISSED, one that ought to have failed did not; BROKEN, nobody knows."""
        if self.problem:
            return BROKEN
        if not self.results.failed:
            return SURVIVED
        return MISSED if self.missed else KILLED

    @property
    def killers(self) -> Counter[str]:
        """The tests that failed, without their parameters, the expected ones first; and how many of each."""
        expected = sorted(self.results.failed, key=lambda test: not self.mutant.expects(test))
        return Counter(test.partition("[")[0] for test in expected)


def judge(mutant: Mutant, *, expected_only: bool = False) -> Verdict:
    """Run the selftests against a mutant in this process; with ``expected_only`` those alone that ought to notice.

    Raises ChangeError where the mutant does not fit the code any more.
    """
    plan = Plan(select=mutant.expects) if expected_only else Plan(first=mutant.expects, enough=ENOUGH)
    try:
        with mutant.applied():
            modules = mutant.modules if expected_only else ()
            return Verdict(mutant, run(mutant.platforms, plan, modules, GUEST_TIMEOUT))
    except RunError as error:
        return Verdict(mutant, Results(), str(error))


def sound(mutants: Iterable[Mutant]) -> Results:
    """The same tests, on all platforms of these mutants, where no host has a bug."""
    return run(dict.fromkeys(platform for mutant in mutants for platform in mutant.platforms))
