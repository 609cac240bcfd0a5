# SPDX-License-Identifier: GPL-2.0-only
"""From formulas to instructions: the code of one function of a guest.

Registers: x9 to x15 compute, x16 and x17 make ucalls, x19 to x28 hold values, x29 is the saved registers in a handler.
Values that find no register live on the stack. The code is kept short: what runs once costs more to translate than to
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeAlias

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import (
    MASK64,
    SP,
    X16,
    X17,
    XZR,
    Cond,
    Label,
    Offset,
    Reg,
    X,
    bitmask_immediate,
)
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.values import Binary, Comparison, Constant, Local, Value

SCRATCH = X[9:16]
SAVED = X[19:29]
DATA = Label("data")
"""The start of the data section."""
Line: TypeAlias = tuple[int, str, int]
"""Offset in the code, source file, line number."""

_EMIT: dict[str, Callable[[Assembler, Reg, Reg, Reg | int], None]] = {
    "add": Assembler.add,
    "sub": Assembler.sub,
    "and": Assembler.and_,
    "orr": Assembler.orr,
    "eor": Assembler.eor,
    "lsl": Assembler.lsl,
    "lsr": Assembler.lsr,
}
_OPPOSITE = {"add": "sub", "sub": "add"}
_LOGICAL = frozenset({"and", "orr", "eor"})
_SHIFTS = frozenset({"lsl", "lsr"})
_MAX_SLOT = 32760


class Scope:
    """A block of guest code; values made in it are gone when it ends."""

    __slots__ = ("code", "homes", "is_open")

    def __init__(self, code: FunctionCode) -> None:
        self.code = code
        self.homes: list[Reg | int] = []
        self.is_open = True


class FunctionCode:
    """The instructions of one function, and where its values live."""

    def __init__(self, name: str, slots_start: int = 0) -> None:
        self.name = name
        self.asm = Assembler()
        self.lines: list[Line] = []
        self.scopes = [Scope(self)]
        self.used_registers: set[Reg] = set()
        self.frame_size = slots_start
        """Bytes of stack below the caller's: what the function saves, and values without a register."""
        self._cold = Assembler()
        self._cold_lines: list[Line] = []
        self._free_registers = list(reversed(SAVED))
        self._free_slots: list[int] = []
        self._depth = 0

    # Where instructions go

    def line(self, file: str, line: int) -> None:
        """What follows comes from this line of Python."""
        self.lines.append((len(self.asm), file, line))

    @contextmanager
    def out_of_line(self) -> Iterator[None]:
        """Meanwhile instructions go behind the function: what is not expected to run."""
        self.asm, self._cold = self._cold, self.asm
        self.lines, self._cold_lines = self._cold_lines, self.lines
        try:
            yield
        finally:
            self.asm, self._cold = self._cold, self.asm
            self.lines, self._cold_lines = self._cold_lines, self.lines

    def finish(self) -> None:
        """Append what was put out of line. Nothing can be emitted afterwards."""
        start = len(self.asm)
        self.asm.include(self._cold)
        self.lines += [(start + offset, file, line) for offset, file, line in self._cold_lines]

    # Where values live

    def begin(self) -> None:
        """A new statement: all scratch registers are free."""
        self._depth = 0

    def new_local(self) -> Local:
        """A place for a value of the current scope."""
        home: Reg | int
        if self._free_registers:
            home = self._free_registers.pop()
            self.used_registers.add(home)
        elif self._free_slots:
            home = self._free_slots.pop()
        elif self.frame_size > _MAX_SLOT:
            raise GuestBuildError(f"{self.name} has too many values at once")
        else:
            home = self.frame_size
            self.frame_size += 8
        scope = self.scopes[-1]
        scope.homes.append(home)
        return Local(home, scope)

    def define(self, emit: Callable[[Reg], object]) -> Local:
        """A new value, computed by instructions that leave it in the register given to ``emit``."""
        local = self.new_local()
        self.assign(local, emit)
        return local

    def assign(self, local: Local, emit: Callable[[Reg], object]) -> None:
        """Compute a value into a place that exists."""
        if isinstance(local.home, Reg):
            emit(local.home)
            return
        register = self.take()
        emit(register)
        self.asm.str(register, Offset(SP, local.home))

    def open_scope(self) -> None:
        self.scopes.append(Scope(self))

    def close_scope(self) -> None:
        scope = self.scopes.pop()
        scope.is_open = False
        for home in reversed(scope.homes):
            if isinstance(home, Reg):
                self._free_registers.append(home)
            else:
                self._free_slots.append(home)

    def check(self, local: Local) -> None:
        """Raise GuestBuildError if this value does not exist at this place of the code."""
        if local.scope.code is not self:
            raise GuestBuildError(
                f"a value of {local.scope.code.name} is used in {self.name}; hand it over as an argument of g.call(), "
                "or through a global"
            )
        if not local.scope.is_open:
            raise GuestBuildError(
                f"{self.name}: a value is used after the with-block that made it; "
                "make it with g.variable() before the block"
            )

    # Values in registers

    def take(self) -> Reg:
        """A scratch register, free until the statement ends."""
        if self._depth == len(SCRATCH):
            raise GuestBuildError(f"{self.name}: a formula is too deep; compute a part of it first with g.let()")
        self._depth += 1
        return SCRATCH[self._depth - 1]

    def evaluate(self, value: Value, target: Reg | None = None) -> Reg:
        """Have a value in a register: in ``target``, or wherever it is cheapest."""
        if isinstance(value, Local):
            return self._load_local(value, target)
        if isinstance(value, Constant):
            if target is None and value.number == 0:
                return XZR
            register = target or self.take()
            self.asm.mov(register, value.number)
            return register
        mark = self._depth
        if isinstance(value, Comparison):
            cond = self.compare(value)
            register = self._result(mark, target)
            self.asm.cset(register, cond)
            return register
        assert isinstance(value, Binary)
        return self._binary(value, target)

    def pair(self, left: Value, right: Value) -> tuple[Reg, Reg]:
        """Have two values in registers, the one that takes more scratch registers first."""
        if right.need > left.need:
            second = self.evaluate(right)
            return self.evaluate(left), second
        return self.evaluate(left), self.evaluate(right)

    def _load_local(self, local: Local, target: Reg | None) -> Reg:
        self.check(local)
        if isinstance(local.home, Reg):
            if target is None or target is local.home:
                return local.home
            self.asm.mov(target, local.home)
            return target
        register = target or self.take()
        self.asm.ldr(register, Offset(SP, local.home))
        return register

    def _result(self, mark: int, target: Reg | None) -> Reg:
        # The operands are read by the one instruction that writes the result, which may therefore take their place.
        self._depth = mark
        return target or self.take()

    def _binary(self, value: Binary, target: Reg | None) -> Reg:
        mark = self._depth
        if isinstance(value.right, Constant):
            field = _bit_field(value)
            if field is not None:
                source, lsb, count = field
                rn = self.evaluate(source)
                rd = self._result(mark, target)
                self.asm.ubfx(rd, rn, lsb, count)
                return rd
            immediate = _immediate(value.op, value.right.number)
            if immediate is not None:
                rn = self.evaluate(value.left)
                rd = self._result(mark, target)
                _EMIT[immediate[0]](self.asm, rd, rn, immediate[1])
                return rd
            if value.op == "eor" and value.right.number == MASK64:
                rn = self.evaluate(value.left)
                rd = self._result(mark, target)
                self.asm.mvn(rd, rn)
                return rd
        rn, rm = self.pair(value.left, value.right)
        rd = self._result(mark, target)
        if value.op == "mul":
            self.asm.mul(rd, rn, rm)
        else:
            _EMIT[value.op](self.asm, rd, rn, rm)
        return rd

    # Conditions

    def compare(self, value: Comparison) -> Cond:
        """Set the flags; the condition that holds if the comparison does."""
        left, right = value.left, value.right
        if not isinstance(right, Constant):
            self.asm.cmp(*self.pair(left, right))
            return value.cond
        if right.number == 0 and value.cond <= Cond.NE and isinstance(left, Binary) and left.op == "and":
            self._test(left)
            return value.cond
        rn = self.evaluate(left)
        immediate = _immediate("sub", right.number)
        if immediate is None:
            self.asm.cmp(rn, self.evaluate(right))
        elif immediate[0] == "sub":
            self.asm.cmp(rn, immediate[1])
        else:
            self.asm.cmn(rn, immediate[1])
        return value.cond

    def _test(self, value: Binary) -> None:
        if isinstance(value.right, Constant) and bitmask_immediate(value.right.number, 64) is not None:
            self.asm.tst(self.evaluate(value.left), value.right.number)
        else:
            self.asm.tst(*self.pair(value.left, value.right))

    def branch(self, value: Value, target: Label, *, when: bool) -> None:
        """Branch if the value is true (not zero), or if it is false."""
        if isinstance(value, Constant):
            if bool(value.number) == when:
                self.asm.b(target)
            return
        if not isinstance(value, Comparison):
            value = Comparison(Cond.NE, value, Constant(0))
        zero_test = isinstance(value.right, Constant) and value.right.number == 0 and value.cond <= Cond.NE
        if zero_test and self._branch_on_zero(value.left, target, on_zero=(value.cond is Cond.EQ) == when):
            return
        cond = self.compare(value)
        self.asm.b_cond(cond if when else cond.inverse, target)

    def _branch_on_zero(self, value: Value, target: Label, *, on_zero: bool) -> bool:
        """Branch by one instruction that tests and branches, where there is one."""
        if isinstance(value, Binary) and value.op == "and":
            mask = value.right.number if isinstance(value.right, Constant) else 0
            if mask.bit_count() != 1:
                return False
            test = self.asm.tbz if on_zero else self.asm.tbnz
            test(self.evaluate(value.left), mask.bit_length() - 1, target)
            return True
        (self.asm.cbz if on_zero else self.asm.cbnz)(self.evaluate(value), target)
        return True

    # Memory

    def address(self, value: Value, size: int) -> Offset:
        """An address as a base register and, where the load or store can add it, an offset."""
        if isinstance(value, Binary) and value.op == "add" and isinstance(value.right, Constant):
            offset = value.right.number
            if offset % size == 0 and offset <= 4095 * size:
                return Offset(self.base(value.left), offset)
        return Offset(self.base(value))

    def base(self, value: Value) -> Reg:
        """An address in a register that can be a base."""
        # A constant gets a register of its own even if it is 0: register 31 would be the stack pointer.
        return self.evaluate(value, self.take()) if isinstance(value, Constant) else self.evaluate(value)

    def ucall(self, site: int, stores: list[tuple[int, Value | Reg]], mmio: int) -> None:
        """Store what the guest computed into the ucall structure at ``site`` of the data; tell the VMM its address."""
        self.asm.adr(X16, DATA, site)
        index = 0
        while index < len(stores):
            offset, first = stores[index]
            if index + 1 < len(stores) and stores[index + 1][0] == offset + 8:
                self.asm.stp(self._register(first), self._register(stores[index + 1][1]), Offset(X16, offset))
                index += 2
            else:
                self.asm.str(self._register(first), Offset(X16, offset))
                index += 1
            self.begin()
        self.asm.raw(_tell(mmio))

    def _register(self, value: Value | Reg) -> Reg:
        return value if isinstance(value, Reg) else self.evaluate(value)


