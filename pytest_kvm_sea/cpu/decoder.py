# SPDX-License-Identifier: GPL-2.0-only
"""From an instruction word to its encoding class."""

from __future__ import annotations

from functools import cache

from pytest_kvm_sea.arm64.encodings import ENCODINGS, Encoding

_TOP = 24


@cache
def _candidates(top: int) -> tuple[Encoding, ...]:
    """The classes that a word with these eight top bits can belong to."""
    word = top << _TOP
    high = 0xFF << _TOP
    return tuple(each for each in ENCODINGS.values() if (word ^ each.match) & each.mask & high == 0)


def decode(word: int) -> Encoding | None:
    """The encoding class of a word; None if it is unallocated or not known here."""
    for candidate in _candidates(word >> _TOP):
        if candidate.has(word):
            return candidate
    return None
