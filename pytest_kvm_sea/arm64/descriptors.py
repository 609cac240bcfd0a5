# SPDX-License-Identifier: GPL-2.0-only
"""Stage-1 translation table descriptors, 4 KiB granule, 48-bit addresses (Arm ARM D8.3)."""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
TABLE_ENTRIES = 512
LAST_LEVEL = 3

VALID = 1 << 0
TABLE_OR_PAGE = 1 << 1
"""Bit 1: a table at levels 0 to 2, a page at level 3; a block where it is 0."""
ATTRIBUTE_INDEX_SHIFT = 2
AP_EL0 = 1 << 6
AP_READ_ONLY = 1 << 7
INNER_SHAREABLE = 3 << 8
ACCESS_FLAG = 1 << 10
PXN = 1 << 53
UXN = 1 << 54
ADDRESS_MASK = 0x0000_FFFF_FFFF_F000

NORMAL_WRITE_BACK = 4
"""MAIR_EL1 index of normal write-back memory, as the kselftests set MAIR_EL1."""
DEVICE_NGNRNE = 0
MAIR_EL1 = 0x0000_BBFF_440C_0400


def table(address: int) -> int:
    """The descriptor of a table at levels 0 to 2."""
    return address | TABLE_OR_PAGE | VALID


def page(address: int, *, user: bool, writable: bool, executable: bool, attribute: int = NORMAL_WRITE_BACK) -> int:
    """The descriptor of a 4 KiB page at level 3.

    A page that EL0 may write is never executable at EL1, whatever PXN says (Arm ARM D8.4.1.2.3).
    """
    descriptor = address | ACCESS_FLAG | INNER_SHAREABLE | attribute << ATTRIBUTE_INDEX_SHIFT | TABLE_OR_PAGE | VALID
    if user:
        descriptor |= AP_EL0
    if not writable:
        descriptor |= AP_READ_ONLY
    if not executable:
        descriptor |= PXN | UXN
    return descriptor


def level_shift(level: int) -> int:
    """The lowest address bit that a table at this level resolves."""
    return PAGE_SHIFT + 9 * (LAST_LEVEL - level)


def index(address: int, level: int) -> int:
    """The entry of a table at this level that translates the address."""
    return address >> level_shift(level) & (TABLE_ENTRIES - 1)


def is_table(descriptor: int, level: int) -> bool:
    return level < LAST_LEVEL and descriptor & (TABLE_OR_PAGE | VALID) == TABLE_OR_PAGE | VALID


def is_leaf(descriptor: int, level: int) -> bool:
    """A page, or a block at levels 1 and 2."""
    if not descriptor & VALID:
        return False
    return level == LAST_LEVEL if descriptor & TABLE_OR_PAGE else level in {1, 2}


def leaf_address(descriptor: int, level: int, address: int) -> int:
    """What an address translates to through this page or block."""
    offset_mask = (1 << level_shift(level)) - 1
    return descriptor & ADDRESS_MASK & ~offset_mask | address & offset_mask
