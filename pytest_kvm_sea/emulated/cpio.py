# SPDX-License-Identifier: GPL-2.0-only
"""Archives in the format of an initramfs: cpio, "newc", not compressed (Documentation/driver-api/early-userspace).

The kernel unpacks several of them one after another; what comes later replaces what came before.
"""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"070701"
_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


class Cpio:
    """Writes one archive. Everything belongs to root; times are zero, so that equal trees give equal archives."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inodes = itertools.count(1)

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def parents(self, name: str) -> None:
        """The directories above a name. Those that are there already stay as they are."""
        for parent in reversed(Path(name).parents[:-1]):
            self.directory(str(parent))

    def tree(self, source: Path, below: str = "") -> None:
        """A directory of this machine, with all that is in it; links are kept as links."""
        for top, directories, files in os.walk(source):
            directories.sort()
            place = Path(below, Path(top).relative_to(source))
            if place.parts:
                self.directory(str(place))
            for name in sorted([*files, *(name for name in directories if Path(top, name).is_symlink())]):
                self._copy(Path(top, name), str(place / name))

    def close(self) -> None:
        self._entry(_TRAILER, 0)

    def _copy(self, path: Path, name: str) -> None:
        if path.is_symlink():
            self.link(name, str(path.readlink()))
        else:
            self.file(name, path.read_bytes(), executable=os.access(path, os.X_OK))

    def _entry(self, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)) -> None:
        if name == _TRAILER and mode:
            raise ValueError(f"a file cannot be named {name}: that is the end of an archive")
        # inode, mode, owner, group, links, time, size, device, device the node stands for, length of name, checksum
        encoded = name.encode() + b"\0"
        numbers = (next(self._inodes), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        self._out.write(_padded(_MAGIC + b"".join(b"%08X" % number for number in numbers) + encoded))
        self._out.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
