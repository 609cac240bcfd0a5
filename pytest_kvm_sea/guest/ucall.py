# SPDX-License-Identifier: GPL-2.0-only
"""ucall: how a guest talks to the VMM, and the VMM's side of it.

A guest stores the virtual address of a ucall structure, 8 bytes, to an address that no memory backs; the store becomes
KVM_EXIT_MMIO. Command numbers are those of the kernel's KVM selftests (include/ucall_common.h there); the structure is
our own, because the text is formatted here and not in the guest.

All fields are 64 bits wide, little endian::

    0    cmd
    8    args[7]
    64   fmt          address of the format, or 0
    72   count        how many of fmt_args the format takes, at most 8
    80   fmt_args[8]

Nothing in it is trusted.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Protocol

from pytest_kvm_sea.guest.errors import GuestMemoryError, UcallError
from pytest_kvm_sea.guest.printf import FormatError, format_text

ARGS = 7
FORMAT_ARGS = 8
ARGS_OFFSET = 8
FORMAT_OFFSET = 64
FORMAT_ARGS_OFFSET = 80
STRUCTURE = struct.Struct(f"<{1 + ARGS + 2 + FORMAT_ARGS}Q")

MAX_STRING = 4096
"""The greatest length of a string of the guest, bytes, without its terminator."""
HELLO = "hello"
"""What the first argument of a SYNC points to, as in the kernel's selftests."""

_PAGE = 4096
_VECTORS = 16
_CLASSES = 64
_MAX_LINE = (1 << 31) - 1


class UcallCommand(enum.IntEnum):
    """What the guest wants."""

    NONE = 0
    SYNC = 1
    ABORT = 2
    PRINTF = 3
    DONE = 4
    UNHANDLED = 5


class GuestReader(Protocol):
    """Read access to a guest's memory by guest virtual address."""

    def read(self, gva: int, size: int, /) -> bytes:
        """Exactly ``size`` bytes. Raises GuestMemoryError when any of them is outside the guest's memory."""
        ...


@dataclass(frozen=True, slots=True)
class Ucall:
    """A ucall, checked and decoded."""

    cmd: UcallCommand
    args: tuple[int, ...]
    """The seven raw arguments."""
    text: str = ""
    """The formatted text of a PRINTF or ABORT."""
    expression: str = ""
    """ABORT: what did not hold."""
    file: str = ""
    """ABORT: the source file of the guest."""

    @property
    def line(self) -> int:
        """ABORT: the line in `file`."""
        return self._argument("line", UcallCommand.ABORT, 2)

    @property
    def stage(self) -> int:
        """SYNC: the stage that the guest reached."""
        return self._argument("stage", UcallCommand.SYNC, 1)

    @property
    def vector(self) -> int:
        """UNHANDLED: which of the 16 vectors."""
        return self._argument("vector", UcallCommand.UNHANDLED, 0)

    @property
    def ec(self) -> int:
        """UNHANDLED: the exception class (ESR_EL1.EC), meaningful if `valid_ec`."""
        return self._argument("ec", UcallCommand.UNHANDLED, 1)

    @property
    def valid_ec(self) -> bool:
        """UNHANDLED: the exception was synchronous, so that it has a class."""
        return bool(self._argument("valid_ec", UcallCommand.UNHANDLED, 2))

    def _argument(self, name: str, cmd: UcallCommand, index: int) -> int:
        if self.cmd is not cmd:
            raise AttributeError(f"a ucall {self.cmd.name} has no {name}; only {cmd.name} has")
        return self.args[index]


def parse_ucall(address: int, memory: GuestReader) -> Ucall:
    """Read and check the ucall structure at a guest virtual address.

    Raises UcallError for anything that is not a well-formed ucall; the text names the field and its value.
    """
    words = STRUCTURE.unpack(_read(memory, address, STRUCTURE.size, "the ucall structure"))
    cmd = _command(words[0])
    args = words[1 : 1 + ARGS]
    if cmd is UcallCommand.PRINTF:
        return Ucall(cmd, args, text=_text(words, memory))
    if cmd is UcallCommand.ABORT:
        return _abort(args, words, memory)
    if cmd is UcallCommand.SYNC:
        _check_hello(args[0], memory)
    elif cmd is UcallCommand.UNHANDLED:
        _check_unhandled(args)
    return Ucall(cmd, args)


