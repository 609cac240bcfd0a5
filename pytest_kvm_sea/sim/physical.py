# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host's physical memory: frames behind mappings, poison, and pages taken out of service.

Poison is kept by 64-byte granule, the unit in which arm64 servers mark corrupt data (cache line and ECC word). A page
that memory_failure has dealt with is *offline* (the kernel's PG_hwpoison): the poison stays in the cell, but the kernel
no longer lets anybody touch it (mm/memory-failure.c).
"""

from __future__ import annotations

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
        self._offline: set[int] = set()

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
            frames = Frames(region, extents, size, self.page_size, order)
            region.enter(frames)
        return frames

    def free(self, frames: Frames) -> None:
        """Take frames back. Offline pages stay out of circulation; poison that the kernel was not told of does not."""
        region = frames.region
        with self._lock:
            region.leave(frames)
            withheld = {index for base in self._offline if (index := region.index(base)) is not None}
            region.give_back(frames.extents, withheld)

    def owner(self, hpa: int) -> tuple[Frames, int] | None:
        """The frames that hold this address and the offset in their mapping; None if it is free or not RAM."""
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
            return (frames, offset) if offset < frames.size else None
        return None

    def page_unit(self, hpa: int) -> tuple[HostPA, int]:
        """Start and size of the page that memory_failure would act on: a huge page of hugetlb, else a base page."""
        for size, pool in self._pools.items():
            if pool.index(hpa) is not None:
                return HostPA(hpa // size * size), size
        return HostPA(hpa // self.page_size * self.page_size), self.page_size

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

    def page_poisoned(self, hpa: int) -> bool:
        """Whether the 4 KiB page (of whatever kernel page size) that holds ``hpa`` has poison in it."""
        return hpa >> 12 in self._poisoned_pages

    @property
    def poison_granules(self) -> tuple[HostPA, ...]:
        """Addresses of all poisoned granules, ascending."""
        return tuple(HostPA(granule * GRANULE) for granule in sorted(self._granules))

    # Pages out of service

    def offline(self, hpa: int) -> tuple[HostPA, int]:
        """Do what memory_failure does with the page at ``hpa``; start and size of what was taken out of service.

        OSError: ENXIO outside the kernel's memory, EHWPOISON if that page is offline already, EBUSY if the page is the
        kernel's own (it is marked, but cannot be recovered).
        """
        pfn = hpa // self.page_size
        if not self.is_ram(hpa):
            self.log.memory_failure(pfn, "memory outside kernel control")
            raise _error(errno.ENXIO)
        base, size = self.page_unit(hpa)
        with self._lock:
            known = base in self._offline
            if not known:
                self._offline.add(base)
                self.generation += 1
                self._withhold(base)
        if known:
            self.log.memory_failure(pfn, "recovery action for already poisoned page: Failed")
            raise _error(EHWPOISON)
        if base in self.map.kernel:
            self.log.memory_failure(pfn, "recovery action for reserved kernel page: Ignored")
            raise _error(errno.EBUSY)
        self.log.memory_failure(pfn, f"recovery action for {self._kind(base, size)}: Recovered")
        return base, size

    def _kind(self, base: int, size: int) -> str:
        """A page as memory_failure calls it. One that belongs to a mapping counts as touched."""
        used = self.owner(base) is not None
        if size != self.page_size:
            return "huge page" if used else "free huge page"
        return "dirty LRU page" if used else "free buddy page"

    def is_offline(self, hpa: int) -> bool:
        """Whether the page at ``hpa`` is marked hwpoison."""
        return bool(self._offline) and self.page_unit(hpa)[0] in self._offline

    def _withhold(self, base: int) -> None:
        for region in self._regions():
            index = region.index(base)
            if index is not None:
                region.withhold(index)
