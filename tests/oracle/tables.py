# SPDX-License-Identifier: GPL-2.0-only
"""The memory that a case finds: code and data pages, stage 1 with every kind of page, and stage 2 around all of it.

Stage 1 has one level-3 table for the 2 MiB at `layout.GUEST`. The entries of its level-2 table after that are what a
walk can end with otherwise. Both halves of the address space have the same tables.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from typing import Final

from pytest_kvm_sea.arm64 import descriptors as d
from tests.oracle import layout as at

_READ: Final = 1 << 6
_WRITE: Final = 1 << 7
_XN: Final = 1 << 54
_STAGE2_NORMAL: Final = 0xF << 2


_TABLE_PXN, _TABLE_UXN, _TABLE_NO_USER, _TABLE_READ_ONLY = (1 << bit for bit in (59, 60, 61, 62))
_TOO_HIGH: Final = 1 << 45
"""An output address that does not fit into the 40 bits of TCR_EL1.IPS."""

DATA_VIEW: Final = 0x10
"""The first page of the level-3 table with data; each has another neighbour and other permissions."""
LEVEL2_ENTRIES: Final = 14
_L0, _L1, _L2, _L3 = (at.STAGE1 + number * at.PAGE for number in range(4))
TTBR: Final = _L0
LEVEL1: Final = _L1
"""The table of the first level where 39 bits or less are translated."""

_USER: Final = d.AP_EL0
_RO: Final = d.AP_READ_ONLY
_NX: Final = d.PXN | d.UXN
_DATA = tuple(at.DATA + number * at.PAGE for number in range(at.DATA_PAGES))


def _leaf(address: int, flags: int = 0) -> int:
    return address | d.ACCESS_FLAG | d.INNER_SHAREABLE | d.NORMAL_WRITE_BACK << d.ATTRIBUTE_INDEX_SHIFT | 3 | flags


def _block(address: int, flags: int = 0) -> int:
    return _leaf(address, flags) & ~d.TABLE_OR_PAGE


_PAGES: Final[Mapping[int, int]] = {
    0: _leaf(at.VECTORS, _RO | d.UXN),
    1: _leaf(at.CODE, _USER | _RO),
    2: _leaf(at.CODE + at.PAGE, _USER | _RO),
    3: _leaf(at.CODE, _USER | _RO | d.UXN),
    4: _leaf(at.CODE, _USER | _RO | d.PXN),
    5: _leaf(at.CODE, _USER),  # writable by EL0: not executable at EL1
    6: _leaf(at.CODE),
    # 7 is not mapped, nor is any other page that is not here
    DATA_VIEW + 1: _leaf(_DATA[0], _USER | _NX),
    DATA_VIEW + 2: _leaf(_DATA[1], _USER | _NX),
    DATA_VIEW + 3: _leaf(_DATA[2], _NX),
    DATA_VIEW + 4: _leaf(_DATA[0], _USER | _NX),
    DATA_VIEW + 5: _leaf(_DATA[3], _USER | _RO | _NX),
    DATA_VIEW + 6: _leaf(_DATA[1], _USER | _NX),
    DATA_VIEW + 7: _leaf(_DATA[2], _RO | _NX),
    DATA_VIEW + 8: _leaf(_DATA[3], _USER | _NX) & ~d.ACCESS_FLAG,
    DATA_VIEW + 9: _leaf(_DATA[0], _USER | _NX),
    DATA_VIEW + 10: _leaf(_DATA[1], _USER | _NX) & ~d.TABLE_OR_PAGE,  # reserved at level 3
    DATA_VIEW + 11: _leaf(at.HOLE, _USER | _NX),
    DATA_VIEW + 12: _leaf(_DATA[2], _USER | _NX),
    DATA_VIEW + 13: _leaf(at.READ_ONLY, _USER | _NX),
    DATA_VIEW + 14: _leaf(at.BROKEN, _USER | _NX),
    DATA_VIEW + 15: _leaf(_DATA[3], _USER | _NX),
    DATA_VIEW + 16: _leaf(_TOO_HIGH | _DATA[0], _USER | _NX),
    DATA_VIEW + 17: _leaf(_DATA[0], _USER),
    DATA_VIEW + 18: _leaf(at.BROKEN, _USER),
    DATA_VIEW + 19: _leaf(at.HOLE, _USER | _RO),
}
DATA_VIEWS: Final = 20


def _level2() -> dict[int, int]:
    first = at.GUEST >> 21 & 0x1FF
    entries = (
        d.table(_L3),
        _block(at.GUEST, _USER | _NX),
        _block(at.GUEST, _USER | _NX) & ~d.ACCESS_FLAG,
        d.table(_L3) | _TABLE_PXN,
        d.table(_L3) | _TABLE_UXN,
        d.table(_L3) | _TABLE_NO_USER,
        d.table(_L3) | _TABLE_READ_ONLY,
        d.table(at.HOLE),
        d.table(at.BROKEN),
        d.table(_TOO_HIGH | _L3),
        _block(_TOO_HIGH, _USER),
        _block(at.GUEST, _USER | _RO),
        0,
        _block(at.GUEST, _NX),
    )
    assert len(entries) == LEVEL2_ENTRIES
    return {first + number: entry for number, entry in enumerate(entries)}


def guest_memory() -> bytes:
    """The 2 MiB at `layout.GUEST`."""
    memory = bytearray(at.GUEST_SIZE)

    def put(address: int, data: bytes) -> None:
        memory[address - at.GUEST : address - at.GUEST + len(data)] = data

    for vector in range(16):
        put(at.VECTORS + vector * 0x80, struct.pack("<I", 0xD4000002 | vector << 5))
    put(at.CODE, struct.pack("<I", at.STOP) * (at.CODE_PAGES * at.PAGE // 4))
    contents = random.Random("data")
    put(at.DATA, contents.randbytes((at.DATA_PAGES + 1) * at.PAGE))
    for table, entries in (
        (_L0, {0: d.table(_L1), 1: _leaf(0)}),  # a block at level 0 is reserved
        (_L1, {at.GUEST >> 30 & 0x1FF: d.table(_L2), 2: _block(0, _NX)}),
        (_L2, _level2()),
        (_L3, _PAGES),
    ):
        for index, entry in entries.items():
            put(table + index * 8, struct.pack("<Q", entry))
    return bytes(memory)


def _stage2_pages() -> dict[int, int]:
    """Page -> flags of its stage-2 descriptor."""
    pages = dict.fromkeys((at.VECTORS, *(at.CODE + number * at.PAGE for number in range(at.CODE_PAGES))), _READ)
    pages |= dict.fromkeys(_DATA, _READ | _WRITE | _XN)
    pages[at.READ_ONLY] = _READ | _XN
    pages[at.BROKEN] = _READ | _WRITE
    pages |= dict.fromkeys((at.STAGE1 + number * at.PAGE for number in range(at.STAGE1_PAGES)), _READ | _XN)
    return pages


STAGE2_PAGES: Final = _stage2_pages()
"""What stage 2 maps to itself (`layout.BROKEN` apart)."""


def may_write(page: int) -> bool:
    """Whether stage 2 lets the guest write to a page that it maps."""
    return bool(STAGE2_PAGES[page] & _WRITE)


def may_fetch(page: int) -> bool:
    """Whether stage 2 lets the guest execute from a page that it maps."""
    return not STAGE2_PAGES[page] & _XN


def stage2_level(ipa: int) -> int:
    """The level at which a stage-2 walk for an address that is not mapped ends."""
    for level, shift in ((0, 39), (1, 30), (2, 21)):
        if ipa >> shift != at.GUEST >> shift:
            return level
    return 3


def stage2_tables() -> bytes:
    """Four pages for `layout.STAGE2`."""
    tables = [[0] * d.TABLE_ENTRIES for _ in range(4)]
    for level in range(3):
        tables[level][d.index(at.GUEST, level)] = d.table(at.STAGE2 + (level + 1) * at.PAGE)
    for page, flags in STAGE2_PAGES.items():
        target = at.NOTHING_THERE if page == at.BROKEN else page
        tables[3][d.index(page, 3)] = target | d.ACCESS_FLAG | d.INNER_SHAREABLE | _STAGE2_NORMAL | 3 | flags
    return b"".join(struct.pack(f"<{d.TABLE_ENTRIES}Q", *table) for table in tables)
