# SPDX-License-Identifier: GPL-2.0-only
"""Taking a bad page out of stage 2: by splitting its memslot, which every kernel can, or by KVM userfault.

The hole that a split leaves is memory that the VM does not have: loads and stores there become MMIO exits (or
KVM_EXIT_ARM_NISV), fetches and table walks an abort that KVM injects itself. A slot cannot be shrunk: it is deleted and
its halves are made anew, and for that time the guest has neither, so no vCPU may run. With every split the VM has one
slot more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import GuestPA, HostVA
from pytest_kvm_sea.uapi.kvm import KVM_MEM_READONLY
from pytest_kvm_sea.uapi.userfault import KVM_MEM_USERFAULT, KVM_SET_USER_MEMORY_REGION2, UserspaceMemoryRegion2

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Contents, Memory
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

    def fill(self, offset: int, contents: Contents, /) -> None:
        self.whole.fill(self.offset + offset, contents)

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
        self.vm.place_region(GuestPA(base), part, readonly=region.readonly, backing=region.backing)


class UserfaultBitmap:
    """Protects pages by KVM userfault as it was proposed: a bit per page, and no memslot is split.

    An access to a page whose bit is set ends KVM_RUN with KVM_EXIT_MEMORY_FAULT. For memory whose protection is asked
    for once, the bitmap is made; stage 2 forgets the slot when the flag is set anew, so a bit counts from then on.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._bitmaps: dict[int, Memory] = {}
        self._pages: set[int] = set()

    def is_protected(self, page: GuestPA) -> bool:
        return page in self._pages

    def protect(self, page: GuestPA) -> None:
        """Set the page's bit. OSError EINVAL on a kernel without KVM userfault, which is every released one."""
        size = self._vm.host.page_size
        region = self._vm.memory.region(page, size)
        if region.slot not in self._bitmaps:
            self._bitmaps[region.slot] = self._vm.host.map_memory(-(-region.size // size // 8))
        bitmap = self._bitmaps[region.slot]
        index = (page - region.base) // size
        bitmap.view[index // 8] |= 1 << index % 8
        for flags in (0, KVM_MEM_USERFAULT):
            self._set(region, flags, bitmap)
        self._pages.add(page)

    def close(self) -> None:
        """Give the bitmaps back; after the VM is closed."""
        for bitmap in self._bitmaps.values():
            bitmap.close()

    def _set(self, region: Region, flags: int, bitmap: Memory) -> None:
        request = UserspaceMemoryRegion2(
            slot=region.slot,
            flags=flags | (KVM_MEM_READONLY if region.readonly else 0),
            guest_phys_addr=region.base,
            memory_size=region.size,
            userspace_addr=region.memory.address,
            userfault_bitmap=bitmap.address,
        )
        self._vm.file.ioctl(KVM_SET_USER_MEMORY_REGION2, request)
