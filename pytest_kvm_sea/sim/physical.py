# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host's physical memory: frames behind mappings, poison, and pages taken out of service.

Poison is kept by 64-byte granule, the unit in which arm64 servers mark corrupt data (cache line and ECC word). A page
that memory_failure has dealt with is *offline* (the kernel's PG_hwpoison): the poison stays in the cell, but the kernel
no longer lets anybody touch it. What that means for who has it mapped is in `sim.memory_failure`.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections import Counter

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.sim.frames import BLOCK, Frames, Permutation, Region
from pytest_kvm_sea.sim.kernel_log import KernelLog
from pytest_kvm_sea.sim.memory_map import MemoryMap, Resource, memory_map

GRANULE = 64
EHWPOISON = 133
"""Not in Python's errno module before 3.14."""


class Offline(enum.Enum):
    """What a page was when it went offline."""

    FREE = "free"
    ANONYMOUS = "anonymous"
    KERNEL = "kernel"


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class PhysicalMemory:
    """RAM of one host. Sizes and addresses are in bytes; safe to use from several threads."""

    def __init__(self, page_size: int, ram_size: int) -> None:
        if page_size not in (4 << 10, 16 << 10, 64 << 10):
            raise ValueError(f"page size {page_size}: an arm64 kernel has 4, 16 or 64 KiB")
        self.page_size = page_size
        self.ram_size = ram_size
        self.map: MemoryMap = memory_map(ram_size)
        self.log = KernelLog()
        """What the kernel of the host has to say."""
        self.generation = 0
        """Goes up whenever poison or offline pages change: whoever has cached a page looks again."""
        self._spans = list(self.map.ram)
        self._scattered = Permutation.scattering(BLOCK // page_size)
        self._pools: dict[int, Region] = {}
        self._general: Region | None = None
        self._lock = threading.Lock()
        self._granules: set[int] = set()
        self._poisoned_pages: Counter[int] = Counter()
        self._offline: dict[int, Offline] = {}

    # Layout

    def ranges(self) -> tuple[Resource, ...]:
        """What /proc/iomem lists, in order."""
        return self.map.resources

    @property
    def zero_page(self) -> HostPA:
        return HostPA(self.map.zero_page)

    @property
    def end(self) -> int:
        """One past the last byte of RAM."""
        return max(resource.end for resource in self.map.resources)

    def is_ram(self, hpa: int) -> bool:
        """Whether the address is System RAM."""
        return self.map.is_ram(hpa)

    # Frames

    def reserve_pool(self, page: int, count: int) -> None:
        """Set ``count`` hugetlb pages of ``page`` bytes aside, from the top of RAM. Only before the first `allocate`.

        ValueError if they do not fit.
        """
        if self._general is not None:
            raise RuntimeError("hugetlb pools are reserved at boot, before memory is handed out")
        spans: list[range] = []
        missing = count
        for position in reversed(range(len(self._spans))):
            span = self._spans[position]
            first = -(-span.start // page) * page
            stop = span.stop // page * page
            got = max(0, min(missing, (stop - first) // page))
            if got:
                spans.insert(0, range(stop - got * page, stop))
                parts = [range(span.start, stop - got * page), range(stop, span.stop)]
                self._spans[position : position + 1] = [part for part in parts if part]
            missing -= got
        if missing:
            raise ValueError(
                f"{count} huge pages of {page} bytes do not fit into {self.ram_size} bytes of RAM: {missing} too many"
            )
        self._pools[page] = Region(page, tuple(spans))

    def pool_free(self, page: int) -> int:
        """Free hugetlb pages of this size; 0 where there is no such pool."""
        return self._pools[page].free if page in self._pools else 0

    def allocate(self, size: int, *, huge_page: int = 0, contiguous: bool = False) -> Frames:
        """Frames for a mapping of ``size`` bytes.

        With ``huge_page`` (bytes) from that hugetlb pool, contiguous and aligned within each huge page; otherwise
        ordinary pages, scattered, or with ``contiguous`` in one piece within each 2 MiB, as transparent huge pages
        are. OSError ENOMEM if there are not enough.
        """
        region = self._pools.get(huge_page) if huge_page else self._ordinary()
        if region is None:
            raise _error(errno.ENOMEM)
        order = Permutation(region.unit // self.page_size) if huge_page or contiguous else self._scattered
        with self._lock:
            extents = region.take(-(-size // region.unit))
            if extents is None:
                raise _error(errno.ENOMEM)
            frames = Frames(region, extents, size, self.page_size, order, huge_page or self.page_size)
            region.enter(frames)
        return frames

    def free(self, frames: Frames) -> None:
        """Take frames back. Offline pages stay out of circulation; poison that the kernel was not told of does not."""
        for other in frames.changed.values():
            if isinstance(other, Frames):
                self.free(other)
        region = frames.region
        with self._lock:
            region.leave(frames)
            withheld = {index for base in self._offline if (index := region.index(base)) is not None}
            region.give_back(frames.extents, withheld)

    def owner(self, hpa: int) -> tuple[Frames, int] | None:
        """The mapping that holds this address now, and the offset in it; None if it is free, offline or not RAM."""
        for region in self._regions():
            index = region.index(hpa)
            if index is None:
                continue
            with self._lock:
                found = region.owner(index)
            if found is None:
                return None
            frames, offset = found
            offset += frames.offset_in_unit(hpa - region.address(index))
            if offset >= frames.size or frames.lost(offset) or frames.hpa(offset) != hpa:
                return None
            while frames.parent is not None:
                frames, start = frames.parent
                offset += start
            return frames, offset
        return None

    def huge_page(self, hpa: int) -> tuple[HostPA, int] | None:
        """Start and size of the hugetlb page that holds an address; None for ordinary memory."""
        for size, pool in self._pools.items():
            index = pool.index(hpa)
            if index is not None:
                start = HostPA(hpa // size * size)
                return None if self._has_offline(start, size) else (start, size)
        return None

    def pool_size(self, page: int) -> int:
        """All hugetlb pages of this size, in use or not; one that had an error has been dissolved."""
        pool = self._pools.get(page)
        if pool is None:
            return 0
        return pool.count - len({index for base in self._offline if (index := pool.index(base)) is not None})

    def _has_offline(self, start: int, size: int) -> bool:
        return any(start <= base < start + size for base in self._offline)

    def _ordinary(self) -> Region:
        if self._general is None:
            spans = (range(-(-span.start // BLOCK) * BLOCK, span.stop // BLOCK * BLOCK) for span in self._spans)
            self._general = Region(BLOCK, tuple(span for span in spans if span), scatter=True)
            for base in self._offline:
                self._withhold(base)
        return self._general

    def _regions(self) -> list[Region]:
        return [*self._pools.values(), *([self._general] if self._general is not None else [])]

    # Poison

    def poison(self, hpa: int, length: int = GRANULE) -> None:
        """Make every granule that [hpa, hpa+length) touches answer accesses with an error."""
        with self._lock:
            for granule in range(hpa // GRANULE, -(-(hpa + length) // GRANULE)):
                if granule not in self._granules:
                    self._granules.add(granule)
                    self._poisoned_pages[granule >> 6] += 1
            self.generation += 1

    def unpoison(self, hpa: int, length: int = GRANULE) -> None:
        """Heal every granule that [hpa, hpa+length) touches, as writing a whole one does."""
        with self._lock:
            for granule in range(hpa // GRANULE, -(-(hpa + length) // GRANULE)):
                if granule in self._granules:
                    self._granules.discard(granule)
                    self._poisoned_pages[granule >> 6] -= 1
                    if not self._poisoned_pages[granule >> 6]:
                        del self._poisoned_pages[granule >> 6]
            self.generation += 1

    def poisoned(self, hpa: int, size: int) -> bool:
        """Whether one of ``size`` bytes at ``hpa`` is poisoned."""
        granules = self._granules
        if not granules:
            return False
        return any(granule in granules for granule in range(hpa >> 6, ((hpa + size - 1) >> 6) + 1))

    @property
    def has_poison(self) -> bool:
        """Whether there is any, anywhere."""
        return bool(self._poisoned_pages)

    def page_poisoned(self, hpa: int) -> bool:
        """Whether the 4 KiB page (of whatever kernel page size) that holds ``hpa`` has poison in it."""
        return hpa >> 12 in self._poisoned_pages

    @property
    def poison_granules(self) -> tuple[HostPA, ...]:
        """Addresses of all poisoned granules, ascending."""
        return tuple(HostPA(granule * GRANULE) for granule in sorted(self._granules))

    # Pages out of service

    def page(self, hpa: int) -> HostPA:
        """Start of the page of the host that holds an address."""
        return HostPA(hpa // self.page_size * self.page_size)

    def take_offline(self, hpa: int, was: Offline) -> None:
        """Mark one page, and never hand it out again. A huge page of hugetlb that it is in leaves its pool.

        What is left of the huge page is free, and would be given out as ordinary memory; here it is not.
        """
        base = self.page(hpa)
        with self._lock:
            self._offline[base] = was
            self.generation += 1
            self._withhold(base)

    def is_offline(self, hpa: int) -> bool:
        """Whether the page at ``hpa`` is marked hwpoison."""
        return bool(self._offline) and self.page(hpa) in self._offline

    def offline_was(self, hpa: int) -> Offline | None:
        """What the page at ``hpa`` was before it went offline; None if it did not."""
        return self._offline.get(self.page(hpa))

    @property
    def offline_pages(self) -> int:
        """How many pages are offline (HardwareCorrupted in /proc/meminfo is in kilobytes)."""
        return len(self._offline)

    def _withhold(self, base: int) -> None:
        for region in self._regions():
            index = region.index(base)
            if index is not None:
                region.withhold(index)
