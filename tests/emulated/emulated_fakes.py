# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the emulated host share: a reader of archives, and programs that stand in for others."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

HEADER = 110
FIELDS = 13
NAMES_IN_ORDER = ("ino", "mode", "uid", "gid", "nlink", "mtime", "filesize", "devmajor", "devminor")


@dataclass(frozen=True)
class Member:
    """One entry of an archive."""

    name: str
    mode: int
    data: bytes
    device: tuple[int, int]

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


def read_cpio(data: bytes) -> list[Member]:
    """The entries of archives that follow one another, as init/initramfs.c takes them apart; trailers left out."""
    members, at = [], 0
    while at < len(data):
        if data[at] == 0:  # between archives
            at += 4
            continue
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701", f"no header at {at}"
        fields = [int(data[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(FIELDS)]
        size, length = fields[6], fields[11]
        name = data[at + HEADER : at + HEADER + length]
        assert name.endswith(b"\0")
        start = at + HEADER + length + 3 & ~3
        if name != b"TRAILER!!!\0":
            content = data[start : start + size]
            assert len(content) == size
            members.append(Member(name[:-1].decode(), fields[1], content, (fields[9], fields[10])))
        at = start + size + 3 & ~3
    return members


def program(directory: Path, name: str, script: str) -> Path:
    """An executable for a directory that is put in front of PATH."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path
