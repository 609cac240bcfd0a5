# SPDX-License-Identifier: GPL-2.0-only
"""A simulated host that takes itself for a real server, and tells a test of every write to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Backing, File, Memory
from pytest_kvm_sea.platforms.model import GIB, Hugepages, Platform
from pytest_kvm_sea.ras.einj_files import DIRECTORY
from pytest_kvm_sea.ras.journal import BOOT_ID, Journal
from pytest_kvm_sea.ras.lock import HostLock
from pytest_kvm_sea.ras.retire import HARD_OFFLINE
from pytest_kvm_sea.ras.safeguards import Safeguards
from pytest_kvm_sea.sim.files import TextFile
from pytest_kvm_sea.sim.host import SimHost

NAME = "server-1"
KNOBS = ["error_type", "flags", "param1", "param2", "notrigger"]
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(0, 0))


class Watched:
    """A file of which the writes are told before they are made."""

    def __init__(self, file: File, name: str, before: Callable[[str, str], None]) -> None:
        self._file = file
        self._name = name
        self._before = before

    def write(self, data: bytes, /) -> int:
        self._before(self._name, data.decode())
        return self._file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


class Server(SimHost):
    """A real server, as far as the safeguards can tell."""

    name = "linux"

    def __init__(self, platform: Platform = BASE, *, boot: str = "this boot", tree: Path | None = None) -> None:
        super().__init__(platform, tree=tree)
        self.before_write: Callable[[str, str], None] = lambda _name, _text: None
        """Called with the name of an EINJ file, or another's path, and the text."""
        self.before_hugetlb: Callable[[], None] = lambda: None
        self.cleaned: list[tuple[HostVA, int]] = []
        self._files.register(BOOT_ID, lambda flags: TextFile(BOOT_ID, flags, f"{boot}\n".encode), mode=0o444)

    @property
    def node(self) -> str:
        return NAME

    def open(self, path: str, flags: int, /) -> File:
        file = super().open(path, flags)
        if flags == os.O_RDONLY or not path.startswith((DIRECTORY, HARD_OFFLINE)):
            return file
        name = path.removeprefix(f"{DIRECTORY}/")
        return Watched(file, name, self._told)  # type: ignore[return-value] # by __getattr__

    def _told(self, name: str, text: str) -> None:
        self.before_write(name, text)

    def map_memory(self, size: int, /, *, backing: Backing = Backing.ANONYMOUS, alignment: int = 0) -> Memory:
        if backing in (Backing.HUGETLB_2M, Backing.HUGETLB_1G):
            self.before_hugetlb()
        return super().map_memory(size, backing=backing, alignment=alignment)

    def clean_cache(self, address: HostVA, size: int, /) -> None:
        self.before_write("clean_cache", f"{address:#x}")
        self.cleaned.append((address, size))

    def filled(self, size: int = 0x1000) -> Memory:
        """Memory that has been written."""
        memory = self.map_memory(size)
        memory.view[:] = b"x" * memory.size
        return memory

    def knobs(self) -> dict[str, str]:
        return {name: self.read(f"{DIRECTORY}/{name}") for name in KNOBS}

    def read(self, path: str) -> str:
        return super().open(path, os.O_RDONLY).read().decode()

    def put(self, name: str, text: str) -> None:
        """Past the watching."""
        super().open(f"{DIRECTORY}/{name}", os.O_WRONLY).write(text.encode())

    def hpa(self, memory: Memory, offset: int = 0) -> HostPA:
        found = self.process.hpa_of(memory.address + offset)
        assert found is not None
        return found


def guarded(directory: Path, test: str = "test_x") -> Safeguards:
    """All there is, with files in a directory of the test's own."""
    lock = HostLock(directory / "lock", host=NAME, test=test, timeout=5)
    return Safeguards(named=NAME, lock=lock, journal=Journal(directory / "journal"), test=test)
