# SPDX-License-Identifier: GPL-2.0-only
"""The machine itself as a host: system calls, and nothing between."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Argument, Backing, Contents, File, MceKill, Memory, Sigbus, write
from pytest_kvm_sea.hosts.signals import KICK, captured_sigbus, poison_page, run_mask, set_mce_kill

if TYPE_CHECKING:
    from pytest_kvm_sea.uapi.revisions import Revision

_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_MAP_HUGETLB = 0x40000
_HUGE_SHIFT = 26
_HUGETLB = {Backing.HUGETLB_2M: 21, Backing.HUGETLB_1G: 30}
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_ADVICE = {Backing.ANONYMOUS: 15, Backing.THP: 14}
"""MADV_NOHUGEPAGE and MADV_HUGEPAGE."""


class LinuxFile:
    """A file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ioctl(self, request: int, argument: Argument = 0, /) -> int:
        return fcntl.ioctl(self._descriptor, request, argument)

    def mmap(self, length: int, /) -> memoryview:
        return memoryview(mmap.mmap(self._descriptor, length))

    def pread(self, size: int, offset: int, /) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def read(self, size: int = -1, /) -> bytes:
        if size >= 0:
            return os.read(self._descriptor, size)
        parts = []
        while part := os.read(self._descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    def write(self, data: bytes, /) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LinuxMemory:
    """A private anonymous mapping."""

    def __init__(self, size: int, backing: Backing, alignment: int) -> None:
        shift = _HUGETLB.get(backing)
        unit = mmap.PAGESIZE if shift is None else 1 << shift
        # Huge pages are reserved, so that mmap fails where there are none, and not the first access by SIGBUS.
        flags = _ANONYMOUS | (_MAP_NORESERVE if shift is None else _MAP_HUGETLB | shift << _HUGE_SHIFT)
        self._size = -(-size // unit) * unit
        slack = 0 if shift is not None else max(0, alignment - unit)
        self._mapping: mmap.mmap | None = mmap.mmap(-1, self._size + slack, flags=flags)
        if backing in _ADVICE:
            with contextlib.suppress(OSError):  # a kernel without transparent huge pages does not know the advice
                self._mapping.madvise(_ADVICE[backing])
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        skip = -start % alignment if alignment else 0
        self._address = HostVA(start + skip)
        self._view = memoryview(self._mapping)[skip : skip + self._size]

    @property
    def address(self) -> HostVA:
        return self._address

    @property
    def size(self) -> int:
        return self._size

    @property
    def view(self) -> memoryview:
        return self._view

    def fill(self, offset: int, contents: Contents, /) -> None:
        write(contents, self._view[offset : offset + contents.size])

    def close(self) -> None:
        """Give the pages back; the addresses stay taken until nobody has a view any more."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapping = None


class LinuxHost:
    """This machine."""

    name = "linux"

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self.before_hugetlb: Callable[[], None] = lambda: None
        """As in `contract.SharedPool`."""
        if threading.current_thread() is threading.main_thread():
            # Python's own handlers run between bytecodes; the signal is needed only to leave the system call.
            signal.signal(KICK, lambda _number, _frame: None)
            signal.siginterrupt(KICK, True)  # noqa: FBT003 - the interface is what it is

    @property
    def label(self) -> str:
        return f"linux-{self._revision.name}"

    @property
    def revision(self) -> Revision:
        return self._revision

    @property
    def page_size(self) -> int:
        return resource.getpagesize()

    @property
    def machine(self) -> str:
        return platform.machine()

    @property
    def release(self) -> str:
        return platform.release()

    @property
    def node(self) -> str:
        return platform.node()

    def open(self, path: str, flags: int, /) -> File:
        return LinuxFile(os.open(path, flags | os.O_CLOEXEC))

    def adopt(self, descriptor: int, /) -> File:
        return LinuxFile(descriptor)

    def access(self, path: str, mode: int, /) -> None:
        os.stat(path)  # noqa: PTH116 - says why not
        if not os.access(path, mode):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    def listdir(self, path: str, /) -> Sequence[str]:
        return os.listdir(path)  # noqa: PTH208

    def map_memory(self, size: int, /, *, backing: Backing = Backing.ANONYMOUS, alignment: int = 0) -> Memory:
        if backing in _HUGETLB:
            self.before_hugetlb()
        return LinuxMemory(size, backing, alignment)

    def clean_cache(self, address: HostVA, size: int, /) -> None:
        if self.machine == "aarch64":
            from pytest_kvm_sea.hosts.cache import clean_and_invalidate  # noqa: PLC0415 - brings an assembler

            clean_and_invalidate(address, size)

    def poison_page(self, address: HostVA, /) -> None:
        poison_page(address)

    def set_mce_kill(self, policy: MceKill, /) -> None:
        set_mce_kill(policy)

    def capture_sigbus(self) -> contextlib.AbstractContextManager[Callable[[], list[Sigbus]]]:
        return captured_sigbus()

    def run_mask(self) -> bytes:
        return run_mask()

    def interrupt(self, thread: int, /) -> None:
        signal.pthread_kill(thread, KICK)

    def close(self) -> None:
        """Nothing is held."""
