# SPDX-License-Identifier: GPL-2.0-only
"""How the kernel reads numbers out of text: kstrtoull (lib/kstrtox.c) and the %llx of sscanf (lib/vsprintf.c).

Python's int() is no substitute: it takes underscores, blanks and signs that the kernel refuses, and refuses the octal
and the trailing text that the kernel takes.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache

U64_MAX = (1 << 64) - 1
_WITH_BASE = re.compile(
    rb"\+?(?:(?P<x>0[xX](?=[0-9a-fA-F]))(?P<hex>[0-9a-fA-F]+)|(?P<oct>0[0-7]*)|(?P<dec>[1-9][0-9]*))\n?"
)
_SCAN_HEX = re.compile(rb"\s*(?P<prefix>0[xX])?(?P<digits>[0-9a-fA-F]*)")


def c_string(data: bytes) -> bytes:
    """The text up to the first NUL."""
    return data.partition(b"\0")[0]


@lru_cache(maxsize=256)
def kstrtoull(text: bytes) -> int:
    """kstrtoull with base 0: decimal, 0x hexadecimal, 0 octal; one trailing newline allowed.

    OSError: EINVAL for anything that is not a number, ERANGE beyond 64 bits.
    """
    text = c_string(text)
    match = _WITH_BASE.fullmatch(text)
    if match is None:
        raise OSError(errno.EINVAL, f"not a number: {text!r}")
    if match["hex"] is not None:
        value = int(match["hex"], 16)
    else:
        value = int(match["oct"], 8) if match["oct"] is not None else int(match["dec"], 10)
    if value > U64_MAX:
        raise OSError(errno.ERANGE, f"more than 64 bits: {text!r}")
    return value


def sscanf_hex(text: bytes) -> int | None:
    """What sscanf reads for %llx: blanks skipped, 0x optional, trailing text ignored, wrapped to 64 bits.

    None where there is not a single hexadecimal digit.
    """
    match = _SCAN_HEX.match(c_string(text))
    if match is None or not (match["prefix"] or match["digits"]):
        return None
    return int(match["digits"] or b"0", 16) & U64_MAX
