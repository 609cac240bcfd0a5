# SPDX-License-Identifier: GPL-2.0-only
"""printf against the C library of this machine."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_kvm_sea.guest.printf import MAX_TEXT, FormatError, check_count, conversions, escape, format_text

U64 = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(
        [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1]
    ),
)
C_TYPES = {"": ctypes.c_uint, "hh": ctypes.c_uint, "h": ctypes.c_uint, "l": ctypes.c_ulong, "ll": ctypes.c_ulonglong}
C_TYPES["z"] = ctypes.c_size_t
STRINGS = {0x1000: b"", 0x2000: b"abc", 0x3000: b"a longer string \xc3\xa9"}


@cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c"))


def libc_format(fmt: bytes, arguments: list[object]) -> bytes:
    buffer = ctypes.create_string_buffer(8192)
    length = libc().snprintf(buffer, ctypes.c_size_t(len(buffer)), ctypes.c_char_p(fmt), *arguments)
    return buffer.raw[:length]


def read_string(address: int, at_most: int | None) -> bytes:
    return STRINGS[address][:at_most]


@st.composite
def specifications(draw: st.DrawFn) -> tuple[str, int, object]:
    """A conversion, its argument as a guest gives it, and as ctypes gives it to libc."""
    kind = draw(st.sampled_from("diouxXpcs"))
    valid_flags = {"d": "-+ 0", "i": "-+ 0", "u": "-0", "o": "-#0", "x": "-#0", "X": "-#0", "p": "-+ "}.get(kind, "-")
    flags = "".join(draw(st.lists(st.sampled_from(valid_flags), max_size=4)))
    width = draw(st.sampled_from(["", "1", "5", "12", "30"]))
    precision = draw(st.sampled_from(["", ".", ".0", ".1", ".4", ".20"])) if kind not in "cp" else ""
    length = draw(st.sampled_from(sorted(C_TYPES))) if kind not in "cps" else ""
    text = f"%{flags}{width}{precision}{length}{kind}"
    if kind == "s":
        address = draw(st.sampled_from(sorted(STRINGS)))
        return text, address, ctypes.c_char_p(STRINGS[address])
    value = draw(U64)
    if kind == "p":
        return text, value, ctypes.c_void_p(value)
    return text, value, C_TYPES[length](value)


@given(st.lists(st.tuples(st.sampled_from(["", "%%", "text ", "é"]), specifications()), max_size=8))
@example([("", ("%#lx", 0, ctypes.c_ulong(0)))])
@example([("", ("%#.0o", 0, ctypes.c_uint(0)))])
def test_formats_as_the_c_library(parts: list[tuple[str, tuple[str, int, object]]]) -> None:
    fmt = "".join(literal + text for literal, (text, _, _) in parts).encode()
    ours = format_text(fmt, [value for _, (_, value, _) in parts], read_string)
    assert ours == libc_format(fmt, [c_value for _, (_, _, c_value) in parts])


@given(st.text())
def test_escaped_text_prints_as_itself(text: str) -> None:
    assert format_text(escape(text).encode("utf-8", "surrogatepass"), [], read_string) == text.encode(
        "utf-8", "surrogatepass"
    )


@given(st.binary(max_size=64))
def test_any_bytes_are_a_format_or_a_format_error(fmt: bytes) -> None:
    try:
        count = len(conversions(fmt))
    except FormatError:
        return
    format_text(fmt, [0x2000] * count, lambda _address, _at_most: b"")


@pytest.mark.parametrize(
    ("fmt", "arguments", "message"),
    [
        ("%n", [0], "'%n' writes to memory"),
        ("%hhn", [0], "'%hhn' writes to memory"),
        ("100% yes", [], "no printf conversion at offset 3: '% yes'"),
        ("%", [], "no printf conversion at offset 0: '%'"),
        ("%*d", [1, 2], "no printf conversion at offset 0: '%*d'"),
        ("%f", [0], "no printf conversion at offset 0: '%f'"),
        ("%ls", [0], "no printf conversion at offset 0: '%ls'"),
        ("%qd", [0], "no printf conversion at offset 0: '%qd'"),
        ("%5%", [0], "no printf conversion at offset 0: '%5%'"),
        ("%1025d", [0], "width of '%1025d' is greater than the limit of 1024"),
        ("%.99999999999d", [0], "precision of '%.99999999999d' is greater than the limit of 1024"),
        ("%" + "9" * 100_000 + "d", [0], "width of '%99999999999999999999999…' is greater"),
        ("%d %lx", [1], "takes 2 arguments (%d %lx), 1 were given"),
        ("plain", [1], "takes 0 arguments (none), 1 were given"),
        ("%1024d" * 65, [0] * 65, f"longer than the limit of {MAX_TEXT} bytes"),
    ],
)
def test_refuses(fmt: str, arguments: list[int], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        format_text(fmt.encode(), arguments, read_string)
    assert message in str(caught.value)


def test_the_greatest_width_is_allowed() -> None:
    assert format_text(b"%01024d", [7], read_string) == b"7".rjust(1024, b"0")


def test_count_is_checked_without_arguments() -> None:
    check_count(b"%d%%%s", 2)
    with pytest.raises(FormatError, match="takes 2 arguments"):
        check_count(b"%d%%%s", 3)
