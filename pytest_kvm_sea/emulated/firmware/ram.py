# SPDX-License-Identifier: GPL-2.0-only
"""The machine's memory, seen from outside: the file that backs it, by the machine's physical addresses."""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from pytest_kvm_sea.addresses import HostPA

BASE = HostPA(0x4000_0000)
"""Where RAM begins in QEMU's `virt` (hw/arm/virt.c, VIRT_MEM)."""
_U64 = struct.Struct("<Q")
_CHUNK = 16 << 20
_PAGE = 4096
_ZEROS = bytes(_PAGE)


class Ram:
    """A file that the machine and this process both have mapped (`memory-backend-file`, `share=on`)."""

    def __init__(self, path: Path, *, base: HostPA = BASE) -> None:
        """Raises OSError, and ValueError for an empty file."""
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, 0)
        self.base = base
        self.size = len(self._map)

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size

    def read_u64(self, address: HostPA) -> int:
        """The 8 bytes at a physical address. Raises IndexError outside of RAM."""
        value: int = _U64.unpack_from(self._map, self._offset(address, 8))[0]
        return value

    def write_u64(self, address: HostPA, value: int) -> None:
        """Raises IndexError outside of RAM."""
        _U64.pack_into(self._map, self._offset(address, 8), value)

    def read(self, address: HostPA, size: int) -> bytes:
        """Raises IndexError outside of RAM."""
        offset = self._offset(address, size)
        return self._map[offset : offset + size]

    def write(self, address: HostPA, data: bytes) -> None:
        """Raises IndexError outside of RAM."""
        offset = self._offset(address, len(data))
        self._map[offset : offset + len(data)] = data

    def words(self, part: bytes, at: int) -> Iterator[HostPA]:
        """The addresses, ascending, of all aligned 8-byte words that have ``part`` ``at`` bytes after their start."""
        pattern = re.compile(re.escape(part))
        for offset, data in self._used():
            for found in pattern.finditer(data):
                start = found.start() - at
                if start % 8 == 0:
                    yield HostPA(self.base + offset + start)

    def close(self) -> None:
        """Allowed twice."""
        if self._file >= 0:
            self._map.close()
            os.close(self._file)
            self._file = -1

    def _offset(self, address: int, size: int) -> int:
        offset = address - self.base
        if offset < 0 or offset + size > self.size:
            raise IndexError(f"{address:#x} is not in the machine's RAM [{self.base:#x}, {self.base + self.size:#x})")
        return offset

    def _used(self) -> Iterator[tuple[int, bytes]]:
        """Offset and content of everything but pages of zeros, which most of the memory is."""
        for start, end in self._extents():
            for offset in range(start, end, _CHUNK):
                data = os.pread(self._file, min(_CHUNK, end - offset), offset)
                for first, last in _runs(data):
                    yield offset + first, data[first:last]

    def _extents(self) -> Iterator[tuple[int, int]]:
        """Start and end of what the file holds data for (lseek(2), SEEK_DATA)."""
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole to the end
                return
            end = os.lseek(self._file, start, os.SEEK_HOLE)
            yield start, end


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of every run of pages that are not all zeros."""
    first = None
    for position in range(0, len(data), _PAGE):
        if data.startswith(_ZEROS, position):
            if first is not None:
                yield first, position
            first = None
        elif first is None:
            first = position
    if first is not None:
        yield first, len(data)
