# SPDX-License-Identifier: GPL-2.0-only
"""The VMM's side of ucall: what a well-formed one gives, and that nothing in a malformed one is trusted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.guest.errors import GuestMemoryError, UcallError
from pytest_kvm_sea.guest.ucall import STRUCTURE, UcallCommand, parse_ucall

BASE = 0x10000
SIZE = 0x4000
UCALL = BASE
HELLO = BASE + 0x200
WORD = BASE + 0x300
FORMAT = BASE + 0x400
TAIL = BASE + SIZE - 6
"""Where a string ends at the last byte of memory."""
LONG = BASE + 0x1000
"""Where 4097 bytes without a terminator are."""
FULL = BASE + 0x2800
"""Where a string of exactly the limit is."""


class FlatMemory:
    """Memory of a guest: one region."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)
        self.put(HELLO, b"hello\0")
        self.put(WORD, b"word \xff\0")
        self.put(TAIL, b"tail!\0")
        self.put(LONG, b"x" * 4097 + b"\0")

    def put(self, address: int, data: bytes) -> None:
        self.bytes[address - BASE : address - BASE + len(data)] = data

    def read(self, gva: int, size: int, /) -> bytes:
        if not BASE <= gva <= gva + size <= BASE + SIZE:
            raise GuestMemoryError(f"no memory at {gva:#x}")
        return bytes(self.bytes[gva - BASE : gva - BASE + size])


def memory_with(
    cmd: int, args: Sequence[int] = (), fmt: bytes | int = 0, fmt_args: Sequence[int] = (), count: int | None = None
) -> FlatMemory:
    memory = FlatMemory()
    if isinstance(fmt, bytes):
        memory.put(FORMAT, fmt + b"\0")
        fmt = FORMAT
    padded = [*args, *[0] * (7 - len(args)), fmt, len(fmt_args) if count is None else count]
    memory.put(UCALL, STRUCTURE.pack(cmd, *padded, *fmt_args, *[0] * (8 - len(fmt_args))))
    return memory


def test_none_and_done_carry_nothing() -> None:
    for cmd in (UcallCommand.NONE, UcallCommand.DONE):
        ucall = parse_ucall(UCALL, memory_with(cmd, [1, 2, 3, 4, 5, 6, 7]))
        assert (ucall.cmd, ucall.args, ucall.text) == (cmd, (1, 2, 3, 4, 5, 6, 7), "")


def test_printf_formats_in_the_host() -> None:
    memory = memory_with(UcallCommand.PRINTF, fmt=b"%s|%#lx|%5d|%.2s", fmt_args=[TAIL, 0xBAD, -7 & 0xFFFFFFFF, WORD])
    assert parse_ucall(UCALL, memory).text == "tail!|0xbad|   -7|wo"


def test_a_precision_reads_no_further() -> None:
    """C17 7.21.6.1: with a precision the string need not be terminated."""
    assert parse_ucall(UCALL, memory_with(UcallCommand.PRINTF, fmt=b"%.3s", fmt_args=[LONG])).text == "xxx"


def test_bytes_that_are_no_text_are_shown() -> None:
    assert parse_ucall(UCALL, memory_with(UcallCommand.PRINTF, fmt=b"%s", fmt_args=[WORD])).text == "word \\xff"


def test_a_string_of_the_greatest_length() -> None:
    memory = memory_with(UcallCommand.PRINTF, fmt=b"%s", fmt_args=[FULL])
    memory.put(FULL, b"y" * 4096 + b"\0")
    assert parse_ucall(UCALL, memory).text == "y" * 4096


def test_abort_names_what_did_not_hold() -> None:
    memory = memory_with(UcallCommand.ABORT, [TAIL, WORD, 42], fmt=b"%ld != %ld", fmt_args=[1, 2])
    ucall = parse_ucall(UCALL, memory)
    assert (ucall.expression, ucall.file, ucall.line, ucall.text) == ("tail!", "word \\xff", 42, "1 != 2")


def test_sync_and_unhandled() -> None:
    assert parse_ucall(UCALL, memory_with(UcallCommand.SYNC, [HELLO, 3])).stage == 3
    ucall = parse_ucall(UCALL, memory_with(UcallCommand.UNHANDLED, [4, 0x25, 1]))
    assert (ucall.vector, ucall.ec, ucall.valid_ec) == (4, 0x25, True)


@pytest.mark.parametrize("name", ["stage", "vector", "ec", "valid_ec", "line"])
def test_a_field_of_another_command_is_an_error(name: str) -> None:
    ucall = parse_ucall(UCALL, memory_with(UcallCommand.DONE))
    with pytest.raises(AttributeError, match=f"a ucall DONE has no {name}"):
        getattr(ucall, name)


