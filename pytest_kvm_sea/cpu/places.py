# SPDX-License-Identifier: GPL-2.0-only
"""Addresses that a region has accessed before, so that their page and offset need not be found a second time.

An access costs more for finding the page and the offset in it than for the bytes. Where the registers of an address
have not changed since another access, or have changed by a constant, that one's page is used again: at once for the
same address, and after a look at the offset for one nearby, which may lie beyond the end of the page.

Whether it will be used again is not known when the first access is emitted. Its line is written anew then, and keeps
what is needed in variables. A view stays valid for as long as a region runs: whatever takes views away ends the region
before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from pytest_kvm_sea.cpu.bus import PAGE_SIZE

SCRATCH: Final = "d"
"""The variable with the address of an access that writes it back afterwards."""
_DISPLACED: Final = re.compile(r"(r\d+|d)(?: ([+-]) (-?(?:0x[0-9a-f]+|\d+)))?")
_NAMES: Final = re.compile(r"[a-z]\w*")
_REGISTER: Final = re.compile(r"r\d+|d")
_MASK: Final = " & 0xffffffffffffffff"
Statement: TypeAlias = Callable[[str, str], str]
"""The source of an access, of a page and the offset in it."""


class Address(NamedTuple):
    """The expression of an address, taken apart."""

    base: str
    displacement: int


@lru_cache(maxsize=8192)
def address_of(expression: str) -> Address | None:
    """None where it has other variables in it than registers."""
    found = _DISPLACED.fullmatch(expression)
    if found:
        number = int(found[3], 0) if found[3] else 0
        return Address(found[1], -number if found[2] == "-" else number)
    names = _NAMES.findall(re.sub(r"0x[0-9a-f]+", "", expression))
    return Address(expression, 0) if names and all(map(_REGISTER.fullmatch, names)) else None


@lru_cache(maxsize=8192)
def _names(base: str) -> frozenset[str]:
    return frozenset(_REGISTER.findall(base))


@dataclass(slots=True, eq=False)
class _Place:
    """A place in memory, by the line that accessed it before all others."""

    atom: str
    """The address, in that line."""
    line: int
    keeps_page: bool = False
    """The number of its page is in a variable, and so the offset."""
    keeps_offset: bool = False

    @property
    def page(self) -> str:
        return f"p{self.line}" if self.keeps_page else f"{self.atom} >> 12"

    @property
    def offset(self) -> str:
        return f"o{self.line}" if self.keeps_offset else f"{self.atom} & {PAGE_SIZE - 1}"

    def assignments(self) -> list[str]:
        return [
            *([f"p{self.line} = {self.atom} >> 12"] if self.keeps_page else []),
            *([f"o{self.line} = {self.atom} & {PAGE_SIZE - 1}"] if self.keeps_offset else []),
        ]


@dataclass(slots=True, eq=False)
class _Line:
    """A line of the source that accesses a place, whatever is in its registers."""

    place: _Place
    number: int
    indent: str
    table: str
    statement: Statement | None
    """None: it does nothing but set the variable with the page."""
    keeps_view: bool = False

    def view(self, source: list[str]) -> str:
        """The variable with the page, which this line sets from now on."""
        if not self.keeps_view:
            self.keeps_view = True
            self.write(source)
        return f"v{self.number}"

    def write(self, source: list[str]) -> None:
        parts = self.place.assignments() if self.number == self.place.line else []
        view = f"{self.table}[{self.place.page}]"
        if self.keeps_view:
            parts.append(f"v{self.number} = {view}")
            view = f"v{self.number}"
        if self.statement is not None:
            parts.append(self.statement(view, self.place.offset))
        source[self.number] = self.indent + "; ".join(parts)


class Seen(NamedTuple):
    """A place that was accessed on the way to where the source is."""

    displacement: int
    place: _Place
    first: _Line
    lines: tuple[_Line, ...]
    """The first to load and the first to store, as far as there are such."""

    def page(self, source: list[str]) -> str:
        """The variable with the number of the page."""
        if not self.place.keeps_page:
            self.place.keeps_page = True
            self.first.write(source)
        return self.place.page

    def offset(self, source: list[str]) -> str:
        """The variable with the offset in the page."""
        if not self.place.keeps_offset:
            self.place.keeps_offset = True
            self.first.write(source)
        return self.place.offset


Known: TypeAlias = Mapping[str, tuple[Seen, ...]]
"""Places by what their address is made from, without its displacement."""


class Access(NamedTuple):
    """A load or store to emit."""

    expression: str
    size: int
    table: str
    """T, the pages for loads, or W, those for stores."""
    statement: Statement


def emit(source: list[str], indent: str, access: Access, known: Known) -> tuple[list[str], Known]:
    """The lines of an access, and what is known behind it. ``source`` has all lines before; some are written anew."""
    address = address_of(access.expression)
    near = _nearest(known, address) if address else None
    if address and near:
        delta = address.displacement - near.displacement
        if delta:
            lines, seen = _nearby(source, indent, near, access, delta)
        else:
            lines, seen = _again(source, indent, near, access)
        others = (each for each in known[address.base] if each is not near)
        return lines, {**known, address.base: (*others, seen)}
    atom = access.expression if access.expression.isidentifier() else "a"
    lines = [] if atom == access.expression else [f"a = {access.expression}"]
    place = _Place(atom, len(source) + len(lines))
    lines.append(access.statement(f"{access.table}[{place.page}]", place.offset))
    if address:
        line = _Line(place, place.line, indent, access.table, access.statement)
        seen = Seen(address.displacement, place, line, (line,))
        known = {**known, address.base: (*known.get(address.base, ()), seen)}
    return lines, known


def _nearest(known: Known, address: Address) -> Seen | None:
    """A place that is likely to be in the same page."""

    def distance(seen: Seen) -> int:
        return abs(address.displacement - seen.displacement)

    return min(
        (seen for seen in known.get(address.base, ()) if distance(seen) < PAGE_SIZE // 2), key=distance, default=None
    )


def _line(seen: Seen, table: str) -> _Line | None:
    return next((line for line in seen.lines if line.table == table), None)


def _again(source: list[str], indent: str, seen: Seen, access: Access) -> tuple[list[str], Seen]:
    before = _line(seen, access.table)
    if before is not None:
        return [access.statement(before.view(source), seen.offset(source))], seen
    text = access.statement(f"{access.table}[{seen.page(source)}]", seen.offset(source))
    line = _Line(seen.place, len(source), indent, access.table, access.statement)
    return [text], seen._replace(lines=(*seen.lines, line))


def _nearby(source: list[str], indent: str, seen: Seen, access: Access, delta: int) -> tuple[list[str], Seen]:
    lines = []
    before = _line(seen, access.table)
    if before is None:
        # The first of its table here: without a condition, so that what follows has the page, too.
        before = _Line(seen.place, len(source), indent, access.table, None, keeps_view=True)
        lines.append(f"v{before.number} = {access.table}[{seen.page(source)}]")
        seen = seen._replace(lines=(*seen.lines, before))
        view = f"v{before.number}"
    else:
        view = before.view(source)
    offset = seen.offset(source)
    # An offset that is too high raises, but not one below zero; both are asked for, because raising is slow.
    within = f"{offset} <= {PAGE_SIZE - access.size - delta}" if delta > 0 else f"{offset} >= {-delta}"
    beyond = access.statement(f"{access.table}[a >> 12]", f"a & {PAGE_SIZE - 1}")
    lines.append(f"if {within}: {access.statement(view, f'{offset} + {delta}')}")
    lines.append(f"else: a = {access.expression}; {beyond}")
    return lines, seen


def written(known: Known, register: str, value: str) -> Known:
    """What is known after a register was given the value of an expression."""
    if not known:
        return known
    address = address_of(value.removesuffix(_MASK))
    moved = () if address is None else known.get(address.base, ())
    known = without(known, (register,))
    if address is not None and moved:
        known = {
            **known,
            register: tuple(seen._replace(displacement=seen.displacement - address.displacement) for seen in moved),
        }
    return known


def without(known: Known, registers: Iterable[str]) -> Known:
    """What is known where these registers may have got other values."""
    gone = frozenset(registers)
    if all(gone.isdisjoint(_names(base)) for base in known):
        return known
    return {base: places for base, places in known.items() if gone.isdisjoint(_names(base))}
