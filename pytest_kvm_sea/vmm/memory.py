# SPDX-License-Identifier: GPL-2.0-only
"""Guest physical memory as the VMM has it: regions, each a memslot over a mapping of the VMM's own."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pytest_kvm_sea.addresses import GuestPA, HostVA
from pytest_kvm_sea.hosts.contract import Backing, Contents, Memory
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError

_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Region:
    """One memslot and its memory; size in bytes."""

    slot: int
    base: GuestPA
    memory: Memory
    readonly: bool = False
    backing: Backing = Backing.ANONYMOUS

    size: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        # Looked at for every byte that the VMM touches, and a mapping never changes its size.
        object.__setattr__(self, "size", self.memory.size)
        object.__setattr__(self, "end", self.base + self.memory.size)

    def __str__(self) -> str:
        return f"slot {self.slot} [{self.base:#x}, {self.end:#x})"


class GuestMemory:
    """All regions of one VM. Every access is checked against them."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def region(self, gpa: GuestPA, size: int = 1) -> Region:
        """The region that holds ``size`` bytes from ``gpa``. Raises GuestMemoryAccessError."""
        for region in self.regions:
            if region.base <= gpa and gpa + size <= region.end:
                return region
        have = ", ".join(map(str, self.regions)) or "none"
        raise GuestMemoryAccessError(
            f"guest physical [{gpa:#x}, {gpa + size:#x}) is not inside the VM's memory; it has {have}"
        )

    def hva(self, gpa: GuestPA, size: int = 1) -> HostVA:
        """The VMM's address of guest physical memory."""
        region = self.region(gpa, size)
        return HostVA(region.memory.address + gpa - region.base)

    def view(self, gpa: GuestPA, size: int) -> memoryview:
        """The bytes themselves."""
        region = self.region(gpa, size)
        offset = gpa - region.base
        return region.memory.view[offset : offset + size]

    def fill(self, gpa: GuestPA, contents: Contents) -> None:
        """Write much at once, which other VMs may want to begin with as well."""
        region = self.region(gpa, contents.size)
        region.memory.fill(gpa - region.base, contents)

    def read_u64(self, gpa: GuestPA) -> int:
        value: int = _U64.unpack_from(self.view(gpa, 8))[0]
        return value

    def write_u64(self, gpa: GuestPA, value: int) -> None:
        _U64.pack_into(self.view(gpa, 8), 0, value)