@lru_cache(maxsize=64)
def _tell(mmio: int) -> bytes:
    """The end of every ucall: the store that becomes an exit to the VMM."""
    asm = Assembler()
    asm.mov(X17, mmio)
    asm.str(X16, X17)
    return asm.assemble(0)


@lru_cache(maxsize=4096)
def _immediate(op: str, number: int) -> tuple[str, int] | None:
    """The operation and the immediate that apply a constant, if an instruction can hold it."""
    if op in _SHIFTS:
        return op, number % 64
    if op in _LOGICAL:
        return (op, number) if bitmask_immediate(number, 64) is not None else None
    if op in _OPPOSITE:
        if _is_arithmetic(number):
            return op, number
        if _is_arithmetic(-number & MASK64):
            return _OPPOSITE[op], -number & MASK64
    return None


def _is_arithmetic(number: int) -> bool:
    return number <= 4095 or (number <= 4095 << 12 and number % 4096 == 0)


def _bit_field(value: Binary) -> tuple[Value, int, int] | None:
    """Source, least significant bit and width where the formula is ``source >> lsb & ones``."""
    if value.op != "and" or not isinstance(value.right, Constant) or value.right.number == 0:
        return None
    mask, shifted = value.right.number, value.left
    if mask & mask + 1 or not isinstance(shifted, Binary) or shifted.op != "lsr":
        return None
    if not isinstance(shifted.right, Constant):
        return None
    lsb = shifted.right.number % 64
    return shifted.left, lsb, min(mask.bit_length(), 64 - lsb)
