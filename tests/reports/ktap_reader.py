# SPDX-License-Identifier: GPL-2.0-only
"""Readers of KTAP for tests: a strict one of the kernel's documentation, and one that reads as LKFT does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_kvm_sea.reports.record import Outcome

_RESULT = re.compile(r"(ok|not ok) ([0-9]+) ([^#]*[^# ])(?: # (SKIP|XFAIL|XPASS|TIMEOUT|ERROR|TODO)(?: (.+))?)?")
_LINE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OUTCOMES = {
    ("ok", None): Outcome.PASS,
    ("not ok", None): Outcome.FAIL,
    ("ok", "SKIP"): Outcome.SKIP,
    ("ok", "XFAIL"): Outcome.XFAIL,
    ("not ok", "TODO"): Outcome.XFAIL,
    ("ok", "XPASS"): Outcome.XPASS,
    ("not ok", "TIMEOUT"): Outcome.TIMEOUT,
    ("not ok", "ERROR"): Outcome.ERROR,
}
LONGEST = 1000
"""Characters of a line, for consoles and parsers with a limit."""


@dataclass
class Node:
    """A result."""

    name: str
    outcome: Outcome
    why: str
    diagnostics: list[str]
    children: list[Node] = field(default_factory=list)

    def leaves(self) -> Iterator[Node]:
        for child in self.children:
            yield from child.leaves()
        if not self.children:
            yield self


class Reader:
    """A whole file, line by line; what is not as it should be is an AssertionError."""

    def __init__(self, text: str, header: str | None = "KTAP version 1") -> None:
        assert text.endswith("\n")
        self._lines = text[:-1].split("\n")
        if header is not None:
            assert self._lines.pop(0) == header
        self.skipped = ""
        plan = re.fullmatch(r"1\.\.(\d+)(?: # SKIP (.+))?", self._lines.pop(0))
        assert plan is not None
        assert (plan[1] == "0") == bool(plan[2])
        self.skipped = plan[2] or ""
        self.top = self._level(int(plan[1]), 0)
        self.tail = [self._text(line, 0) for line in self._lines]
        assert all(line.startswith("# ") for line in self.tail)

    def counts(self) -> Counter[Outcome]:
        """Of the tests themselves, or of their subtests."""
        return Counter(leaf.outcome for node in self.top for leaf in node.leaves())

    def _level(self, count: int, depth: int) -> list[Node]:
        return [self._node(number, depth) for number in range(1, count + 1)]

    def _node(self, number: int, depth: int) -> Node:
        diagnostics = self._diagnostics(depth)
        name, children = None, []
        if self._lines[0].startswith("  " * (depth + 1)):
            assert not diagnostics or number == 1, "diagnostics of a test with children follow them"
            assert self._next(depth + 1) == "KTAP version 1"
            name = self._next(depth + 1).removeprefix("# Subtest: ")
            children = self._level(int(self._next(depth + 1).removeprefix("1..")), depth + 1)
            assert children
            diagnostics += self._diagnostics(depth)
        found = _RESULT.fullmatch(self._next(depth))
        assert found is not None
        assert int(found[2]) == number
        assert name in (None, found[3])
        node = Node(found[3], _OUTCOMES[found[1], found[4]], found[5] or "", diagnostics, children)
        if any(child.outcome.is_bad for child in children):
            assert node.outcome.is_bad
        return node

    def _diagnostics(self, depth: int) -> list[str]:
        found = []
        while re.match(f"(?:  ){{{depth}}}#", self._lines[0]):
            found.append(self._next(depth))
        return found

    def _next(self, depth: int) -> str:
        return self._text(self._lines.pop(0), depth)

    @staticmethod
    def _text(line: str, depth: int) -> str:
        assert line.startswith("  " * depth)
        text = line[2 * depth :]
        assert _LINE.fullmatch(text), text
        assert len(text) <= LONGEST
        return text


@dataclass
class Found:
    """What LKFT would report."""

    name: str
    result: str
    children: list[Found]


def as_lkft(text: str) -> list[Found]:
    """As parse-output.py of test-definitions: indentation is nothing, and what is below a result is in its comments."""
    results: list[Found] = []
    below = ""
    for line in text.splitlines():
        if found := re.match(r"(ok|not ok)\s*\d*\s*([^#]*)#?\s*(.*)", line.rstrip()):
            skip = found[3].upper().startswith("SKIP")
            name = f"{found[2].strip()} {found[3][4:] if skip else ''}".strip()
            result = ("skip" if skip else "pass") if found[1] == "ok" else "fail"
            results.append(Found(_slug(name), result, as_lkft(below)))
            below = ""
        elif line.startswith("#"):
            below += f"{line[1:].strip()}\n"
    return results


def _slug(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\[\d{1,5}\]", "", name))
    return re.sub(r"_-", "_", re.sub(r"(^_|_$)", "", name))


def from_runner(text: str, *, passed: bool) -> str:
    """What run_kselftest.sh makes of the output of a test."""
    lines = "".join(f"# {line}\n" for line in text.splitlines())
    status = "ok" if passed else "not ok"
    return (
        f"TAP version 13\n1..1\n# timeout set to 45\n# selftests: sea: a.sh\n{lines}{status} 1 selftests: sea: a.sh\n"
    )
