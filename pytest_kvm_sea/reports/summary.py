# SPDX-License-Identifier: GPL-2.0-only
"""The end of a run in the terminal: what was skipped or failed as expected, grouped by the reason, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_kvm_sea.missing import causes

_SHOWN = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


@dataclass(frozen=True, slots=True)
class Result:
    """One outcome of one test."""

    test: str
    """Its id."""
    outcome: str
    """As in pytest's last line: passed, failed, error, skipped, xfailed, xpassed."""
    reason: str
    """Of a skip or xfail; several things that are missing are joined by ` | `."""
    platform: str
    """Or the host, where nothing is simulated."""


def title(results: Iterable[Result]) -> str:
    """`kvm-sea: 240 tests on 14 platforms: 100 passed, 132 skipped, 8 xfailed`."""
    found = list(results)
    counts = Counter(result.outcome for result in found)
    tests = len({result.test for result in found})
    platforms = len({result.platform for result in found})
    listed = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _SHOWN if counts[outcome])
    return f"kvm-sea: {_plural(tests, 'test')} on {_plural(platforms, 'platform')}: {listed}"


@dataclass(frozen=True, slots=True)
class Group:
    """The tests that were skipped, or failed as expected, for one reason."""

    outcome: str
    """skipped or xfailed."""
    reason: str
    members: Sequence[Result]

    @property
    def platforms(self) -> list[str]:
        """Where, sorted."""
        return sorted({one.platform for one in self.members})


def groups(results: Iterable[Result]) -> list[Group]:
    """By outcome and reason, the most frequent first; a test that lacks two things is in two groups."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.outcome in ("skipped", "xfailed"):
            for reason in causes(result.reason):
                found.setdefault((result.outcome, reason), []).append(result)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    return [Group(outcome, reason, members) for (outcome, reason), members in ordered]


def lines(results: Iterable[Result]) -> list[str]:
    """One line per group."""
    found = list(results)
    grouped = groups(found)
    width = max((len(str(len(group.members))) for group in grouped), default=0)
    text = [
        f"{len(group.members):{width}} {group.outcome:7}  {group.reason}  ({', '.join(group.platforms)})"
        for group in grouped
    ]
    if found and all(result.outcome == "skipped" for result in found):
        text.append("nothing was tested: every test was skipped")
    return text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