HOSTILE = {
    "unknown command": (memory_with(6), "field cmd: unknown command 0x6; known: 0 NONE, 1 SYNC"),
    "command with a high bit": (memory_with(1 << 63 | 4), "field cmd: unknown command 0x8000000000000004"),
    "sync without hello": (memory_with(1, [WORD, 1]), "args[0] of SYNC points to 'word \\\\xff', not to 'hello'"),
    "sync to nowhere": (memory_with(1, [0, 1]), "field args[0] (hello) at 0x0 (4096 bytes) is outside"),
    "expression": (memory_with(2, [8, WORD, 1], b""), "field args[0] (expression) at 0x8 "),
    "file": (memory_with(2, [WORD, 8, 1], b""), "field args[1] (file) at 0x8 "),
    "line": (memory_with(2, [WORD, WORD, 1 << 31], b""), "field args[2] (line): 0x80000000 is no line number"),
    "format pointer": (memory_with(3, fmt=0x123), "field fmt at 0x123 (3805 bytes) is outside the guest's memory"),
    "format pointer at the top": (memory_with(3, fmt=(1 << 64) - 1), "fmt at 0xffffffffffffffff (1 bytes) is outside"),
    "format unterminated": (
        memory_with(3, fmt=LONG),
        f"field fmt at {LONG:#x} is not terminated within the limit of 4096",
    ),
    "count": (memory_with(3, fmt=b"", count=9), "field count: 0x9 arguments of the format; valid: 0 to 8"),
    "count of abort": (memory_with(2, [WORD, WORD, 1], b"", count=1 << 40), "field count: 0x10000000000 arguments"),
    "count too small": (memory_with(3, fmt=b"%d", count=0), "takes 1 arguments (%d), 0 were given"),
    "count too great": (memory_with(3, fmt=b"%d", count=2), "takes 1 arguments (%d), 2 were given"),
    "conversion": (memory_with(3, fmt=b"%y", count=1), "field fmt, '%y': no printf conversion at offset 0: '%y'"),
    "%n": (memory_with(3, fmt=b"%n", fmt_args=[UCALL]), "'%n' writes to memory"),
    "width": (memory_with(3, fmt=b"%999999999d", fmt_args=[1]), "width of '%999999999d' is greater than the limit"),
    "string argument": (memory_with(3, fmt=b"%s", fmt_args=[0]), "field fmt_args (a string for %s) at 0x0"),
    "string unterminated": (
        memory_with(3, fmt=b"%s", fmt_args=[LONG]),
        "(a string for %s) at 0x11000 is not terminated",
    ),
    "string with a useless precision": (memory_with(3, fmt=b"%.1024s", fmt_args=[8]), "(a string for %s) at 0x8"),
    "vector": (memory_with(5, [16, 0, 0]), "field args[0] (vector): 0x10; valid: 0 to 0xf"),
    "class": (memory_with(5, [0, 64, 0]), "field args[1] (ec): 0x40; valid: 0 to 0x3f"),
    "valid_ec": (memory_with(5, [0, 0, 2]), "field args[2] (valid_ec): 0x2; valid: 0 to 0x1"),
}


@pytest.mark.parametrize(("memory", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile(memory: FlatMemory, message: str) -> None:
    with pytest.raises(UcallError) as caught:
        parse_ucall(UCALL, memory)
    assert message in str(caught.value)


def test_a_string_that_runs_out_of_memory() -> None:
    memory = memory_with(UcallCommand.PRINTF, fmt=BASE + SIZE - 2)
    memory.put(BASE + SIZE - 2, b"xx")
    with pytest.raises(UcallError, match=r"field fmt at 0x14000 \(4095 bytes\) is outside the guest's memory"):
        parse_ucall(UCALL, memory)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (0, "the ucall structure at 0x0 (144 bytes) is outside the guest's memory: no memory at 0x0"),
        (BASE + SIZE - 143, "the ucall structure at 0x13f71 (144 bytes) is outside"),
        ((1 << 64) - 1, "the ucall structure at 0xffffffffffffffff (144 bytes) exceeds the address space"),
    ],
)
def test_hostile_address(address: int, message: str) -> None:
    with pytest.raises(UcallError) as caught:
        parse_ucall(address, memory_with(UcallCommand.DONE))
    assert message in str(caught.value)


def test_a_reader_that_gives_less_is_not_believed() -> None:
    class Short(FlatMemory):
        def read(self, gva: int, size: int, /) -> bytes:
            return super().read(gva, size)[:-1]

    with pytest.raises(GuestMemoryError, match="gave 143 of 144 bytes"):
        parse_ucall(UCALL, Short())


@given(
    st.lists(
        st.one_of(st.integers(0, 9), st.integers(BASE, BASE + SIZE), st.integers(0, (1 << 64) - 1)),
        min_size=18,
        max_size=18,
    ),
    st.binary(max_size=48),
)
def test_any_structure_is_a_ucall_or_a_ucall_error(words: list[int], fmt: bytes) -> None:
    memory = FlatMemory()
    memory.put(FORMAT, fmt)
    memory.put(UCALL, STRUCTURE.pack(*words))
    try:
        ucall = parse_ucall(UCALL, memory)
    except UcallError:
        return
    assert ucall.cmd == words[0]
