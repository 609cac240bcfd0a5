# SPDX-License-Identifier: GPL-2.0-only
"""`Guest`: guest code written in Python, statement by statement.

A guest function is a Python function that takes a `Guest`. It runs once, when the program is built, and each call on
the `Guest` emits the instructions for it::

    def guest_code(g: Guest) -> None:
        data = g.read_u64(0x80000000)
        with g.if_(data == 0):
            g.printf("nothing at %#lx\\n", 0x80000000)
        g.done()
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_kvm_sea.arm64.operands import Label
from pytest_kvm_sea.guest.blocks import Block, Else, If, Loop
from pytest_kvm_sea.guest.codegen import DATA
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.memory import MemoryStatements
from pytest_kvm_sea.guest.source import file_name
from pytest_kvm_sea.guest.system import SystemStatements
from pytest_kvm_sea.guest.talk import TalkStatements
from pytest_kvm_sea.guest.values import Local, Operand, Value, as_value


class Variable(Local):
    """A value that can change. Formulas with it see what it is when they are computed; `Guest.let` keeps a value."""

    __slots__ = ("_guest",)

    def __init__(self, guest: Guest, place: Local) -> None:
        super().__init__(place.home, place.scope)
        self._guest = guest

    def set(self, value: Operand) -> None:
        """Give it a new value."""
        guest = self._guest
        guest.begin()
        guest.code.check(self)
        guest.code.assign(self, lambda rd: guest.code.evaluate(as_value(value), rd))


class Guest(MemoryStatements, SystemStatements, TalkStatements):
    """The code of one guest function in the making: EL1 code, a handler, or the user function at EL0."""

    # Values

    def let(self, value: Operand) -> Value:
        """Compute a formula now, once."""
        self.begin()
        return self.code.define(lambda rd: self.code.evaluate(as_value(value), rd))

    def variable(self, value: Operand = 0) -> Variable:
        """A value that can change: ``v.set(…)``."""
        self.begin()
        return Variable(self, self.code.define(lambda rd: self.code.evaluate(as_value(value), rd)))

    # Names

    def label_here(self, name: str) -> None:
        """Give the address of the next instruction a name in `GuestProgram.symbols`."""
        self.linker.reserve(name)
        self.asm.label(name)

    def symbol(self, name: str) -> Value:
        """The address of a function, a label or a global; it may come later in the program."""
        frame = self.begin()
        if name in self.linker.globals:
            offset = self.linker.globals[name]
            return self.code.define(lambda rd: self.asm.adr(rd, DATA, offset))
        self.linker.want(name, f"{file_name(frame.f_code.co_filename)}:{frame.f_lineno}")
        return self.code.define(lambda rd: self.asm.adr(rd, name))

    def load_global(self, name: str) -> Value:
        """A global: a 64-bit number that the host can read and write between runs."""
        self.begin()
        offset = self._global(name)
        return self.code.define(lambda rd: self.asm.ldr_literal(rd, DATA, offset))

    def store_global(self, name: str, value: Operand) -> None:
        self.begin()
        register, place = self.code.evaluate(as_value(value)), self.code.take()
        self.asm.adr(place, DATA, self._global(name))
        self.asm.str(register, place)

    def _global(self, name: str) -> int:
        offset = self.linker.globals.get(name)
        if offset is None:
            known = ", ".join(self.linker.globals) or "none"
            raise GuestBuildError(f"no global {name!r}; this program has: {known}")
        return offset

    # Control flow

    def if_(self, condition: Operand) -> Block:
        """``with g.if_(a == b): …``"""
        self.last_if = If(self, as_value(condition))
        return self.last_if

    def else_(self) -> Block:
        """``with g.else_(): …``, directly after the block of an `if_`."""
        return Else(self, self.last_if)

    def while_(self, condition: Operand | Callable[[], Operand]) -> Block:
        """``with g.while_(i < 10): …``; the formula is computed each time round.

        A condition that reads something each time is given as a function: ``g.while_(lambda: g.read_u64(a) == 0)``.
        """
        self.last_if = None
        return Loop(self, condition)

    def loop(self, times: Operand | None = None) -> Block:
        """``with g.loop(): …`` for ever, or so many times."""
        self.last_if = None
        if times is None:
            return Loop(self, 1)
        counter = self.variable(times)
        return Loop(self, counter != 0, lambda: counter.set(counter - 1))

    def break_(self) -> None:
        """Leave the innermost loop."""
        self.begin()
        self.asm.b(self._innermost("break_")[0])

    def continue_(self) -> None:
        """Go on with the next round of the innermost loop."""
        self.begin()
        self.asm.b(self._innermost("continue_")[1])

    def _innermost(self, what: str) -> tuple[Label, Label]:
        if not self.loops:
            raise GuestBuildError(f"{what}: not inside a while_() or loop()")
        return self.loops[-1]

    def call(self, function: Callable[..., Operand | None], *arguments: Operand) -> Value:
        """Call a guest function, ``function(g, *arguments)``; the result is what it returns, 0 if nothing.

        Its code is emitted once for a program.
        """
        self.begin()
        symbol = self.linker.function(function, len(arguments))
        self.pass_arguments(arguments)
        self.asm.bl(symbol)
        return self.result()
