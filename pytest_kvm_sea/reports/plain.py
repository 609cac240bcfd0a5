# SPDX-License-Identifier: GPL-2.0-only
"""Printable text from anything: what a guest or a firmware says may hold terminal escapes, NULs, or a million bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST = 2000
"""Characters of one line."""


def plain(text: str, limit: int = LONGEST) -> str:
    """One line: what cannot be printed becomes ``\\x1b``; what is too long is cut, and says so.

    Printable is what `str.isprintable` says: no control characters, no surrogates, nothing that XML forbids.
    """
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    return f"{text} [{cut} more characters]" if cut > 0 else text


def plain_lines(texts: Iterable[str], first: int, last: int, limit: int = LONGEST) -> list[str]:
    """Lines of texts that have line ends or not: the ``first`` and the ``last`` ones, and how many are between."""
    lines = _lines(texts)
    left_out = len(lines) - first - last
    if left_out <= 0:
        return [plain(line, limit) for line in lines]
    kept = [plain(line, limit) for line in [*lines[:first], *lines[len(lines) - last :]]]
    return [*kept[:first], f"[{left_out} more lines]", *kept[first:]]


def _lines(texts: Iterable[str]) -> Sequence[str]:
    """Only \\n ends a line: the rest that Python takes for an end is data."""
    lines = "".join(texts).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x1_0000 else f"\\U{code:08x}"
