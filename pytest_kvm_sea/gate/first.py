# SPDX-License-Identifier: GPL-2.0-only
"""A first file of expectations, from what a run has found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from pytest_kvm_sea.gate.model import ANY
from pytest_kvm_sea.gate.patterns import portable
from pytest_kvm_sea.gate.rules import closure
from pytest_kvm_sea.missing import cause_id, causes

_HEAD = """\
# What this machine promises, as one run found it: look at every line before you trust it.
# A capability that is promised and a test that may not be skipped can only go missing in red.
version: 1
"""
_KNOWN = """\
# These tests failed. A failure is known when a person says why: fill in reason and link, and take the # away.
# `tests` may use * for any text, and `kernel` and `targets` say where; the test must fail there, or the run does.
# known:
"""


@dataclass(frozen=True, slots=True, order=True)
class Skipped:
    """One skip of one test."""

    nodeid: str
    reason: str
    target: str | None
    """Id of the target; None for a test that is not ours."""


@dataclass(frozen=True, slots=True, order=True)
class Failed:
    """One failure that is no skip."""

    nodeid: str
    when: str
    """setup, call or teardown."""
    message: str
    """One line."""


@dataclass(slots=True)
class Seen:
    """What one process has seen of a run."""

    found: dict[str, list[str]] = field(default_factory=dict)
    """By target: the capabilities that it has, in the order of the requirements."""
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    ran: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Seen:
        return cls(
            dict(given["found"]),
            [Skipped(**one) for one in given["skipped"]],
            [Failed(**one) for one in given["failed"]],
            given["ran"],
        )

    def add(self, other: Seen) -> None:
        """What another process has seen of the same run."""
        self.found.update(other.found)
        self.skipped += other.skipped
        self.failed += other.failed
        self.ran += other.ran


def write(seen: Seen, needs: Mapping[str, Sequence[str]]) -> str:
    """The text of a file that a run which finds the same keeps.

    What is the same on every target is written without targets, so that it also holds for a machine of another name.
    """
    return "".join([_HEAD, *_promises(seen, needs), *_skips(seen), *_failures(seen), f"at_least: {seen.ran}\n"])


def _promises(seen: Seen, needs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is there and no test was skipped for. A test may ask for more than a probe does, and is the one to ask."""
    missed = {target: set[str]() for target in seen.found}
    for skip in seen.skipped:
        missed.get(skip.target or "", set()).update(map(cause_id, causes(skip.reason)))
    promised = {
        name: [
            target
            for target, found in seen.found.items()
            if name in found and not closure(name, needs) & missed[target]
        ]
        for name in needs
    }
    lines = [
        f"  - {name}\n" if set(on) == set(seen.found) else f"  - {{name: {name}, targets: {_list(on)}}}\n"
        for name, on in promised.items()
        if on
    ]
    yield from ["promises:\n", *lines] if lines else ["promises: []\n"]


@dataclass(slots=True)
class _Entry:
    """One entry of `skips`: what it stands for."""

    targets: set[str] = field(default_factory=set)
    reasons: dict[str, None] = field(default_factory=dict)

    def reason(self) -> str:
        first, *others = self.reasons
        return f"{first} (and {len(others)} more that differ in their words)" if others else first


def _skips(seen: Seen) -> Iterator[str]:
    entries: dict[tuple[str, str], _Entry] = {}
    for skip in sorted(set(seen.skipped), key=lambda one: (one.reason, one.nodeid)):
        for cause in causes(skip.reason):
            name = cause_id(cause)
            # Without an id or a target nothing but the test itself says which skip is meant.
            key = (name, "*") if name and skip.target else (ANY, portable(skip.nodeid))
            entry = entries.setdefault(key, _Entry())
            entry.targets |= {skip.target} if skip.target and key[0] != ANY else set()
            entry.reasons[cause.removeprefix(f"[{key[0]}] ").strip() or "no reason was given"] = None
    yield "skips:\n" if entries else "skips: []\n"
    for (name, tests), entry in entries.items():
        yield f"  - id: {_quoted(name) if name == ANY else name}\n    tests: {_quoted(tests)}\n"
        if entry.targets and entry.targets != set(seen.found):
            yield f"    targets: {_list(sorted(entry.targets))}\n"
        yield f"    reason: {_quoted(entry.reason())}\n"


def _failures(seen: Seen) -> Iterator[str]:
    if not seen.failed:
        yield "known: []\n"
        return
    yield _KNOWN
    for failed in sorted(set(seen.failed)):
        yield f"#   - tests: {_quoted(portable(failed.nodeid))}\n"
        yield f"#     reason:  # {_quoted(failed.message)}\n#     link:\n"
        if failed.when != "call":
            yield f"#     # but this was in {failed.when}, which no known failure covers: mend it\n"


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"


def _quoted(text: str) -> str:
    """A text as YAML on one line, whatever is in it."""
    dumped: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)
    return dumped.rstrip("\n")
