# SPDX-License-Identifier: GPL-2.0-only
"""The contents of level-3 tables that map a run of pages: descriptors that count upwards, a page each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvm_sea.arm64.descriptors import ADDRESS_MASK, PAGE_SHIFT

_SIZE = 8
_CHUNK = 4096
"""Descriptors after which the bytes 1 and 2, the lowest of the page number, are the same again."""
_HIGH_BYTES = ((3, 12), (4, 20), (5, 28))
"""The other bytes of a descriptor with the page number in them, and what that is shifted by."""


@dataclass(frozen=True, slots=True)
class PageRun:
    """``count`` descriptors, little-endian, each a page after the last; ``first`` is that of the first page.

    1 GiB has 262,144 of them. They are made byte by byte of the descriptor, many at once, in a twentieth of the time of
    counting. See `hosts.contract.Contents`.
    """

    first: int
    count: int

    @property
    def size(self) -> int:
        return self.count * _SIZE

    def parts(self) -> Iterator[memoryview]:
        number = (self.first & ADDRESS_MASK) >> PAGE_SHIFT
        chunk = self._chunk(number)
        for start in range(0, self.count, _CHUNK):
            length = min(_CHUNK, self.count - start) * _SIZE
            self._set_high_bytes(chunk, number, number + start)
            yield memoryview(chunk)[:length]

    def _chunk(self, number: int) -> bytearray:
        """As many as there are before the low bytes repeat, with the high bytes of the first."""
        chunk = bytearray(self.first.to_bytes(_SIZE, "little") * _CHUNK)
        attributes = self.first >> 8 & 0xF
        chunk[1::_SIZE] = bytes(attributes | (number + step & 0xF) << 4 for step in range(16)) * (_CHUNK // 16)
        counting = b"".join(bytes((value,)) * 16 for value in range(256))
        skip = number & _CHUNK - 1
        chunk[2::_SIZE] = counting[skip:] + counting[:skip]
        return chunk

    @staticmethod
    def _set_high_bytes(chunk: bytearray, first: int, number: int) -> None:
        """For the chunk whose first page is ``number``: they change once in it, if at all."""
        before = _CHUNK - (number & _CHUNK - 1)
        for position, shift in _HIGH_BYTES:
            low, high = number >> shift, number + _CHUNK - 1 >> shift
            if high != first >> shift:
                bytes_before, bytes_after = bytes((low & 0xFF,)) * before, bytes((high & 0xFF,)) * (_CHUNK - before)
                chunk[position::_SIZE] = bytes_before + bytes_after
