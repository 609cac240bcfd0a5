# SPDX-License-Identifier: GPL-2.0-only
"""The expectations of one file, ready to be asked about a test, a skip, a target."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from pytest_kvm_sea.gate import kernels
from pytest_kvm_sea.gate.errors import GateError
from pytest_kvm_sea.gate.model import ANY, Expectations, Known, Promise, Skip
from pytest_kvm_sea.gate.patterns import matches_test, targets_match
from pytest_kvm_sea.platforms.errors import choices

Entry: TypeAlias = "Promise | Skip | Known"


class Rules:
    """One file. A target is the id of one, or None for a test that is not ours and runs on none."""

    def __init__(
        self, name: str, given: Expectations, needs: Mapping[str, Sequence[str]], lines: Mapping[str, int]
    ) -> None:
        self.name = name
        """What the file is called in messages."""
        self.given = given
        self.lines = lines
        """Where the keys of the file stand that are no entries: `targets`, `at_least`."""
        self._needs = needs
        self._known = [(known, kernels.parse(known.kernel)) for known in given.known]

    def place(self, entry: Entry) -> str:
        """`FILE:LINE` of an entry."""
        return f"{self.name}:{entry.line}"

    def applies(self, entry: Entry, target: str | None) -> bool:
        """Whether an entry speaks of this target. Of a test without one speak the entries that name no target."""
        if target is None:
            return not entry.targets
        return targets_match(entry.targets or self.given.targets, target)

    def promises(self, target: str) -> list[Promise]:
        """What is promised of a target, each capability once."""
        found: dict[str, Promise] = {}
        for promise in self.given.promises:
            if self.applies(promise, target):
                found.setdefault(promise.name, promise)
        return list(found.values())

    def promise_of(self, name: str, target: str | None) -> Promise | None:
        """The promise that this capability is there: itself, or something that needs it."""
        if target is None:
            return None
        made = self.promises(target)
        covering = (promise for promise in made if name in closure(promise.name, self._needs))
        return next((promise for promise in made if promise.name == name), next(covering, None))

    def allowing(self, name: str, nodeid: str, target: str | None) -> Skip | None:
        """The entry that allows a skip with this id, which is empty where the reason has none."""
        for skip in self.given.skips:
            right_id = skip.id in (name, ANY)
            if right_id and self.applies(skip, target) and (not skip.tests or matches_test(skip.tests, nodeid)):
                return skip
        return None

    def known(self, nodeid: str, target: str | None, release: str) -> Known | None:
        """The entry that this failure is known by; ``release``: of the host's kernel, empty where there is none."""
        for known, kernel in self._known:
            if release in kernel and self.applies(known, target) and matches_test(known.tests, nodeid):
                return known
        return None

    def check_targets(self, targets: Sequence[str], others: Sequence[str]) -> None:
        """Raise GateError where the file and the targets of a run do not go together.

        ``others``: ids of targets that other runs may have. An entry may speak of those, and of no third.
        """
        nameable = list(dict.fromkeys([*targets, *others]))
        for line, patterns in self._scopes():
            for pattern in patterns:
                if not any(targets_match([pattern], target) for target in nameable):
                    hint = choices(pattern, nameable, noun="target")
                    self._fail(line, f"targets: {pattern!r} is no target; {hint}")
        scope = self.given.targets
        if not any(targets_match(scope, target) for target in targets):
            self._fail(
                self.lines["targets"],
                f"targets: {', '.join(scope)}: this run has none of them; it has {', '.join(targets)}",
            )
        for skip in self.given.skips:
            for target in targets:
                self._check_contradiction(skip, target)

    def _scopes(self) -> Iterator[tuple[int, Sequence[str]]]:
        yield self.lines.get("targets", 0), self.given.targets
        entries: list[Entry] = [*self.given.promises, *self.given.skips, *self.given.known]
        for entry in entries:
            yield entry.line, entry.targets

    def _check_contradiction(self, skip: Skip, target: str) -> None:
        promise = self.promise_of(skip.id, target) if self.applies(skip, target) else None
        if promise is not None:
            how = "is promised" if promise.name == skip.id else f"is needed by {promise.name}, which is promised"
            self._fail(
                skip.line,
                f"a skip for [{skip.id}] is allowed on {target}, where it {how} at line {promise.line}; "
                "take one of the two out, or give them different targets",
            )

    def unknown_tests(self, nodeids: Sequence[str], targets: Sequence[str]) -> list[str]:
        """What is wrong with entries for these targets that mean no test at all."""
        entries: list[Skip | Known] = [*self.given.skips, *self.given.known]
        return [
            f"{self.place(entry)}: tests: {entry.tests!r} matches no test of this run; {_nearest(entry.tests, nodeids)}"
            for entry in entries
            if entry.tests
            and (not entry.targets or any(self.applies(entry, target) for target in targets))
            and not any(matches_test(entry.tests, nodeid) for nodeid in nodeids)
        ]

    def idle(self, targets: Sequence[str]) -> list[str]:
        """Promises that this run has no target for: nobody looked whether they are kept."""
        return [
            f"{self.place(promise)}: not looked after: {promise.name}, for this run has none of its targets, "
            f"{', '.join(promise.targets)}"
            for promise in self.given.promises
            if not any(self.applies(promise, target) for target in targets)
        ]

    def _fail(self, line: int, problem: str) -> None:
        raise GateError(f"{self.name}:{line}: {problem}")


def closure(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    """A capability and everything that it needs."""
    return {name}.union(*(closure(need, needs) for need in needs.get(name, ())))


def _nearest(pattern: str, nodeids: Iterable[str]) -> str:
    functions = dict.fromkeys(nodeid.rpartition("/")[2].partition("[")[0] for nodeid in nodeids)
    near = difflib.get_close_matches(pattern.partition("[")[0], functions, n=1, cutoff=0.5)
    hint = f"nearest: {near[0]}; " if near else ""
    return f"{hint}valid: FILE::TEST[PARAMETERS], with * for any text, as `pytest --collect-only -q` lists them"
