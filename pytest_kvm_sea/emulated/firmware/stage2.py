# SPDX-License-Identifier: GPL-2.0-only
"""Find KVM's stage-2 tables in the machine's memory, and break one (Arm ARM D8.3, 4 KiB granule).

The level-3 table that maps a page is found by its entry for that page: the page's address is in it, with the attributes
of stage 2, which no descriptor of stage 1 has. The level-2 table is found by its pointer to the level-3 table. That
pointer is then made to point where nothing is: the next walk that comes by cannot read the level-3 table. Where the
page is part of a block of 2 MiB (a huge page), the same is done one level up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA

if TYPE_CHECKING:
    from pytest_kvm_sea.emulated.firmware.ram import Ram

NOWHERE = HostPA(0x0B00_0000)
"""No device of QEMU's `virt` answers here (hw/arm/virt.c, between VIRT_PLATFORM_BUS's neighbours)."""
PAGE = 4096
TABLE_OR_PAGE = 3
"""Bits [1:0] of a table descriptor, and of a page descriptor."""
_ADDRESS = 0x0000_FFFF_FFFF_F000
_NOT_GLOBAL = 1 << 11
"""nG of stage 1; 0 in every descriptor of stage 2 that KVM makes."""
_LOCKED = 1 << 10
"""An invalid entry that KVM is about to write (KVM_INVALID_PTE_LOCKED)."""
_NEVER = 0xF80F_0000_0000_0000 | _NOT_GLOBAL
"""Bits that are 0 in every valid descriptor of stage 2 that KVM makes; a pointer of the kernel has them set."""
_TABLE = struct.Struct("<512Q")
_MEMORY_ATTRIBUTES = {0xF, 0x6, 0x7}
"""MemAttr [5:2] of normal write-back memory: 0xf, or 6 and 7 with FEAT_S2FWB. Stage 1 has an index below 4 here."""
_MEMORY_SHIFT, _MEMORY_MASK = 2, 0xF
_READABLE = 1 << 6
_BLOCK = 1
"""Bits [1:0] of a block descriptor."""
_LEAVES = ((3, PAGE, TABLE_OR_PAGE), (2, 2 << 20, _BLOCK))
"""Level of the table, size of what its entries map, their bits [1:0]."""
_SEARCHED = slice(2, 6)
"""The bytes of a descriptor that hold bits 16 to 47 of the address and nothing else."""


class NotFound(Exception):
    """There is no table for that page, or more than one that could be.

    ``transient``: another look a moment later may find another thing, because tables come and go.
    """

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class Entry:
    """A descriptor that was rewritten: where it is, and what it was."""

    address: HostPA
    value: int
    level: int
    """Of the table that it points to: the walk that cannot read it fails at this level."""


def is_leaf(descriptor: int, address: HostPA, kind: int) -> bool:
    """Whether this can be stage 2's descriptor of a page, or of a block, of normal memory; ``kind``: bits [1:0]."""
    return (
        descriptor & TABLE_OR_PAGE == kind
        and descriptor & _ADDRESS == address
        and descriptor >> _MEMORY_SHIFT & _MEMORY_MASK in _MEMORY_ATTRIBUTES
        and descriptor & (_READABLE | _NOT_GLOBAL) == _READABLE
    )


def is_table(ram: Ram, page: HostPA) -> bool:
    """Whether all that is in this page can be stage 2's descriptors. Stacks hold copies of descriptors, too."""
    return all(
        not word or word == _LOCKED or (word & 1 and not word & _NEVER) for word in _TABLE.unpack(ram.read(page, PAGE))
    )


def find_tables(ram: Ram, page: HostPA, kind: int) -> list[HostPA]:
    """The tables that have an entry for a page, or for a block, ascending."""
    part = page.to_bytes(8, "little")[_SEARCHED]
    hits = [address for address in ram.words(part, _SEARCHED.start) if is_leaf(ram.read_u64(address), page, kind)]
    pages = sorted({HostPA(address // PAGE * PAGE) for address in hits})
    return [table for table in pages if is_table(ram, table)]


def find_pointers(ram: Ram, table: HostPA) -> list[HostPA]:
    """The addresses of all descriptors that point to a table, ascending."""
    hits = list(ram.words((table | TABLE_OR_PAGE).to_bytes(8, "little"), 0))
    return [address for address in hits if is_table(ram, HostPA(address // PAGE * PAGE))]


def find_entry(ram: Ram, page: HostPA) -> Entry:
    """The descriptor that points to the one table that maps ``page``. Raises NotFound."""
    if page not in ram:
        raise NotFound(f"{page:#x} is not in the machine's RAM [{ram.base:#x}, {ram.base + ram.size:#x})")
    for level, size, kind in _LEAVES:
        leaf = HostPA(page // size * size)
        pointers = [(table, at) for table in find_tables(ram, leaf, kind) for at in find_pointers(ram, table)]
        if len(pointers) > 1:
            found = ", ".join(f"{table:#x} by {pointer:#x}" for table, pointer in pointers)
            text = f"more than one stage-2 table may map {page:#x}: {found}; nothing was changed"
            raise NotFound(text, transient=True)
        if pointers:
            ((_, pointer),) = pointers
            return Entry(pointer, ram.read_u64(pointer), level)
    raise NotFound(f"no stage-2 table maps {page:#x} by pages of 4 KiB or 2 MiB; the guest must touch that page first")


def break_entry(ram: Ram, entry: Entry) -> None:
    """Make the descriptor point to where nothing is."""
    ram.write_u64(entry.address, NOWHERE | TABLE_OR_PAGE)


def repair_entry(ram: Ram, entry: Entry) -> None:
    """Put the descriptor back. Raises NotFound where somebody else has written there since."""
    now = ram.read_u64(entry.address)
    if now != NOWHERE | TABLE_OR_PAGE:
        raise NotFound(f"the descriptor at {entry.address:#x} is {now:#x} now, and no longer broken; left as it is")
    ram.write_u64(entry.address, entry.value)
