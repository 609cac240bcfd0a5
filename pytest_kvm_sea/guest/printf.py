# SPDX-License-Identifier: GPL-2.0-only
"""printf as C has it (C17 7.21.6.1), for formats and arguments that come out of a guest.

Arguments are 64-bit numbers, one per conversion. A conversion takes as many low bits of its argument as the C type has
on arm64 Linux (LP64): ``%d`` 32, ``%ld`` 64, ``%hhx`` 8. A format is bytes, and so is the result: a guest may print
anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

MAX_FIELD = 1024
"""The greatest width or precision that a conversion may have."""
MAX_TEXT = 64 * 1024
"""The greatest length of a formatted text, bytes."""

_BITS = {"": 32, "hh": 8, "h": 16, "l": 64, "ll": 64, "z": 64}
_BASES = {"o": "o", "u": "d", "d": "d", "i": "d", "x": "x", "X": "X", "p": "x"}
_PLAIN = frozenset("csp")
_CONVERSION = re.compile(
    rb"%(?P<flags>[-+ #0]*)(?P<width>[0-9]*)(?:\.(?P<precision>[0-9]*))?(?P<length>[a-zA-Z]*?)(?P<kind>[cspdiuoxX%n]|$)"
)
_SPECIMEN = 24

ReadString = Callable[[int, int | None], bytes]
"""(pointer, at most so many bytes or None for no limit) -> the string without its terminator."""


class FormatError(ValueError):
    """A format, or its arguments, that printf cannot take. The text quotes the conversion."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One conversion specification of a format."""

    text: str
    """As written, for messages: ``%#lx``."""
    flags: frozenset[str]
    width: int
    precision: int | None
    bits: int
    kind: str


Format = tuple[bytes | Conversion, ...]
"""A parsed format: literal bytes and conversions, in their order."""


@lru_cache(maxsize=512)
def parse_format(fmt: bytes) -> Format:
    """Split a format into its parts. Raises FormatError for what is not a conversion of this subset of C."""
    parts: list[bytes | Conversion] = []
    position = 0
    while True:
        start = fmt.find(b"%", position)
        if start < 0:
            break
        parts.append(fmt[position:start])
        match = _CONVERSION.match(fmt, start)
        if match is None:
            raise _unknown(fmt, start)
        parts.append(b"%" if match.group() == b"%%" else _conversion(fmt, match))
        position = match.end()
    parts.append(fmt[position:])
    return tuple(part for part in parts if part != b"")


@lru_cache(maxsize=512)
def conversions(fmt: bytes) -> tuple[Conversion, ...]:
    """The conversions of a format that take an argument, in order."""
    return tuple(part for part in parse_format(fmt) if isinstance(part, Conversion))


def format_text(fmt: bytes, arguments: Sequence[int], read_string: ReadString) -> bytes:
    """The text that C's printf makes of a format and its arguments.

    Raises FormatError when the format is malformed, does not fit the number of arguments, or makes more than `MAX_TEXT`
    bytes; what ``read_string`` raises passes through.
    """
    parts = parse_format(fmt)
    check_count(fmt, len(arguments))
    remaining = iter(arguments)
    pieces: list[bytes] = []
    total = 0
    for part in parts:
        piece = part if isinstance(part, bytes) else _convert(part, next(remaining), read_string)
        total += len(piece)
        if total > MAX_TEXT:
            raise FormatError(f"the text is longer than the limit of {MAX_TEXT} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def check_count(fmt: bytes, count: int) -> None:
    """Raise FormatError unless the format takes exactly ``count`` arguments."""
    wanted = conversions(fmt)
    if len(wanted) != count:
        names = " ".join(conversion.text for conversion in wanted) or "none"
        raise FormatError(f"the format takes {len(wanted)} arguments ({names}), {count} were given")


def escape(text: str) -> str:
    """The text as part of a format: it prints as itself."""
    return text.replace("%", "%%")


def _unknown(fmt: bytes, start: int) -> FormatError:
    specimen = fmt[start : start + _SPECIMEN].decode("utf-8", "backslashreplace")
    return FormatError(
        f"no printf conversion at offset {start}: {specimen!r}; valid: % flags(-+ #0) width .precision "
        "length(hh h l ll z) and one of c s p d i u o x X %"
    )


def _conversion(fmt: bytes, match: re.Match[bytes]) -> Conversion:
    text = match.group().decode()
    kind = match["kind"].decode()
    length = match["length"].decode()
    if kind == "n":
        raise FormatError(f"{text!r} writes to memory and is not supported")
    if kind in {"", "%"} or length not in _BITS or (length and kind in _PLAIN):
        raise _unknown(fmt, match.start())
    precision = match["precision"]
    return Conversion(
        text=text,
        flags=frozenset(match["flags"].decode()),
        width=_field(text, "width", match["width"]),
        precision=None if precision is None else _field(text, "precision", precision),
        bits=64 if kind in {"p", "s"} else _BITS[length],
        kind=kind,
    )


def _field(text: str, what: str, digits: bytes) -> int:
    # The number of digits first: converting a number of a million digits would itself be an attack.
    if len(digits.lstrip(b"0")) > len(str(MAX_FIELD)) or int(digits or b"0") > MAX_FIELD:
        shown = text if len(text) <= _SPECIMEN else text[:_SPECIMEN] + "…"
        raise FormatError(f"{what} of {shown!r} is greater than the limit of {MAX_FIELD}")
    return int(digits or b"0")


def _convert(conversion: Conversion, argument: int, read_string: ReadString) -> bytes:
    if conversion.kind == "s":
        return _pad(conversion, read_string(argument, conversion.precision)[: conversion.precision])
    if conversion.kind == "c":
        return _pad(conversion, bytes([argument & 0xFF]))
    if conversion.kind == "p" and argument == 0:
        return _pad(conversion, b"(nil)")
    sign, prefix, digits = _number(conversion, argument & ((1 << conversion.bits) - 1))
    lead = sign + prefix
    if "0" in conversion.flags and "-" not in conversion.flags and conversion.precision is None:
        digits = digits.rjust(conversion.width - len(lead), "0")
    return _pad(conversion, (lead + digits).encode())


def _number(conversion: Conversion, value: int) -> tuple[str, str, str]:
    """Sign, prefix and digits; the digits are filled up to the precision."""
    sign = ""
    if conversion.kind in {"d", "i"}:
        if value >> (conversion.bits - 1):
            value = (1 << conversion.bits) - value
            sign = "-"
        else:
            sign = "+" if "+" in conversion.flags else " " if " " in conversion.flags else ""
    elif conversion.kind == "p":
        # glibc prints a pointer as %#lx and lets the sign flags through.
        sign = "+" if "+" in conversion.flags else " " if " " in conversion.flags else ""
    digits = "" if value == 0 and conversion.precision == 0 else format(value, _BASES[conversion.kind])
    digits = digits.rjust(conversion.precision or 0, "0")
    prefix = ""
    if "#" in conversion.flags or conversion.kind == "p":
        if conversion.kind == "o" and not digits.startswith("0"):
            digits = "0" + digits
        elif conversion.kind in {"x", "X", "p"} and value:
            prefix = "0X" if conversion.kind == "X" else "0x"
    return sign, prefix, digits


def _pad(conversion: Conversion, piece: bytes) -> bytes:
    return piece.ljust(conversion.width) if "-" in conversion.flags else piece.rjust(conversion.width)
