# SPDX-License-Identifier: GPL-2.0-only
"""What all statements of guest code share: where instructions go, where they come from, and ucalls."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import Label, Reg
from pytest_kvm_sea.guest import source
from pytest_kvm_sea.guest.codegen import FunctionCode
from pytest_kvm_sea.guest.data import Field
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.printf import FormatError, check_count, conversions
from pytest_kvm_sea.guest.ucall import FORMAT_ARGS, FORMAT_ARGS_OFFSET, UcallCommand
from pytest_kvm_sea.guest.values import Constant, Value, as_value

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.blocks import If
    from pytest_kvm_sea.guest.linker import Linker

Printable: TypeAlias = Value | int | str
"""An argument of printf: a value, a number, or a string for ``%s``."""
Stores: TypeAlias = list[tuple[int, Value | Reg]]
"""What the guest itself stores into a ucall structure: offset, and the value or the register that holds it."""

USER_ENTRY = Label("user_entry")
STACK_TOP = Label("stack_top")
USER_STACK_TOP = Label("user_stack_top")


class GuestBase:
    """The code of one guest function in the making."""

    def __init__(self, linker: Linker, code: FunctionCode) -> None:
        self.linker = linker
        self.code = code
        self.loops: list[tuple[Label, Label]] = []
        """Where break_ and continue_ go, for each loop around this place."""
        self.last_if: If | None = None
        """What an else_ would belong to."""

    @property
    def asm(self) -> Assembler:
        """Where the next instruction goes; for what has no statement here."""
        return self.code.asm

    def begin(self) -> FrameType:
        """Start a statement; the frame of Python code that makes it."""
        frame = source.caller()
        self.code.line(frame.f_code.co_filename, frame.f_lineno)
        self.code.begin()
        return frame

    def ucall(
        self,
        cmd: UcallCommand,
        args: Sequence[Field],
        stores: Stores,
        fmt: str | None = None,
        fmt_args: Sequence[Field] = (),
    ) -> None:
        """Emit a ucall: what is known goes into the data, ``stores`` is done by the guest."""
        site = self.linker.data.ucall(cmd, args, fmt, fmt_args)
        self.code.ucall(site, stores, self.linker.ucall_mmio)

    def format_ucall(
        self, cmd: UcallCommand, args: Sequence[Field], fmt: str, arguments: Sequence[Printable | Reg]
    ) -> None:
        """Emit a ucall with a format. Raises GuestBuildError where the arguments do not fit it."""
        check_format(fmt, arguments)
        fields: list[Field] = []
        stores: Stores = []
        for argument in arguments:
            known = argument if isinstance(argument, str | Reg) else as_value(argument)
            if isinstance(known, str):
                fields.append(known)
            elif isinstance(known, Constant):
                fields.append(known.number)
            else:
                stores.append((FORMAT_ARGS_OFFSET + 8 * len(fields), known))
                fields.append(None)
        self.ucall(cmd, args, stores, fmt, fields)


def check_format(fmt: str, arguments: Sequence[object]) -> None:
    """Raise GuestBuildError, quoting format and arguments, unless they fit each other."""
    encoded = fmt.encode("utf-8", "backslashreplace")
    try:
        check_count(encoded, len(arguments))
    except FormatError as error:
        raise _format_error(fmt, arguments, str(error)) from None
    if len(arguments) > FORMAT_ARGS:
        raise _format_error(fmt, arguments, f"{len(arguments)} arguments; a ucall carries at most {FORMAT_ARGS}")
    for conversion, argument in zip(conversions(encoded), arguments, strict=True):
        if isinstance(argument, str) and conversion.kind != "s":
            raise _format_error(fmt, arguments, f"{conversion.text} takes a number, not {argument!r}")


def _format_error(fmt: str, arguments: Sequence[object], problem: str) -> GuestBuildError:
    return GuestBuildError(f"format {fmt!r} with arguments {tuple(arguments)!r}: {problem}")
