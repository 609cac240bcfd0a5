# SPDX-License-Identifier: GPL-2.0-only
"""Where things are in the simulated host's physical address space, as /proc/iomem tells it.

RAM lies where Arm's "Principles of ARM Memory Maps" (DEN0001) puts it: the first 2 GiB at 2 GiB, the next 30 GiB at
34 GiB, and so on. The kernel's image and its early reservations take the first 64 MiB, the firmware keeps 16 MiB.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

BANKS = ((2 * GIB, 2 * GIB), (34 * GIB, 30 * GIB), (544 * GIB, 480 * GIB), (8704 * GIB, 7680 * GIB))
"""(start, size) of the windows that RAM fills one after the other."""

KERNEL_SIZE = 64 * MIB
FIRMWARE_SIZE = 16 * MIB
MINIMUM_RAM = 256 * MIB


class Kind(enum.Enum):
    """What a resource is to the kernel: IORESOURCE_SYSTEM_RAM, or its IORES_DESC (include/linux/ioport.h)."""

    SYSTEM_RAM = "system-ram"
    NONE = "none"
    """MMIO, and on arm64 also what memblock marks nomap (/proc/iomem calls that `reserved`)."""
    CRASH_KERNEL = "crash-kernel"
    ACPI_TABLES = "acpi-tables"
    ACPI_NV_STORAGE = "acpi-nv-storage"
    PERSISTENT_MEMORY = "persistent-memory"
    RESERVED = "reserved"
    SOFT_RESERVED = "soft-reserved"


@dataclass(frozen=True, slots=True)
class Resource:
    """One line of /proc/iomem; ``end`` is exclusive here, the file prints the last byte."""

    start: int
    end: int
    name: str
    kind: Kind = Kind.NONE
    children: tuple[Resource, ...] = ()

    def intersects(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The resources of one host, in order of address, and what the kernel does with them."""

    resources: tuple[Resource, ...]
    kernel: range
    """The part of System RAM that belongs to the kernel itself: never given to a process."""
    firmware: range
    """Memory outside the kernel's control, where the firmware has its own data."""
    zero_page: int
    """The page of zeros that is mapped where anonymous memory was only read."""
    ram: tuple[range, ...] = field(default=())
    """System RAM without the kernel's part."""

    def kinds(self, start: int, end: int) -> set[Kind]:
        """Which kinds of resource the range touches."""
        return {resource.kind for resource in self.resources if resource.intersects(start, end)}

    def is_ram(self, address: int) -> bool:
        return any(
            resource.start <= address < resource.end for resource in self.resources if resource.kind is Kind.SYSTEM_RAM
        )


_DEVICES = (
    Resource(0x0800_0000, 0x0801_0000, "GICD"),
    Resource(0x080A_0000, 0x0900_0000, "GICR"),
    Resource(0x0900_0000, 0x0900_1000, "ARMH0011:00", children=(Resource(0x0900_0000, 0x0900_1000, "ARMH0011:00"),)),
)


def _banks(ram_size: int) -> list[range]:
    banks = []
    for start, window in BANKS:
        size = min(ram_size, window)
        if size:
            banks.append(range(start, start + size))
        ram_size -= size
    if ram_size:
        raise ValueError(f"{ram_size} bytes of RAM are left over: at most {sum(size for _, size in BANKS)} fit")
    return banks


@functools.cache
def memory_map(ram_size: int) -> MemoryMap:
    """Lay ``ram_size`` bytes out (at least 256 MiB, a multiple of 2 MiB). ValueError otherwise."""
    if ram_size < MINIMUM_RAM or ram_size % (2 * MIB):
        raise ValueError(f"memory of {ram_size} bytes: it must be at least 256 MiB and a multiple of 2 MiB")
    low, *high = _banks(ram_size)
    firmware = range(low.stop - FIRMWARE_SIZE, low.stop)
    kernel = range(low.start, low.start + KERNEL_SIZE)
    code = low.start + 0x21_0000
    image = (
        Resource(code, code + 0x1F2_0000, "Kernel code"),
        Resource(code + 0x1F2_0000, code + 0x238_0000, "reserved"),
        Resource(code + 0x238_0000, code + 0x2A4_0000, "Kernel data"),
    )
    resources = (
        *_DEVICES,
        Resource(low.start, firmware.start, "System RAM", Kind.SYSTEM_RAM, image),
        Resource(firmware.start, firmware.stop, "reserved"),
        *(Resource(bank.start, bank.stop, "System RAM", Kind.SYSTEM_RAM) for bank in high),
    )
    ram = (range(kernel.stop, firmware.start), *high)
    return MemoryMap(resources, kernel, firmware, zero_page=image[2].start, ram=ram)
