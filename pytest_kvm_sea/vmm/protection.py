# SPDX-License-Identifier: GPL-2.0-only
"""Taking a bad page out of stage 2 by splitting its memslot: what a VMM can do on every kernel.

The hole is memory that the VM does not have: loads and stores there become MMIO exits (or KVM_EXIT_ARM_NISV), fetches
and table walks an abort that KVM injects itself. A slot cannot be shrunk: it is deleted and its halves are made anew,
and for that time the guest has neither, so no vCPU may run. With every split the VM has one slot more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import GuestPA, HostVA

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Memory
    from pytest_kvm_sea.vmm.memory import Region
    from pytest_kvm_sea.vmm.vm import Vm


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mapping, as memory of its own. The mapping is given back with the VM."""

    whole: Memory
    offset: int
    size: int

    @property
    def address(self) -> HostVA:
        return HostVA(self.whole.address + self.offset)

    @property
    def view(self) -> memoryview:
        return self.whole.view[self.offset : self.offset + self.size]

    def close(self) -> None:
        self.whole.close()


@dataclass
class MemslotSplit:
    """Protects pages by leaving holes between memslots."""

    vm: Vm
    _holes: set[int] = field(default_factory=set)

    def is_protected(self, page: GuestPA) -> bool:
        return page in self._holes

    def protect(self, page: GuestPA) -> None:
        """Take the host page at ``page`` away. GuestMemoryAccessError where the VM has no memory; OSError."""
        size = self.vm.host.page_size
        region = self.vm.memory.region(page, size)
        self.vm.drop_region(region)
        for base, end in ((region.base, page), (page + size, region.end)):
            if base < end:
                self._add(region, base, end)
        self._holes.add(page)

    def _add(self, region: Region, base: int, end: int) -> None:
        part = Part(region.memory, base - region.base, end - base)
        self.vm.place_region(GuestPA(base), part, readonly=region.readonly)
