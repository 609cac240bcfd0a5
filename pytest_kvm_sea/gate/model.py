# SPDX-License-Identifier: GPL-2.0-only
"""What a file of expectations says, as data. `gate.loader` reads the YAML into these and checks it.

Field names are the keys of the YAML; every field's text is its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from pytest_kvm_sea.platforms.model import Line, NotEmpty, OneOf, Pattern, Range, Short

Targets: TypeAlias = Annotated[tuple[Annotated[str, Pattern(r"\S+", "the id of a target")], ...], NotEmpty()]
"""Ids of targets, `*` and `?` as in a shell: `linux-mainline`, `sim-*-mainline`."""
Reason: TypeAlias = Annotated[str, Pattern(r"(?s)\s*\S.*", "a reason")]
Tests: TypeAlias = Annotated[str, Pattern(r"\S(.*\S)?", "a pattern of tests, such as test_sea_to_user.py::test_x[*]")]

ANY = "*"
"""In place of an id: whatever the reason of the skip."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A capability that must be there. In the file also just its name."""

    name: str
    """One of `requirements.REQUIREMENTS`. What it needs is promised with it."""
    targets: Targets = ()
    """Where it is promised; default: the `targets` of the file."""
    line: Annotated[int, Line()] = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Skip:
    """Skips that are allowed."""

    id: Annotated[str, Pattern(r"\*|[a-z0-9]+(-[a-z0-9]+)*", "the [id] of a skip without its brackets, or *")]
    """The id that the reason of the skip begins with; `*` is any reason, and needs `tests`."""
    reason: Reason
    """Why the skip is fine here."""
    tests: Tests = ""
    """Which tests may be skipped for it; default: all."""
    targets: Targets = ()
    """Where; default: the `targets` of the file."""
    line: Annotated[int, Line()] = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Known:
    """Failures that are known."""

    tests: Tests
    """Which tests fail."""
    reason: Reason
    """What is broken."""
    link: Annotated[str, Pattern(r"https?://\S+", "a link that begins with https://")]
    """Where it is reported."""
    kernel: str = ""
    """On which releases of the host's kernel, as `>=6.17,<7.4`; default: on all."""
    targets: Targets = ()
    """Where; default: the `targets` of the file."""
    line: Annotated[int, Line()] = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Expectations:
    """One file."""

    version: Annotated[int, OneOf((1,))]
    """Of the format: 1."""
    targets: Targets = ()
    """Where entries apply that do not say it themselves; default: everywhere."""
    promises: tuple[Annotated[Promise, Short("name")], ...] = ()
    """Capabilities that must be there."""
    skips: tuple[Skip, ...] = ()
    """Skips that are allowed; every other one is a failure."""
    known: tuple[Known, ...] = ()
    """Failures that are known: such a test that passes is a failure."""
    at_least: Annotated[int, Range(1, 1_000_000)] = 0
    """So many tests must really have run: passed, failed, or failed as expected."""
