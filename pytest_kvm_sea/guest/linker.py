# SPDX-License-Identifier: GPL-2.0-only
"""From the functions of a guest to one image: who emits each function, and where everything comes to lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import SP, X30, Label, Offset, Reg, X
from pytest_kvm_sea.guest.base import USER_ENTRY
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.codegen import SAVED, FunctionCode, Line
from pytest_kvm_sea.guest.data import DataSection
from pytest_kvm_sea.guest.entry import CLASSES, RESTORE, UNHANDLED_SITE, Installed, emit_vectors
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.source import file_name
from pytest_kvm_sea.guest.ucall import UcallCommand
from pytest_kvm_sea.guest.values import Operand, as_value
from pytest_kvm_sea.guest.vectors import ExRegs, Vector

Function: TypeAlias = Callable[..., Operand | None]
"""``function(g)``, or ``function(g, *values)`` where it is called with arguments."""
Handler: TypeAlias = Callable[[Guest, ExRegs], None]
"""``handler(g, regs)``."""


class Handlers(Protocol):
    """Handlers by vector and exception class (ESR_EL1.EC), or by vector alone for all its exceptions: a mapping.

    Only what it contains is asked for, so that a dict with keys of any narrower type is one.
    """

    def items(self) -> Iterable[tuple[Vector | tuple[Vector, int], Handler]]: ...


_SAVE_AREA = 8 * (len(SAVED) + 2)
"""What a called function saves: x19 to x28 and x30, and 8 bytes that keep the stack aligned."""
_STACK_ALIGNMENT = 16
_MAX_SUB = 4095


@dataclass(slots=True)
class _Unit:
    """A function, emitted."""

    symbol: str
    prologue: Assembler
    code: FunctionCode
    is_user: bool = False


@dataclass(slots=True)
class Image:
    """All code of a program, with what is known about it."""

    code: Assembler
    functions: list[tuple[int, str]]
    """Offset and name, by offset."""
    lines: list[Line]


class Linker:
    """Collects the functions of a program."""

    def __init__(self, global_values: Mapping[str, int], ucall_mmio: int, *, has_user: bool) -> None:
        self.data = DataSection()
        self.ucall_mmio = ucall_mmio
        self.has_user = has_user
        self.globals: dict[str, int] = {}
        """Offsets in the data."""
        self._names: set[str] = set()
        self._wanted: dict[str, str] = {}
        self._units: list[_Unit] = []
        self._functions: dict[Function, tuple[str, int]] = {}
        self._handlers: dict[Handler, str] = {}
        site = self.data.ucall(UcallCommand.UNHANDLED, (None, None, None))
        assert site == UNHANDLED_SITE
        for name, value in global_values.items():
            self.reserve(name)
            self.globals[name] = self.data.quad(_initial(name, value))

    def reserve(self, name: str) -> None:
        """Take a name for a label or a global. Raises GuestBuildError if it is taken."""
        if name in self._names:
            raise GuestBuildError(f"the name {name!r} is taken: functions, globals and labels have one each")
        self._names.add(name)

    def want(self, name: str, where: str) -> None:
        """Note that the code at ``where`` needs the address of a function or label."""
        self._wanted.setdefault(name, where)

    def main(self, function: Function, *, is_user: bool = False) -> str:
        """Emit a function that is entered from nowhere and must not end; its symbol."""
        symbol = self._symbol(function)
        code = FunctionCode(symbol)
        guest = Guest(self, code)
        function(guest)
        self._ended(guest, function)
        code.finish()
        prologue = Assembler()
        _move_sp(prologue.sub, _aligned(code.frame_size))
        self._units.append(_Unit(symbol, prologue, code, is_user))
        return symbol

    def handler(self, handler: Handler) -> str:
        """Emit an exception handler, once; its symbol."""
        known = self._handlers.get(handler)
        if known is not None:
            return known
        symbol = self._handlers[handler] = self._symbol(handler)
        code = FunctionCode(symbol)
        guest = Guest(self, code)
        handler(guest, ExRegs(guest))
        frame = _aligned(code.frame_size)
        _move_sp(code.asm.add, frame)
        code.asm.b(RESTORE)
        code.finish()
        prologue = Assembler()
        _move_sp(prologue.sub, frame)
        self._units.append(_Unit(symbol, prologue, code))
        return symbol

    def function(self, function: Function, arity: int) -> str:
        """Emit a function that is called, once; its symbol."""
        known = self._functions.get(function)
        if known is not None:
            if known[1] != arity:
                raise GuestBuildError(f"{known[0]} is called with {arity} arguments here and with {known[1]} elsewhere")
            return known[0]
        symbol = self._symbol(function)
        self._functions[function] = symbol, arity
        code = FunctionCode(symbol, slots_start=_SAVE_AREA)
        guest = Guest(self, code)
        parameters = [code.define(partial(_move, code, register)) for register in X[:arity]]
        result = function(guest, *parameters)
        code.begin()
        code.evaluate(as_value(0 if result is None else result), X[0])
        saved = [register for register in SAVED if register in code.used_registers] + [X30]
        frame = _aligned(code.frame_size)
        _transfer(code.asm.ldp, code.asm.ldr, saved)
        _move_sp(code.asm.add, frame)
        code.asm.ret()
        code.finish()
        prologue = Assembler()
        _move_sp(prologue.sub, frame)
        _transfer(prologue.stp, prologue.str, saved)
        self._units.append(_Unit(symbol, prologue, code))
        return symbol

    def image(self, handlers: Handlers) -> Image:
        """Emit the handlers and the vectors, and put all code together; the vectors come first."""
        vectors, places = emit_vectors(self._install(handlers), self.ucall_mmio)
        for name, where in self._wanted.items():
            if name not in self._names:
                known = ", ".join(sorted(self._names))
                raise GuestBuildError(f"{where}: no symbol {name!r}; this program has: {known}")
        image = Image(Assembler(), list(places), [])
        image.code.include(vectors)
        for unit in self._units:
            image.functions.append((len(image.code), unit.symbol))
            image.code.label(unit.symbol)
            if unit.is_user:
                image.code.label(USER_ENTRY)
            image.code.include(unit.prologue)
            start = len(image.code)
            image.code.include(unit.code.asm)
            image.lines += [(start + offset, file, line) for offset, file, line in unit.code.lines]
        return image

    def _install(self, handlers: Handlers) -> Installed:
        installed: dict[tuple[Vector, int | None], str] = {}
        for place, handler in handlers.items():
            vector, ec = place if isinstance(place, tuple) else (place, None)
            if ec is not None and not vector.is_sync:
                if ec != 0:
                    raise GuestBuildError(f"handler for {vector.name}, class {ec:#x}: only SYNC vectors have classes")
                ec = None
            if ec is not None and not 0 <= ec < CLASSES:
                raise GuestBuildError(f"handler for {vector.name}: class is {ec:#x}; it takes 0 to {CLASSES - 1:#x}")
            if (vector, ec) in installed:
                raise GuestBuildError(f"two handlers for {vector.name}")
            installed[vector, ec] = self.handler(handler)
        return tuple((vector, ec, symbol) for (vector, ec), symbol in installed.items())

    def _symbol(self, function: object) -> str:
        """The name of a function; with a number where several have the same."""
        name = base = _name(function)
        count = 1
        while name in self._names:
            count += 1
            name = f"{base}~{count}"
        self._names.add(name)
        return name

    def _ended(self, guest: Guest, function: Function) -> None:
        """What happens when a function that must not end does: it says so, as often as the VMM runs it."""
        guest.code.begin()
        inner = function.func if isinstance(function, partial) else function
        code = getattr(inner, "__code__", None)
        where = (file_name(code.co_filename), code.co_firstlineno) if code is not None else ("", 0)
        again = Label("ended")
        guest.asm.label(again)
        message = f"{guest.code.name} has come to its end; a guest ends with done() or fail()"
        guest.format_ucall(UcallCommand.ABORT, ("guest code does not end", *where), message.replace("%", "%%"), ())
        guest.asm.b(again)


def _name(function: object) -> str:
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__name__", type(inner).__name__))


def _initial(name: str, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 64:
        raise GuestBuildError(f"global {name!r} is {value:#x}; it takes -2**63 to 2**64 - 1")
    return value & (1 << 64) - 1


def _aligned(size: int) -> int:
    return size + -size % _STACK_ALIGNMENT


def _move(code: FunctionCode, source: Reg, target: Reg) -> None:
    code.asm.mov(target, source)


def _move_sp(emit: Callable[[Reg, Reg, int], None], size: int) -> None:
    while size:
        step = min(size, _MAX_SUB & -_STACK_ALIGNMENT)
        emit(SP, SP, step)
        size -= step


def _transfer(
    pair: Callable[[Reg, Reg, Offset], None], single: Callable[[Reg, Offset], None], registers: list[Reg]
) -> None:
    for index in range(0, len(registers) - 1, 2):
        pair(registers[index], registers[index + 1], Offset(SP, 8 * index))
    if len(registers) % 2:
        single(registers[-1], Offset(SP, 8 * (len(registers) - 1)))