def _command(number: int) -> UcallCommand:
    try:
        return UcallCommand(number)
    except ValueError:
        known = ", ".join(f"{command.value} {command.name}" for command in UcallCommand)
        raise UcallError(f"ucall field cmd: unknown command {number:#x}; known: {known}") from None


def _abort(args: tuple[int, ...], words: tuple[int, ...], memory: GuestReader) -> Ucall:
    expression = _string(memory, args[0], "args[0] (expression)")
    file = _string(memory, args[1], "args[1] (file)")
    if args[2] > _MAX_LINE:
        raise UcallError(f"ucall field args[2] (line): {args[2]:#x} is no line number; valid: 0 to {_MAX_LINE:#x}")
    return Ucall(
        UcallCommand.ABORT, args, text=_text(words, memory), expression=_decode(expression), file=_decode(file)
    )


def _check_hello(pointer: int, memory: GuestReader) -> None:
    hello = _decode(_string(memory, pointer, "args[0] (hello)"))
    if hello != HELLO:
        raise UcallError(f"ucall field args[0] of SYNC points to {hello!r}, not to {HELLO!r}")


def _check_unhandled(args: tuple[int, ...]) -> None:
    for index, name, limit in ((0, "vector", _VECTORS), (1, "ec", _CLASSES), (2, "valid_ec", 2)):
        if args[index] >= limit:
            raise UcallError(f"ucall field args[{index}] ({name}): {args[index]:#x}; valid: 0 to {limit - 1:#x}")


def _text(words: tuple[int, ...], memory: GuestReader) -> str:
    pointer, count = words[1 + ARGS : 3 + ARGS]
    if count > FORMAT_ARGS:
        raise UcallError(f"ucall field count: {count:#x} arguments of the format; valid: 0 to {FORMAT_ARGS}")
    fmt = _string(memory, pointer, "fmt")

    def read_string(address: int, at_most: int | None) -> bytes:
        return _string(memory, address, "fmt_args (a string for %s)", at_most)

    try:
        text = format_text(fmt, words[3 + ARGS : 3 + ARGS + count], read_string)
    except FormatError as error:
        raise UcallError(f"ucall field fmt, {_shorten(_decode(fmt))!r}: {error}") from None
    return _decode(text)


def _string(memory: GuestReader, address: int, field: str, at_most: int | None = None) -> bytes:
    """A C string: page by page, because what follows its last page need not exist."""
    what = f"the string of ucall field {field}"
    limit = MAX_STRING + 1 if at_most is None else min(at_most, MAX_STRING + 1)
    string = bytearray()
    while len(string) < limit:
        start = address + len(string)
        chunk = _read(memory, start, min(_PAGE - start % _PAGE, limit - len(string)), what)
        end = chunk.find(b"\0")
        if end >= 0:
            return bytes(string + chunk[:end])
        string += chunk
    if at_most is not None and at_most <= MAX_STRING:
        return bytes(string)
    raise UcallError(f"{what} at {address:#x} is not terminated within the limit of {MAX_STRING} bytes")


def _read(memory: GuestReader, address: int, size: int, what: str) -> bytes:
    if address + size > 1 << 64:
        raise UcallError(f"{what} at {address:#x} ({size} bytes) exceeds the address space")
    try:
        data = memory.read(address, size)
    except GuestMemoryError as error:
        raise UcallError(f"{what} at {address:#x} ({size} bytes) is outside the guest's memory: {error}") from error
    if len(data) != size:
        raise GuestMemoryError(f"the reader gave {len(data)} of {size} bytes at {address:#x}")
    return data


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
