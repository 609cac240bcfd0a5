# SPDX-License-Identifier: GPL-2.0-only
"""The files of /proc and /sys about memory: pagemap, kpageflags, iomem, and the door to memory_failure.

fs/proc/task_mmu.c, fs/proc/page.c, kernel/resource.c, drivers/base/memory.c; formats in
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import enum
import errno
import functools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.platforms.model import Lockdown
from pytest_kvm_sea.sim.files import SimFile, TextFile, fail
from pytest_kvm_sea.sim.kernel_text import kstrtoull
from pytest_kvm_sea.sim.memory_map import memory_map
from pytest_kvm_sea.sim.physical import EHWPOISON, Offline
from pytest_kvm_sea.sim.presence import Presence
from pytest_kvm_sea.sim.process import HUGETLB_SIZES, TASK_SIZE, Process, SimMemory

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.memory_map import Resource
    from pytest_kvm_sea.sim.physical import PhysicalMemory

ENTRY = 8
_DEFAULT_HUGE = 2 << 20
PRESENT, SWAPPED, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
_SWAP_TYPE_BITS = 5
SWP_HWPOISON = 24
"""Type of the swap entry that stands for a hwpoisoned page (include/linux/swap.h: MAX_SWAPFILES, with migration and
device-private memory configured)."""


def untagged(address: int) -> int:
    """The address without the byte that top-byte-ignore ignores (arch/arm64 untagged_addr: bit 55 extended)."""
    low = address & ((1 << 56) - 1)
    return low | (0xFF << 56) if low >> 55 else low


class PagemapFile(SimFile):
    """/proc/self/pagemap: one u64 per page of the host, at (address / page size) * 8.

    PFNs are shown to an opener with CAP_SYS_ADMIN only. PAGEMAP_SCAN is not modelled.
    """

    def __init__(self, path: str, flags: int, process: Process, *, show_pfn: bool) -> None:
        super().__init__(path, flags)
        self._process = process
        self._show_pfn = show_pfn

    def read(self, size: int = -1, /) -> bytes:
        """Without a size there is no end to it: EINVAL, as for every count that is not a multiple of 8."""
        if size < 0:
            self._check(readable=True)
            fail(errno.EINVAL, self.path)
        return super().read(size)

    def read_at(self, size: int, offset: int) -> bytes:
        if offset % ENTRY or size % ENTRY:
            fail(errno.EINVAL, self.path)
        page_size = self._process.page_size
        start = untagged(offset // ENTRY * page_size & ((1 << 64) - 1))
        end = min(start + size // ENTRY * page_size, TASK_SIZE)
        return b"".join(struct.pack("=Q", self.entry(address)) for address in range(start, end, page_size))

    def entry(self, address: int) -> int:
        """The entry of the page at ``address``."""
        found = self._process.resolve(address)
        if found is None:
            return 0
        memory, offset = found
        presence = memory.presence(offset)
        if presence is Presence.ABSENT:
            return 0
        physical = self._process.physical
        hpa = memory.hpa(offset)
        if presence is Presence.ZERO:
            return PRESENT | self._frame(physical.zero_page)
        if not memory.lost(offset):
            return PRESENT | EXCLUSIVE | self._frame(hpa)
        if memory.backing in HUGETLB_SIZES:
            return 0
        return SWAPPED | (self._frame(hpa) << _SWAP_TYPE_BITS | SWP_HWPOISON if self._show_pfn else 0)

    def _frame(self, hpa: int) -> int:
        return hpa // self._process.page_size if self._show_pfn else 0


class Kpf(enum.IntEnum):
    """Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h)."""

    UPTODATE = 3
    DIRTY = 4
    LRU = 5
    BUDDY = 10
    MMAP = 11
    ANON = 12
    SWAPBACKED = 14
    COMPOUND_HEAD = 15
    COMPOUND_TAIL = 16
    HUGE = 17
    HWPOISON = 19
    NOPAGE = 20
    THP = 22
    ZERO_PAGE = 24
    RESERVED = 32


def _bits(*flags: Kpf) -> int:
    return sum(1 << flag for flag in flags)


_ANONYMOUS = _bits(Kpf.UPTODATE, Kpf.DIRTY, Kpf.LRU, Kpf.MMAP, Kpf.ANON, Kpf.SWAPBACKED)
_OFFLINE = {
    None: 0,
    Offline.FREE: _bits(Kpf.HWPOISON),
    Offline.KERNEL: _bits(Kpf.HWPOISON),
    # Unmapped and off its list, and never freed (mm/memory-failure.c delete_from_lru_cache).
    Offline.ANONYMOUS: _bits(Kpf.HWPOISON, Kpf.UPTODATE, Kpf.DIRTY, Kpf.ANON, Kpf.SWAPBACKED),
}
_HUGETLB = _bits(Kpf.UPTODATE, Kpf.DIRTY, Kpf.MMAP, Kpf.ANON, Kpf.HUGE)


class KpageflagsFile(SimFile):
    """/proc/kpageflags: one u64 of flags per page frame, at PFN * 8."""

    def __init__(self, path: str, flags: int, process: Process) -> None:
        super().__init__(path, flags)
        self._process = process
        self._physical = process.physical

    def read_at(self, size: int, offset: int) -> bytes:
        if offset % ENTRY or size % ENTRY:
            fail(errno.EINVAL, self.path)
        page_size = self._process.page_size
        first = offset // ENTRY
        last = min(first + size // ENTRY, self._physical.end // page_size)
        return b"".join(struct.pack("=Q", self.flags_of(pfn * page_size)) for pfn in range(first, last))

    def flags_of(self, hpa: int) -> int:
        """The flags of the page at a physical address."""
        physical = self._physical
        if not physical.is_ram(hpa):
            return _bits(Kpf.NOPAGE)
        poison = _OFFLINE[physical.offline_was(hpa)]
        if hpa == physical.zero_page:
            return poison | _bits(Kpf.ZERO_PAGE, Kpf.RESERVED)
        if hpa in physical.map.kernel:
            return poison | _bits(Kpf.RESERVED)
        if poison:
            return poison
        found = self._process.memory_at(hpa)
        if found is None or found[0].presence(found[1]) is not Presence.OWN:
            return _bits(Kpf.BUDDY)
        return self._mapped(found[0], found[1])

    @staticmethod
    def _mapped(memory: SimMemory, offset: int) -> int:
        unit = memory.fault_unit
        if memory.backing is Backing.THP and memory.split(offset):
            return _ANONYMOUS
        part = _bits(Kpf.COMPOUND_TAIL if offset % unit else Kpf.COMPOUND_HEAD)
        if memory.backing in HUGETLB_SIZES:
            return _HUGETLB | part
        return _ANONYMOUS | (part | _bits(Kpf.THP) if unit > memory.frames.page_size else 0)


class OfflineFile(SimFile):
    """/sys/devices/system/memory/hard_offline_page and soft_offline_page: take a physical address."""

    def __init__(self, path: str, flags: int, action: Callable[[int], None]) -> None:
        super().__init__(path, flags)
        self._action = action

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002 - sysfs takes a value per write
        try:
            address = kstrtoull(data)
        except OSError:
            fail(errno.EINVAL, self.path)
        try:
            self._action(address)
        except OSError as error:
            fail(error.errno or EHWPOISON, self.path)
        return len(data)


class SwitchFile(TextFile):
    """A sysctl that is 0 or 1 (proc_dointvec_minmax)."""

    def __init__(self, path: str, flags: int, owner: object, name: str) -> None:
        """``owner``: has the switch as its attribute ``name``."""
        super().__init__(path, flags, lambda: b"%d\n" % getattr(owner, name))
        self._owner, self._name = owner, name

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002 - a sysctl takes its value in one write
        text = data.strip(b" \t\n")
        if not text.isdigit() or int(text) > 1:
            fail(errno.EINVAL, self.path)
        setattr(self._owner, self._name, text == b"1")
        return len(data)


def meminfo(physical: PhysicalMemory) -> bytes:
    """What /proc/meminfo says of memory that failed, and of the pool of huge pages of the default size."""
    total, free = physical.pool_size(_DEFAULT_HUGE), physical.pool_free(_DEFAULT_HUGE)
    rows = (
        ("MemTotal", physical.ram_size >> 10, " kB"),
        ("HardwareCorrupted", physical.offline_pages * physical.page_size >> 10, " kB"),
        ("HugePages_Total", total, ""),
        ("HugePages_Free", free, ""),
        ("Hugepagesize", _DEFAULT_HUGE >> 10, " kB"),
    )
    return "".join(f"{name + ':':<16}{value:>8}{unit}\n" for name, value, unit in rows).encode()


@functools.cache
def iomem(ram_size: int, *, show: bool) -> bytes:
    """The text of /proc/iomem; all addresses are zero for a reader without CAP_SYS_ADMIN.

    Kept, because it is the same for every host with so much memory, and read before every injection.
    """

    def lines(level: tuple[Resource, ...], depth: int) -> list[str]:
        text = []
        for resource in level:
            start, last = (resource.start, resource.end - 1) if show else (0, 0)
            text.append(f"{'  ' * depth}{start:08x}-{last:08x} : {resource.name}\n")
            text.extend(lines(resource.children, depth + 1))
        return text

    return "".join(lines(memory_map(ram_size).resources, 0)).encode()


def lockdown(mode: Lockdown) -> bytes:
    """The text of /sys/kernel/security/lockdown: all modes, the active one in brackets."""
    return (" ".join(f"[{each.value}]" if each is mode else each.value for each in Lockdown) + "\n").encode()
