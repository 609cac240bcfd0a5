# SPDX-License-Identifier: GPL-2.0-only
"""What the gate says: of one skip, of one test that should have failed, of a run as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_kvm_sea.gate.model import ANY, Known, Skip
from pytest_kvm_sea.gate.patterns import function
from pytest_kvm_sea.gate.rules import Rules
from pytest_kvm_sea.missing import cause_id, causes


@dataclass(slots=True)
class Tally:
    """What one process has seen of a run. JSON values only, so that it leaves a worker of xdist."""

    file: str
    """The file of expectations, as it is called in messages."""
    at_least: int = 0
    at_least_line: int = 0
    ran: int = 0
    """Tests that passed, failed, or failed as expected. Promises are no tests."""
    promises: int = 0
    """Promises that were looked after."""
    skips: int = 0
    """Tests whose skip the file allows."""
    known: int = 0
    """Tests that failed as the file says."""
    unused: list[str] = field(default_factory=list)
    """Places of `skips` that allowed nothing."""
    findings: list[str] = field(default_factory=list)
    """What no test can tell: a file that was skipped when it was collected."""
    notes: list[str] = field(default_factory=list)
    """What does not make the run fail, and somebody should know."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_skip(rules: Rules, reason: str, nodeid: str, target: str | None) -> tuple[str, list[Skip]]:
    """What is wrong with a skip, empty if nothing is; and the entries that allow its causes."""
    problems: list[str] = []
    allowing: list[Skip] = []
    for cause in causes(reason):
        name = cause_id(cause)
        promise = rules.promise_of(name, target)
        if promise is not None:
            needed = "" if promise.name == name else f"with {promise.name}, which needs it, "
            what = cause.removeprefix(f"[{name}] ")
            problems.append(f"[{name}] {needed}promised by {rules.place(promise)} but absent: {what}")
            continue
        skip = rules.allowing(name, nodeid, target)
        if skip is None:
            problems.append(_not_allowed(rules.name, name, cause, nodeid, target))
        else:
            allowing.append(skip)
    if problems and len(causes(reason)) > 1:
        problems.append(f"the whole reason of the skip: {reason}")
    return "\n".join(problems), allowing


def _not_allowed(file: str, name: str, cause: str, nodeid: str, target: str | None) -> str:
    scope = f", targets: [{target}]" if target else ""
    tests = json.dumps(function(nodeid), ensure_ascii=False)
    entry = f"- {{id: {name or json.dumps(ANY)}, tests: {tests}{scope}, reason: why that is fine}}"
    return f"skip that {file} does not allow: {cause}\nto allow it, add to skips of {file}:\n  {entry}"


def judge_pass(rules: Rules, known: Known) -> str:
    """A test passed that should have failed."""
    return (
        f"unexpected pass: {rules.place(known)} says that this test fails, and it does not any more: "
        f"remove the entry, or narrow its tests, targets or kernel\nthe entry's reason: {known_reason(rules, known)}"
    )


def known_reason(rules: Rules, known: Known) -> str:
    """The reason that a known failure has in all reports."""
    return f"{' '.join(known.reason.split())}; {known.link} ({rules.place(known)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a run as a whole."""

    findings: tuple[str, ...]
    """Each of them makes the run fail."""
    notes: tuple[str, ...]
    summary: tuple[str, ...]
    """What was looked at, a line per file."""


def judge_run(tallies: Mapping[str, Tally], lost: Iterable[str] = (), ungated: Iterable[str] = ()) -> Verdict:
    """Judge what all processes have seen, by the name of the machine each ran on.

    ``lost``: processes that are gone; ``ungated``: those that have no file.
    """
    findings: list[str] = []
    notes: list[str] = []
    summary: list[str] = []
    for machine, tally in tallies.items():
        prefix = f"{machine}: " if machine else ""
        findings += [prefix + finding for finding in [*tally.findings, *_too_few(tally)]]
        notes += [prefix + note for note in tally.notes]
        notes += [f"{prefix}{place}: no skip needed this entry" for place in tally.unused]
        wanted = f" (at least {tally.at_least})" if tally.at_least else ""
        summary.append(
            f"{prefix}{tally.file}: {_plural(tally.promises, 'promise')} tested, "
            f"{_plural(tally.ran, 'test')} ran{wanted}, "
            f"{_plural(tally.skips, 'skip')} allowed, {_plural(tally.known, 'known failure')}"
        )
    notes += [f"{name} has no file of expectations, so nothing that it ran was judged by one" for name in ungated]
    findings += [f"the worker {name} went down, and what it had seen with it" for name in lost]
    return Verdict(tuple(findings), tuple(notes), tuple(summary))


def _too_few(tally: Tally) -> list[str]:
    if not tally.ran:
        return ["nothing ran: no test passed, failed, or failed as expected, so nothing was tested"]
    if tally.ran < tally.at_least:
        return [
            f"{tally.file}:{tally.at_least_line}: at_least: {tally.at_least} tests were to run, and {tally.ran} did"
        ]
    return []


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def add(tallies: Iterable[Tally]) -> Tally:
    """What several processes that shared one run have seen together."""
    first, *others = tallies
    total = Tally(**first.as_json())
    for other in others:
        total.ran += other.ran
        total.promises += other.promises
        total.skips += other.skips
        total.known += other.known
        total.unused = [place for place in total.unused if place in other.unused]
        total.findings += [finding for finding in other.findings if finding not in total.findings]
        total.notes += [note for note in other.notes if note not in total.notes]
    return total
