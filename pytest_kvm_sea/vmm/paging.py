# SPDX-License-Identifier: GPL-2.0-only
"""The guest's stage-1 page tables, built by the VMM: 4 KiB granule, 4 levels, 48-bit virtual addresses."""

from __future__ import annotations

from array import array

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.descriptors import LAST_LEVEL, PAGE_SIZE, TABLE_ENTRIES
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError, VmmError
from pytest_kvm_sea.vmm.memory import GuestMemory
from pytest_kvm_sea.vmm.page_runs import PageRun

VA_BITS = 48
START_LEVEL = 0
TABLE_SIZE = TABLE_ENTRIES * 8
BLOCK_SIZE = TABLE_ENTRIES * PAGE_SIZE
"""What one level-3 table maps: 2 MiB."""


class TableAllocator:
    """Hands out zeroed pages for tables from ranges of guest physical memory."""

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []

    def add(self, base: GuestPA, size: int) -> None:
        """Give it more room."""
        self._ranges.append([base, base + size])

    def take(self, count: int = 1) -> GuestPA:
        """``count`` consecutive tables. Raises VmmError when there is no room."""
        for bounds in self._ranges:
            if bounds[0] + count * TABLE_SIZE <= bounds[1]:
                taken = GuestPA(bounds[0])
                bounds[0] += count * TABLE_SIZE
                return taken
        raise VmmError(f"no room for {count} more page tables; map less, or in 2 MiB steps")


class PageTables:
    """Stage 1 of one VM."""

    def __init__(self, memory: GuestMemory, allocator: TableAllocator) -> None:
        self._memory = memory
        self._allocator = allocator
        self.root = allocator.take()

    def map(
        self,
        gva: GuestVA,
        gpa: GuestPA,
        pages: int,
        *,
        user: bool = False,
        writable: bool = True,
        executable: bool = True,
        attribute: int = descriptors.NORMAL_WRITE_BACK,
    ) -> None:
        """Map 4 KiB pages. An address that is mapped already is mapped anew."""
        if (gva | gpa) % PAGE_SIZE:
            raise VmmError(f"cannot map {gva:#x} to {gpa:#x}: both must be multiples of {PAGE_SIZE:#x}")
        if not 0 <= gva <= (1 << VA_BITS) - pages * PAGE_SIZE:
            raise VmmError(f"cannot map {gva:#x}: guest virtual addresses have {VA_BITS} bits")
        first = descriptors.page(gpa, user=user, writable=writable, executable=executable, attribute=attribute)
        if pages >= TABLE_ENTRIES and gva % BLOCK_SIZE == 0:
            whole = pages - pages % TABLE_ENTRIES
            self._map_tables(gva, first, whole)
            gva, first, pages = GuestVA(gva + whole * PAGE_SIZE), first + whole * PAGE_SIZE, pages - whole
        for number in range(pages):
            entry = self._entry(GuestVA(gva + number * PAGE_SIZE), LAST_LEVEL)
            self._memory.write_u64(entry, first + number * PAGE_SIZE)

    def _map_tables(self, gva: GuestVA, first: int, pages: int) -> None:
        """Map whole level-3 tables at once: they lie one behind the other."""
        tables = self._allocator.take(pages // TABLE_ENTRIES)
        self._memory.fill(tables, PageRun(first, pages))
        self._enter_tables(gva, tables, pages // TABLE_ENTRIES)

    def _enter_tables(self, gva: GuestVA, tables: GuestPA, count: int) -> None:
        """Write the level-2 entries for consecutive level-3 tables, one run for each level-2 table."""
        while count:
            run = min(count, TABLE_ENTRIES - descriptors.index(gva, LAST_LEVEL - 1))
            first = descriptors.table(tables)
            entries = array("Q", range(first, first + run * TABLE_SIZE, TABLE_SIZE)).tobytes()
            self._memory.view(self._entry(gva, LAST_LEVEL - 1), len(entries))[:] = entries
            gva, tables = GuestVA(gva + run * BLOCK_SIZE), GuestPA(tables + run * TABLE_SIZE)
            count -= run

    def _entry(self, gva: GuestVA, level: int) -> GuestPA:
        """Where the descriptor for an address lies at a level; tables on the way are made."""
        table = self.root
        for step in range(START_LEVEL, level):
            entry = GuestPA(table + descriptors.index(gva, step) * 8)
            descriptor = self._memory.read_u64(entry)
            if not descriptors.is_table(descriptor, step):
                descriptor = descriptors.table(self._allocator.take())
                self._memory.write_u64(entry, descriptor)
            table = GuestPA(descriptor & descriptors.ADDRESS_MASK)
        return GuestPA(table + descriptors.index(gva, level) * 8)

    def walk(self, gva: GuestVA) -> list[tuple[int, GuestPA, int]]:
        """The descriptors that translate an address: (level, where it lies, its value), up to the last one."""
        steps: list[tuple[int, GuestPA, int]] = []
        table = self.root
        for level in range(START_LEVEL, LAST_LEVEL + 1):
            entry = GuestPA(table + descriptors.index(gva, level) * 8)
            descriptor = self._memory.read_u64(entry)
            steps.append((level, entry, descriptor))
            if not descriptors.is_table(descriptor, level):
                break
            table = GuestPA(descriptor & descriptors.ADDRESS_MASK)
        return steps

    def translate(self, gva: GuestVA) -> GuestPA:
        """What the guest's stage 1 makes of an address. Raises GuestMemoryAccessError where it is not mapped."""
        if not 0 <= gva < 1 << VA_BITS:
            raise GuestMemoryAccessError(f"guest virtual {gva:#x} is not an address of {VA_BITS} bits")
        level, _, descriptor = self.walk(gva)[-1]
        if not descriptors.is_leaf(descriptor, level):
            raise GuestMemoryAccessError(f"guest virtual {gva:#x} is not mapped by the guest's page tables")
        return GuestPA(descriptors.leaf_address(descriptor, level, gva))
