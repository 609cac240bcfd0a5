# SPDX-License-Identifier: GPL-2.0-only
"""Text of anybody (guests, kernels, exceptions) as parts of KTAP lines that no parser takes for something else.

A file is ASCII: it goes over serial lines, and through parsers that read it in the encoding of their machine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LINE = 400
"""Characters of others in one line."""


class Limit(NamedTuple):
    """What is kept of a long text."""

    characters: int
    lines: int


DETAIL = Limit(8192, 120)
"""Of what pytest tells of a failure."""
OUTPUT = Limit(2048, 40)
"""Of each section of captured output."""

_UNPRINTABLE = re.compile(r"[^ -~]")
_END_OF_LOG = re.compile(r"List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted")
"""Wherever a line has one of these, kunit_parser.py (KTAP_END) takes it for the end of a kernel's log."""
_MARK = re.compile(r"^[-:]")
"""Parsers drop a leading dash as the separator of number and name."""


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _byte(character: str) -> str:
    return f"\\x{ord(character):02x}"


def plain(text: str, limit: int = LINE) -> str:
    """One line of ASCII, with what is not printable as in a Python literal, and what is beyond the limit counted."""
    kept = _fitting_escaped(text, limit)
    line = _END_OF_LOG.sub(lambda found: found[0].replace(":", _byte(":")), _UNPRINTABLE.sub(_escaped, text[:kept]))
    return f"{line} ... cut {_size(text[kept:])} bytes" if kept < len(text) else line.rstrip()


def _fitting_escaped(text: str, limit: int) -> int:
    """How many characters of a text are within the limit when they are escaped."""
    kept = min(len(text), limit)
    total = kept
    for found in _UNPRINTABLE.finditer(text[:kept]):
        total += len(_escaped(found)) - 1
    while total > limit:
        kept -= 1
        total -= len(_UNPRINTABLE.sub(_escaped, text[kept]))
    return kept


def name(text: str) -> str:
    """The name of a test or a file: nothing in it is a directive, a comment or a separator."""
    cleaned = plain(text, sys.maxsize).strip().replace("#", _byte("#"))
    return _MARK.sub(lambda found: _byte(found[0]), cleaned) or "(no name)"


def reason(text: str) -> str:
    """What stands after a directive. A second `#` in the line could be taken for the directive."""
    return re.sub(r"#(?=\s|$)", r"\\#", plain(" ".join(text.split())))


def comment(text: str) -> str:
    """A line of diagnostics that begins with words of ours."""
    return f"# {plain(' '.join(text.split()))}"


def quoted(text: str, limit: Limit) -> Iterator[str]:
    """Diagnostics that quote many lines. The bar tells them from results to parsers that strip every `# `."""
    for line in _excerpt(text.strip("\n"), limit):
        yield f"# | {plain(line.expandtabs())}" if line.strip() else "# |"


def _excerpt(text: str, limit: Limit) -> list[str]:
    """The lines of a text; of one that is too long, those at its beginning and at its end."""
    lines = text.splitlines(keepends=True)
    if len(text) <= limit.characters and len(lines) <= limit.lines:
        return text.splitlines()
    half = Limit(limit.characters // 2, limit.lines // 2)
    head, tail = _fitting(lines, half), _fitting(lines[::-1], half)
    gone = text[head : len(text) - tail]
    return [*text[:head].splitlines(), f"... cut {_size(gone)} bytes ...", *text[len(text) - tail :].splitlines()]


def _fitting(lines: Sequence[str], limit: Limit) -> int:
    """How many characters of whole lines fit; or of one, where it alone is too long."""
    total = 0
    for line in lines[: limit.lines]:
        if total + len(line) > limit.characters:
            return total or limit.characters
        total += len(line)
    return total


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
