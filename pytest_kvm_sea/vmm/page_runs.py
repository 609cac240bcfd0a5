# SPDX-License-Identifier: GPL-2.0-only
"""The contents of level-3 tables that map a run of pages: descriptors that count upwards, a page each."""

from __future__ import annotations

from functools import lru_cache

from pytest_kvm_sea.arm64.descriptors import ADDRESS_MASK, PAGE_SHIFT

_SIZE = 8
_NIBBLE_SHIFT = 8
"""Byte 1 of a descriptor: attributes in its low half, the lowest bits of the page number in its high one."""
_WHOLE_BYTES = ((2, 4), (3, 12), (4, 20), (5, 28))
"""Bytes of a descriptor that have nothing but the page number in them, and what that is shifted by."""


@lru_cache(maxsize=4)
def consecutive_pages(first: int, count: int) -> bytes:
    """``count`` descriptors, little-endian, each a page after the last. ``first``: that of the first page.

    Made byte by byte of the descriptors, all of them at once, which takes a twentieth of the time of counting: 262,144
    are needed for 1 GiB. Kept, because every VM of a test session maps the same memory.
    """
    number = (first & ADDRESS_MASK) >> PAGE_SHIFT
    found = bytearray(first.to_bytes(_SIZE, "little") * count)
    attributes = first >> _NIBBLE_SHIFT & 0xF
    period = bytes(attributes | (number + step & 0xF) << 4 for step in range(16))
    found[1::_SIZE] = _cut(period, 0, count)
    for position, shift in _WHOLE_BYTES:
        if number >> shift != number + count - 1 >> shift:
            found[position::_SIZE] = _counting(number, count, shift)
    return bytes(found)


def _counting(number: int, count: int, shift: int) -> bytes:
    """The byte at ``shift`` of ``count`` numbers that follow each other."""
    same = 1 << shift
    values = range(number >> shift, min((number + count - 1 >> shift) + 1, (number >> shift) + 256))
    period = b"".join(bytes((value & 0xFF,)) * same for value in values)
    return _cut(period, number & same - 1, count)


def _cut(period: bytes, start: int, count: int) -> bytes:
    """``count`` bytes of what repeats itself without end."""
    return (period * (-(-(start + count) // len(period))))[start : start + count]
