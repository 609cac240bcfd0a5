# SPDX-License-Identifier: GPL-2.0-only
"""Emits many instructions into one function: registers are locals, memory is reached through the views of the context.

The fast forms of loads and stores fail with a Python exception where anything is out of the ordinary: a page that is
not in the context, an access across a page. They fail before the instruction has changed anything, and every line knows
the instruction it belongs to, so that a closure can do that instruction again, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from pytest_kvm_sea.cpu import bounds, conditions, places, pstate
from pytest_kvm_sea.cpu.emitter import M32, M64, ZERO_REGISTER, Emitter, Unsuited, Way

_LINK: Final = 30
_SP: Final = 31
_LOADS: Final = {
    (2, 0): "U2",
    (4, 0): "U4",
    (8, 0): "U8",
    (1, 1): "S1",
    (2, 1): "S2",
    (4, 1): "S4",
}
"""(size, signed) -> name of Struct.unpack_from."""
_SCRATCH: Final = frozenset({"a", "b", "d", "t", "u"})
"""Variables of one instruction."""
_LOADED: Final = "loaded"
"""In place of the expression of a register's value: it came from memory."""
_STORES: Final = {2: "P2", 4: "P4", 8: "P8"}


class Origin(NamedTuple):
    """What a line of the source was made from: enough to continue at its instruction in another way."""

    pc: int
    ahead: int
    """Instructions executed since ``budget`` was last updated."""
    kind: int | None
    """The kind of flags, where it is known; else it is in ``fk``."""
    operand: str | None
    """The second operand of the flags, where it is a known number; else it is in ``fb``."""


@dataclass(slots=True)
class Knowledge:
    """What is known on the path that is being emitted."""

    ahead: int = 0
    kind: int | None = None
    operand: str | None = None
    bounds: bounds.Bounds = field(default_factory=dict)
    """The most that a variable can be; a register that is not in it can have any value."""
    sp_aligned: bool = False
    places: places.Known = field(default_factory=dict)
    """Where memory has been accessed."""

    def copy(self) -> Knowledge:
        return replace(self)

    def forget(self, registers: Iterable[int]) -> None:
        """These registers may have been written since, by what is not emitted here; their bounds are the caller's."""
        self.places = places.without(self.places, (places.SCRATCH, *(f"r{number}" for number in registers)))

    def bound(self, variable: str, most: int | None) -> None:
        """A variable got a value: the most that it can be."""
        if most is not None and most < bounds.M64:
            self.bounds = {**self.bounds, variable: most}
        elif variable in self.bounds:
            self.bounds = {name: value for name, value in self.bounds.items() if name != variable}


@dataclass(slots=True)
class Flow:
    """How a block ends."""

    condition: str | None = None
    target: int | None = None
    """Where a direct branch goes."""
    indirect: str | None = None
    """The expression of an indirect one."""
    returns: bool = False
    """It goes to the address in x30."""


@dataclass(slots=True)
class Usage:
    """Which registers an emitted piece of code reads and writes."""

    used: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    most: dict[int, int] = field(default_factory=dict)
    """The most that was written to a register, whatever the others had in them."""
    flags: bool = False
    """Whether flags are set."""


