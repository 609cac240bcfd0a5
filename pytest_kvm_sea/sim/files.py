# SPDX-License-Identifier: GPL-2.0-only
"""Open files that are not devices: position, access mode and the errno of fs/read_write.c.

A subclass says what reading and writing mean by `read_at` and `write_at`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument

_CHUNK = 1 << 16


def fail(code: int, path: str | None = None) -> NoReturn:
    """Raise OSError with the kernel's text for this errno."""
    raise OSError(code, os.strerror(code), path) if path else OSError(code, os.strerror(code))


class SimFile:
    """One open file description. Implements the File protocol of the host contract."""

    seekable = True
    """False: pread is ESPIPE (nonseekable_open)."""

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        mode = flags & os.O_ACCMODE
        self.readable = mode in (os.O_RDONLY, os.O_RDWR)
        self.writable = mode in (os.O_WRONLY, os.O_RDWR)
        self._position = 0
        self._closed = False
        self._lock = threading.Lock()

    def read_at(self, size: int, offset: int) -> bytes:  # noqa: ARG002 - the default has nothing to read
        """At most ``size`` bytes from ``offset``. A file without a read method: EINVAL."""
        fail(errno.EINVAL, self.path)

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002 - the default takes nothing
        """The number of bytes taken. A file without a write method: EINVAL."""
        fail(errno.EINVAL, self.path)

    def read(self, size: int = -1, /) -> bytes:
        self._check(readable=True)
        with self._lock:
            if size >= 0:
                return self._advance(size)
            parts = []
            while part := self._advance(_CHUNK):
                parts.append(part)
            return b"".join(parts)

    def _advance(self, size: int) -> bytes:
        data = self.read_at(size, self._position)
        self._position += len(data)
        return data

    def pread(self, size: int, offset: int, /) -> bytes:
        self._check()
        if offset < 0:
            fail(errno.EINVAL, self.path)
        if not self.seekable:
            fail(errno.ESPIPE, self.path)
        self._check(readable=True)
        return self.read_at(size, offset)

    def write(self, data: bytes, /) -> int:
        self._check(writable=True)
        with self._lock:
            return self.write_at(bytes(data), self._position)

    def ioctl(self, request: int, argument: Argument = 0, /) -> int:  # noqa: ARG002 - none is known
        self._check()
        fail(errno.ENOTTY, self.path)

    def mmap(self, length: int, /) -> memoryview:
        """A shared writable mapping wants the file open for both (EACCES), and none of these can be mapped (ENODEV)."""
        self._check()
        if length <= 0:
            fail(errno.EINVAL, self.path)
        fail(errno.ENODEV if self.readable and self.writable else errno.EACCES, self.path)

    def close(self) -> None:
        self._closed = True

    def _check(self, *, readable: bool = False, writable: bool = False) -> None:
        if self._closed or (readable and not self.readable) or (writable and not self.writable):
            fail(errno.EBADF, self.path)


class TextFile(SimFile):
    """A file whose text is made when reading starts (seq_file, sysctl, a blob)."""

    def __init__(self, path: str, flags: int, content: Callable[[], bytes]) -> None:
        super().__init__(path, flags)
        self._content = content
        self._snapshot: bytes | None = None

    def read_at(self, size: int, offset: int) -> bytes:
        if self._snapshot is None or not offset:
            self._snapshot = self._content()
        return self._snapshot[offset : offset + size]


class DirectoryFile(SimFile):
    """A directory opened as a file: there is nothing to read in it."""

    def read_at(self, size: int, offset: int) -> bytes:  # noqa: ARG002
        fail(errno.EISDIR, self.path)
