# SPDX-License-Identifier: GPL-2.0-only
"""Guest memory, read for a report without touching what is broken.

To read a cell with an error in it, or a page that the kernel took out of service, is a SIGBUS for this process: on a
real host it would be the end of the whole run. So every page that the test broke is left alone, page tables included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError
from pytest_kvm_sea.vmm.paging import START_LEVEL

if TYPE_CHECKING:
    from pytest_kvm_sea.reports.trace import Trace
    from pytest_kvm_sea.vmm.vm import Vm

_HUGE = {Backing.THP: 1 << 21, Backing.HUGETLB_2M: 1 << 21, Backing.HUGETLB_1G: 1 << 30}
_WORD = 4


class BrokenMemory(Exception):
    """What is to be read lies in a page that was broken."""


class SafeReader:
    """Reads the memory of one VM."""

    def __init__(self, vm: Vm, trace: Trace) -> None:
        self._vm = vm
        self._broken = _broken(vm, trace)

    def word(self, gva: GuestVA) -> int:
        """The 4 bytes at a multiple of 4. Raises GuestMemoryAccessError, BrokenMemory."""
        return self._read(self.translate(gva), _WORD)

    def translate(self, gva: GuestVA) -> GuestPA:
        """Through the guest's stage 1. Raises as `word`."""
        table = self._vm.page_tables.root
        for level in range(START_LEVEL, descriptors.LAST_LEVEL + 1):
            descriptor = self._read(GuestPA(table + descriptors.index(gva, level) * 8), 8)
            if descriptors.is_leaf(descriptor, level):
                return GuestPA(descriptors.leaf_address(descriptor, level, gva))
            if not descriptors.is_table(descriptor, level):
                break
            table = GuestPA(descriptor & descriptors.ADDRESS_MASK)
        raise GuestMemoryAccessError(f"guest virtual {gva:#x} is not mapped by the guest's page tables")

    def _read(self, gpa: GuestPA, size: int) -> int:
        hva = self._vm.memory.hva(gpa, size)
        if self._broken is None or any(hva in page for page in self._broken):
            raise BrokenMemory(f"guest physical {gpa:#x} is in memory that was broken")
        return int.from_bytes(self._vm.memory.view(gpa, size), "little")


def _broken(vm: Vm, trace: Trace) -> list[range] | None:
    """Host virtual addresses that must not be touched; None where that is not known, and nothing may be."""
    known = {place.hpa: place.hva for place in trace.places if place.hva is not None and place.hpa is not None}
    pages = []
    for broken in trace.broken:
        hva = broken.hva
        if broken.ipa is not None:
            try:
                hva = vm.memory.hva(GuestPA(broken.ipa))
            except GuestMemoryAccessError:
                continue  # memory of another VM
        elif hva is None and broken.hpa is not None:
            hva = known.get(broken.hpa)
        if hva is None:
            return None
        pages.append(_page(vm, hva, broken.lsb))
    return pages


def _page(vm: Vm, hva: int, lsb: int) -> range:
    """The page of the host around an address, huge where it may be."""
    size = max(vm.host.page_size, 1 << lsb)
    for region in vm.memory.regions:
        if region.memory.address <= hva < region.memory.address + region.size:
            size = max(size, _HUGE.get(region.backing, 0))
    return range(hva // size * size, hva // size * size + size)