class RegionEmitter(Emitter):
    """Emits instruction after instruction; `regions` says which, and makes the control flow between them."""

    def __init__(self, *, rough: bool = False) -> None:
        """``rough``: what is emitted is thrown away, and only `usage` and `flow` are of interest."""
        self.rough = rough
        self.pc = 0
        self.indent = 2
        self.lines: list[str] = []
        self.origins: list[Origin] = []
        self.know = Knowledge()
        self.usage = Usage()
        self.flow: Flow | None = None
        self.wrote_link = False

    def _simplified(self, expression: str) -> bounds.Simplified:
        return bounds.Simplified(expression, None) if self.rough else bounds.simplified(expression, self.know.bounds)

    def begin(self, pc: int) -> None:
        """The next instruction."""
        self.pc = pc
        self.flow = None
        self.wrote_link = False
        for name in _SCRATCH.intersection(self.know.bounds):
            self.know.bound(name, None)

    def line(self, text: str) -> None:
        if self.rough:
            return
        know = self.know
        self.lines.append(" " * self.indent + text)
        self.origins.append(Origin(self.pc, know.ahead, know.kind, know.operand))

    def constant(self, value: int) -> str:
        return str(value) if value < 10 else hex(value)

    def pc_relative(self, offset: int, *, page: bool = False) -> str:
        return hex((self.pc & ~0xFFF if page else self.pc) + offset & 0xFFFFFFFFFFFFFFFF)

    def next_pc(self) -> str:
        return self.pc_relative(4)

    def read(self, number: int, sf: int = 1) -> str:
        if number == ZERO_REGISTER:
            return "0"
        self.usage.used.add(number)
        if sf or self.know.bounds.get(f"r{number}", bounds.M64) <= bounds.M32:
            return f"r{number}"
        return f"(r{number} & {M32})"

    def read_sp(self, number: int, sf: int = 1) -> str:
        if number != _SP:
            return self.read(number, sf)
        self.usage.used.add(_SP)
        return "r31" if sf else f"(r31 & {M32})"

    def write(self, number: int, value: str, *, narrow: bool = False) -> None:
        if number != ZERO_REGISTER:
            text, most = self._simplified(value)
            self.line(f"r{number} = {text}")
            if narrow:
                most = min(bounds.M32, bounds.M32 if most is None else most)
            self._written(number, text, most)

    def write_sp(self, number: int, value: str, *, narrow: bool = False) -> None:
        if number != _SP:
            self.write(number, value, narrow=narrow)
            return
        self.line(f"r31 = {value}")
        self._written(_SP, value, None)
        self.know.sp_aligned = False

    def _written(self, number: int, value: str, most: int | None) -> None:
        """``most``: the most that it can be; None if there is nothing to say."""
        self.usage.written.add(number)
        self.know.places = places.written(self.know.places, f"r{number}", value)
        self.wrote_link |= number == _LINK
        self.know.bound(f"r{number}", most)
        self.usage.most[number] = max(self.usage.most.get(number, 0), bounds.M64 if most is None else most)

    def let(self, name: str, value: str) -> str:
        text, most = self._simplified(value)
        self.line(f"{name} = {text}")
        self.know.bound(name, most)
        if name == places.SCRATCH:
            self.know.places = places.written(self.know.places, name, text)
        return name

    def flags(self, kind: int, a: str, b: str = "0") -> tuple[str, str]:
        self.usage.flags = True
        literal = b if b.isalnum() and b[0].isdigit() else None
        second = None if literal is not None else self._simplified(b)
        first = self._simplified(a)
        self.line(f"fa = {first.text}")
        self.know.bound("fa", first.most)
        if second is not None:
            self.line(f"fb = {second.text}")
            self.know.bound("fb", second.most)
        self.know.kind, self.know.operand = kind, literal
        return "fa", literal or "fb"

    def condition(self, condition: int) -> str:
        kind = self.know.kind
        if kind is not None:
            known = conditions.expression(condition, kind, "fa", self.know.operand or "fb")
            if known is not None:
                return known
        return f"CONDITIONS[{condition}][{self.nzcv()}]"

    def nzcv(self) -> str:
        kind = self.know.kind
        if kind == pstate.RAW:
            return "fa"
        return f"nzcv({'fk' if kind is None else kind}, fa, {self.know.operand or 'fb'})"

    def settle_flags(self) -> None:
        """Put what is only known here into the variables, for code that is reached from elsewhere too."""
        if self.know.kind is not None:
            self.line(f"fk = {self.know.kind}")
        if self.know.operand is not None:
            self.line(f"fb = {self.know.operand}")
            self.know.bound("fb", None)
        self.know.kind = self.know.operand = None

    def _access(self, address: str, size: int, table: str, statement: places.Statement, *, base_sp: bool) -> None:
        if base_sp:
            self.check_sp()
        if self.rough:
            return
        access = places.Access(self._simplified(address).text, size, table, statement)
        lines, self.know.places = places.emit(self.lines, " " * self.indent, access, self.know.places)
        for line in lines:
            self.line(line)

    def load(self, target: int, address: str, size: int, *, signed: int, iss: int, base_sp: bool, way: Way) -> None:
        del iss
        if way is not Way.PLAIN:
            raise Unsuited
        name = "t" if signed or target == ZERO_REGISTER else f"r{target}"
        unpack = _LOADS.get((size, bool(signed)))

        def statement(page: str, offset: str) -> str:
            return f"{name} = {page}[{offset}]" if unpack is None else f"{name}, = {unpack}({page}, {offset})"

        self._access(address, size, "T", statement, base_sp=base_sp)
        if target == ZERO_REGISTER:
            return
        if signed:
            self.line(f"r{target} = t & {M64 if signed == 64 else M32}")
        self._written(target, _LOADED, (1 << (signed or 8 * size)) - 1)

    def store(self, source: int, address: str, size: int, *, iss: int, base_sp: bool, way: Way) -> None:
        del iss
        if way is not Way.PLAIN:
            raise Unsuited
        if size == 8:
            value = self.read(source)
        elif size == 4:
            value = self.read(source, 0)
        else:
            value = self._simplified(f"{self.read(source)} & {(1 << size * 8) - 1:#x}").text
        pack = _STORES.get(size)

        def statement(page: str, offset: str) -> str:
            return f"{page}[{offset}] = {value}" if pack is None else f"{pack}({page}, {offset}, {value})"

        self._access(address, size, "W", statement, base_sp=base_sp)

    def load_pair(self, first: int, second: int, address: str, size: int, *, signed: bool, base_sp: bool) -> None:
        names = ", ".join(f"r{number}" if number != ZERO_REGISTER else "t" for number in (first, second))
        unpack = {(8, False): "U88", (4, False): "U44", (4, True): "S44"}[size, signed]
        self._access(
            address, 2 * size, "T", lambda page, offset: f"{names} = {unpack}({page}, {offset})", base_sp=base_sp
        )
        for number in (first, second):
            if number != ZERO_REGISTER:
                self._written(number, _LOADED, bounds.M32 if size == 4 and not signed else None)
                if signed:
                    self.line(f"r{number} &= {M64}")

    def store_pair(self, first: int, second: int, address: str, size: int, *, base_sp: bool) -> None:
        values = f"{self.read(first, size == 8)}, {self.read(second, size == 8)}"
        pack = "P88" if size == 8 else "P44"
        self._access(
            address, 2 * size, "W", lambda page, offset: f"{pack}({page}, {offset}, {values})", base_sp=base_sp
        )

    def check_sp(self) -> None:
        if not self.know.sp_aligned:
            self.usage.used.add(_SP)
            self.line("if r31 & 15: raise KeyError")
            self.know.sp_aligned = True

    def branch(self, offset: int, condition: str | None = None) -> None:
        target = self.pc + offset & 0xFFFFFFFFFFFFFFFF
        self.flow = Flow(condition=condition, target=target)

    def branch_to(self, target: str) -> None:
        self.flow = Flow(indirect=target, returns=target == "r30")

    def call(self, method: str, *arguments: str) -> None:
        raise Unsuited(method, arguments)

    def call_value(self, method: str, *arguments: str) -> str:
        raise Unsuited(method, arguments)

    def call_only(self, method: str, *arguments: str) -> None:
        raise Unsuited(method, arguments)
