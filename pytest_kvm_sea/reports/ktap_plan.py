# SPDX-License-Identifier: GPL-2.0-only
"""The plan of a KTAP file: every line of result that it will have, in order, before the first test runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_kvm_sea.reports import ktap_text
from pytest_kvm_sea.reports.ktap_names import Names, dotted, slug
from pytest_kvm_sea.reports.record import GATE, CollectionError, TestId

FileName: TypeAlias = Callable[[str], str]


@dataclass(eq=False, slots=True)
class Slot:
    """A line of result that is to come: of a test, of what could not be collected, or (without both) of the gate."""

    name: str
    test: TestId | None = None
    error: CollectionError | None = None
    number: int = 0
    depth: int = 0


@dataclass(eq=False, slots=True)
class Group:
    """A file, or a host: its own line of result follows those of its children."""

    name: str
    children: list[Slot | Group] = field(default_factory=list)
    number: int = 0
    depth: int = 0
    """Of its own line of result."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Where the plan of a group is written."""

    group: Group


@dataclass(frozen=True, slots=True)
class Closing:
    """Where the result of a group is written."""

    group: Group


def nested_plan(
    tests: Sequence[TestId], errors: Sequence[CollectionError], file_name: FileName, *, gate: bool
) -> Group:
    """By file and test, and with `--dist each` by host before that. The top of the tree, which has no result itself.

    What could not be collected comes first, by name, and hosts by number: their order is no property of the run under
    xdist. The gate is last.
    """
    top = _Branch(Group(""), Names(GATE))
    files = {(test.host, test.file) for test in tests}
    for error in sorted(errors, key=_nodeid):
        file, _, rest = error.nodeid.partition("::")
        if ("", file) in files:
            branch = top.branch(file, file_name(file))
            branch.add(Slot(ktap_text.name(rest or "collection"), error=error))
        else:
            top.add(Slot(ktap_text.name(file_name(file) + error.nodeid[len(file) :] or "collection"), error=error))
    for test in sorted(tests, key=_host):
        branch = top.branch(f"{test.host}:", test.host) if test.host else top
        branch.branch(test.file, file_name(test.file)).add(Slot(ktap_text.name(test.name), test))
    return _finished(top.group, gate=gate)


def flat_plan(tests: Sequence[TestId], errors: Sequence[CollectionError], file_name: FileName, *, gate: bool) -> Group:
    """One level, as `nested_plan` in everything else."""
    names = Names(GATE, slug)
    slots = [
        Slot(names.unique(dotted(TestId(error.nodeid), file_name)), error=error)
        for error in sorted(errors, key=_nodeid)
    ]
    slots += (Slot(names.unique(dotted(test, file_name)), test) for test in sorted(tests, key=_host))
    return _finished(Group("", [*slots]), gate=gate)


def steps(group: Group) -> Iterator[Opening | Slot | Closing]:
    """What is to be written below a group, in order."""
    for child in group.children:
        if isinstance(child, Slot):
            yield child
        else:
            yield Opening(child)
            yield from steps(child)
            yield Closing(child)


def _number(group: Group, depth: int) -> None:
    group.depth = depth
    for number, child in enumerate(group.children, 1):
        child.number = number
        if isinstance(child, Group):
            _number(child, depth + 1)
        else:
            child.depth = depth + 1


def _finished(top: Group, *, gate: bool) -> Group:
    if gate:
        top.children.append(Slot(GATE))
    _number(top, -1)
    return top


def _host(test: TestId) -> list[tuple[int, str]]:
    """In the order of their numbers: xdist tells of each host when that has collected."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", test.host)]


def _nodeid(error: CollectionError) -> str:
    return error.nodeid


class _Branch:
    """A group that is being filled."""

    def __init__(self, group: Group, names: Names) -> None:
        self.group = group
        self._names = names
        self._branches: dict[str, _Branch] = {}

    def branch(self, key: str, name: str) -> _Branch:
        """The group of this key, made where it is met first."""
        if key not in self._branches:
            group = Group(self._names.unique(ktap_text.name(name)))
            self.group.children.append(group)
            self._branches[key] = _Branch(group, Names(group.name))
        return self._branches[key]

    def add(self, slot: Slot) -> None:
        slot.name = self._names.unique(slot.name)
        self.group.children.append(slot)
