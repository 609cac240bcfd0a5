# SPDX-License-Identifier: GPL-2.0-only
"""Statements of guest code that talk to the VMM: output, assertions, stages."""

from __future__ import annotations

from types import FrameType
from typing import TypeAlias

from pytest_kvm_sea.arm64.operands import Cond, Label, Reg
from pytest_kvm_sea.guest import source
from pytest_kvm_sea.guest.base import GuestBase, Printable, check_format
from pytest_kvm_sea.guest.printf import escape
from pytest_kvm_sea.guest.ucall import ARGS_OFFSET, HELLO, UcallCommand
from pytest_kvm_sea.guest.values import Constant, Local, Operand, Value, as_value, comparison

Where: TypeAlias = tuple[str, str, int]
"""The arguments of an ABORT: expression, file, line."""

_UNCONDITIONAL = "Unconditional guest failure"
_UNKNOWN = ("<left>", "<right>")


class TalkStatements(GuestBase):
    """ucalls. After each of them the guest goes on, should the VMM run it again."""

    def printf(self, fmt: str, *arguments: Printable) -> None:
        """UCALL_PRINTF. Format and arguments are checked now; the text is made in the VMM."""
        self.begin()
        self.format_ucall(UcallCommand.PRINTF, (), fmt, arguments)

    def sync(self, stage: Operand) -> None:
        """UCALL_SYNC: tell the VMM that a stage is reached."""
        self.begin()
        value = as_value(stage)
        if isinstance(value, Constant):
            self.ucall(UcallCommand.SYNC, (HELLO, value.number), [])
        else:
            self.ucall(UcallCommand.SYNC, (HELLO, None), [(ARGS_OFFSET + 8, value)])

    def done(self) -> None:
        """UCALL_DONE."""
        self.begin()
        self.ucall(UcallCommand.DONE, (), [])

    def fail(self, fmt: str, *arguments: Printable) -> None:
        """UCALL_ABORT, always."""
        where = _where(self.begin(), _UNCONDITIONAL)
        self.format_ucall(UcallCommand.ABORT, where, fmt, arguments)

    def assert_true(self, condition: Operand, fmt: str | None = None, *arguments: Printable) -> None:
        """UCALL_ABORT unless the value is true (not 0). The text is the condition as written, or ``fmt``."""
        frame = self.begin()
        expression = (source.argument_texts(frame) or ("<condition>",))[0]
        message = escape(expression) if fmt is None else fmt
        check_format(message, arguments)
        self._unless(as_value(condition), _where(frame, expression), message, arguments)

    def assert_eq(self, left: Operand, right: Operand) -> None:
        """UCALL_ABORT unless both values are equal."""
        self._compare(Cond.EQ, "==", left, right)

    def assert_ne(self, left: Operand, right: Operand) -> None:
        """UCALL_ABORT if both values are equal."""
        self._compare(Cond.NE, "!=", left, right)

    def _compare(self, cond: Cond, operator: str, left: Operand, right: Operand) -> None:
        frame = self.begin()
        texts = source.argument_texts(frame)
        texts = texts if len(texts) == len(_UNKNOWN) else _UNKNOWN
        # Both sides stay where they are until they are printed.
        first, second = self._held(as_value(left), as_value(right))
        opposite = "!=" if operator == "==" else "=="
        message = f"%#lx {opposite} %#lx ({escape(texts[0])} {opposite} {escape(texts[1])})"
        where = _where(frame, f"{texts[0]} {operator} {texts[1]}")
        self._unless(comparison(cond, first, second), where, message, (_printable(first), _printable(second)))

    def _held(self, left: Value, right: Value) -> tuple[Value, Value]:
        if right.need > left.need:
            second = self._hold(right)
            return self._hold(left), second
        return self._hold(left), self._hold(right)

    def _hold(self, value: Value) -> Value:
        return value if isinstance(value, Constant) else Local(self.code.evaluate(value), self.code.scopes[-1])

    def _unless(self, condition: Value, where: Where, message: str, arguments: tuple[Printable | Reg, ...]) -> None:
        failed, resume = Label("failed"), Label("resume")
        self.code.branch(condition, failed, when=False)
        self.asm.label(resume)
        with self.code.out_of_line():
            self.begin()
            self.asm.label(failed)
            self.format_ucall(UcallCommand.ABORT, where, message, arguments)
            self.asm.b(resume)


def _printable(value: Value) -> Value | Reg:
    return value.home if isinstance(value, Local) and isinstance(value.home, Reg) else value


def _where(frame: FrameType, expression: str) -> Where:
    return expression, source.file_name(frame.f_code.co_filename), frame.f_lineno
