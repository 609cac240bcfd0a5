# SPDX-License-Identifier: GPL-2.0-only
"""The memory that a case finds: code and data pages, and stage 1 with every kind of page, block and table.

Each granule has its own tables, which are alike: the entries after the one for `layout.GUEST` in the table of each
level are what a walk can end with otherwise. Both halves of the address space use the same tables.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

from pytest_kvm_sea.arm64 import descriptors as d
from pytest_kvm_sea.arm64.encodings import encode
from tests.oracle import layout as at
from tests.oracle.granules import GRANULE_4K, GRANULE_16K, GRANULES, LAST_LEVEL, Granule

TABLE_PXN, TABLE_UXN, TABLE_NO_USER, TABLE_READ_ONLY = (1 << bit for bit in (59, 60, 61, 62))
TOO_HIGH: Final = 1 << 45
"""An output address that fits only into the 48 bits of the largest TCR_EL1.IPS."""
CONTIGUOUS: Final = 1 << 52
NOT_GLOBAL: Final = 1 << 11

DATA_VIEW: Final = 0x10
"""The first page of the level-3 table with data; each has another neighbour and other permissions."""
DATA_VIEWS: Final = 20
GOOD_VIEWS: Final = (1, 2, 2, 2, 3, 6, 12)
"""Those where most accesses succeed."""
CODE_VIEWS: Final = (3, 4, 5, 6)
"""Pages with the first code page, and other permissions."""
TABLE_VIEW: Final = {3: 0x68, 2: 0x6A}
"""Pages with the table of `layout.CHANGING`, for EL1; the next one is for EL0 also."""
CODE_WRITABLE: Final = 0x6C
"""The pages with `layout.CODE_AGAIN`, for EL1; after those come as many that are for EL0 also."""
LEVEL_ENTRIES: Final = {0: 4, 1: 14, 2: 14}
"""By level: how many entries are worth a visit."""
EXECUTABLE: Final = range(20, 24)
"""Entries of the table of pages that cases change which have `layout.VECTORS`."""
CHANGING_ENTRY: Final = {2: 14, 1: 7}
"""By level: which entry has the table of the next level that cases change."""

USER: Final = d.AP_EL0
READ_ONLY: Final = d.AP_READ_ONLY
NEVER: Final = d.PXN | d.UXN
_DATA = tuple(at.DATA + number * at.PAGE for number in range(at.DATA_PAGES))


def leaf(granule: Granule, address: int, flags: int = 0, *, level: int = LAST_LEVEL) -> int:
    """The descriptor of the page or block with this address."""
    kind = 3 if level == LAST_LEVEL else 1
    base = address & -(1 << granule.shift(level))
    return base | d.ACCESS_FLAG | d.INNER_SHAREABLE | d.NORMAL_WRITE_BACK << d.ATTRIBUTE_INDEX_SHIFT | kind | flags


def contiguous_page(granule: Granule) -> int:
    """The first page, aligned, with the contiguous bit; behind it is that of `layout.DATA` or of `layout.GUEST`."""
    return max(granule.contiguous[0], 0x40)


def _contiguous(granule: Granule, level: int, first: int, output: int) -> dict[int, int]:
    """As many entries as make one that is larger."""
    size = 1 << granule.shift(level)
    flags = USER | NEVER | CONTIGUOUS
    count = granule.contiguous[LAST_LEVEL - level]
    assert first % count == output // size % count == 0
    return {first + number: leaf(granule, output + number * size, flags, level=level) for number in range(count)}


def _level3(granule: Granule) -> dict[int, int]:
    def page(address: int, flags: int = 0) -> int:
        return leaf(granule, address, flags)

    small = granule.page_shift == d.PAGE_SHIFT
    pages = {
        # The vectors; in a larger page there is code as well
        0: page(at.VECTORS, READ_ONLY | (d.UXN if small else USER)),
        1: page(at.CODE, USER | READ_ONLY),
        2: page(at.CODE + at.PAGE, USER | READ_ONLY),
        3: page(at.CODE, USER | READ_ONLY | d.UXN),
        4: page(at.CODE, USER | READ_ONLY | d.PXN),
        5: page(at.CODE, USER),  # writable by EL0: not executable at EL1
        6: page(at.CODE),
        # 7 is not mapped, nor is any other page that is not here
        DATA_VIEW + 1: page(_DATA[0], USER | NEVER),
        DATA_VIEW + 2: page(_DATA[1], USER | NEVER),
        DATA_VIEW + 3: page(_DATA[2], NEVER),
        DATA_VIEW + 4: page(_DATA[0], USER | NEVER),
        DATA_VIEW + 5: page(_DATA[3], USER | READ_ONLY | NEVER),
        DATA_VIEW + 6: page(_DATA[1], USER | NEVER),
        DATA_VIEW + 7: page(_DATA[2], READ_ONLY | NEVER),
        DATA_VIEW + 8: page(_DATA[3], USER | NEVER) & ~d.ACCESS_FLAG,
        DATA_VIEW + 9: page(_DATA[0], USER | NEVER),
        DATA_VIEW + 10: page(_DATA[1], USER | NEVER) & ~d.TABLE_OR_PAGE,  # reserved at level 3
        DATA_VIEW + 11: page(at.HOLE, USER | NEVER),
        DATA_VIEW + 12: page(_DATA[2], USER | NEVER),
        DATA_VIEW + 13: page(at.READ_ONLY, USER | NEVER),
        DATA_VIEW + 14: page(at.BROKEN, USER | NEVER),
        DATA_VIEW + 15: page(_DATA[3], USER | NEVER),
        DATA_VIEW + 16: page(TOO_HIGH | _DATA[0], USER | NEVER),
        DATA_VIEW + 17: page(_DATA[0], USER),
        DATA_VIEW + 18: page(at.BROKEN, USER),
        DATA_VIEW + 19: page(at.HOLE, USER | READ_ONLY),
    }
    for level, number in TABLE_VIEW.items():
        pages |= {number + user: page(at.CHANGING[level], NEVER | USER * user) for user in (0, 1)}
    for number in range(at.CODE_PAGES):
        code = at.CODE_AGAIN + number * at.PAGE
        pages |= {CODE_WRITABLE + number + at.CODE_PAGES * user: page(code, NEVER | USER * user) for user in (0, 1)}
    first = granule.entry(at.GUEST, 3)
    output = at.DATA & -granule.contiguous_size()
    contiguous = _contiguous(granule, 3, first + contiguous_page(granule), output)
    return {first + number: entry for number, entry in pages.items()} | contiguous


def _level2(granule: Granule) -> list[int]:
    def block(address: int, flags: int = 0) -> int:
        return leaf(granule, address, flags, level=2)

    pages = granule.table(3)
    return [
        d.table(pages),
        block(at.GUEST, USER | NEVER),
        block(at.GUEST, USER | NEVER) & ~d.ACCESS_FLAG,
        d.table(pages) | TABLE_PXN,
        d.table(pages) | TABLE_UXN,
        d.table(pages) | TABLE_NO_USER,
        d.table(pages) | TABLE_READ_ONLY,
        d.table(at.NO_TABLE),
        d.table(at.BROKEN_TABLE),
        d.table(TOO_HIGH | pages),
        block(TOO_HIGH, USER),
        block(at.GUEST, USER | READ_ONLY),
        0,
        block(at.GUEST, NEVER),
        d.table(at.CHANGING[3]),
    ]


def _level1(granule: Granule) -> list[int]:
    def block(flags: int) -> int:
        return leaf(granule, at.GUEST, flags, level=1)

    below = granule.table(2)
    return [
        d.table(below),
        block(NEVER),  # which is reserved but for 4 KiB
        block(USER | NEVER),
        d.table(below) | TABLE_NO_USER,
        d.table(below) | TABLE_READ_ONLY,
        d.table(below) | TABLE_PXN,
        d.table(below) | TABLE_UXN,
        d.table(at.CHANGING[2]),
        d.table(at.BROKEN_TABLE),
        d.table(at.NO_TABLE),
        d.table(TOO_HIGH | below),
        block(TOO_HIGH | USER),
        block(USER | NEVER) & ~d.ACCESS_FLAG,
        0,
    ]


def _level0(granule: Granule) -> list[int]:
    below = granule.table(1)
    # A block at level 0 is reserved. 16 KiB have no more than two entries
    return [d.table(below), leaf(granule, 0, level=0), d.table(below) | TABLE_NO_USER, d.table(at.BROKEN_TABLE)]


def reserved_block_level(granule: Granule, size: int, va: int) -> int | None:
    """The level at which a walk with this T0SZ would find a block although the granule has none there."""
    va &= (1 << 64 - size) - 1
    for level, entries in ((0, _level0(granule)), (1, _level1(granule))):
        number = granule.entry(va, level) - granule.entry(at.GUEST, level)
        reserved = granule.first_level(size) <= level < granule.largest_block
        if reserved and 0 <= number < len(entries) and entries[number] & 3 == 1:
            return level
    return None


def _following(granule: Granule, level: int, entries: Sequence[int]) -> dict[int, int]:
    first = granule.entry(at.GUEST, level)
    table = {first + number: entry for number, entry in enumerate(entries)}
    if level and level >= granule.largest_block:
        count = granule.contiguous[LAST_LEVEL - level]
        output = at.GUEST & -(count << granule.shift(level))
        # That the tables of blocks are alike, too: as many entries behind the one of GUEST
        start = granule.entry(output, level) + count
        assert start >= first + len(entries)
        table |= _contiguous(granule, level, start, output)
    return table


def _stage1(granule: Granule) -> dict[int, dict[int, int]]:
    """All tables of a granule: address -> entries."""
    levels = {0: _level0(granule), 1: _level1(granule), 2: _level2(granule)}
    if granule.first_level(min(granule.sizes)):
        del levels[0]
    tables = {granule.table(level): _following(granule, level, entries) for level, entries in levels.items()}
    tables[granule.table(3)] = _level3(granule)
    for level, entries in levels.items():
        tables[granule.root(level, read_only=True)] = {granule.entry(at.GUEST, level): entries[0] | TABLE_READ_ONLY}
    return tables


def _changing_pages() -> list[int]:
    """Their output address is aligned for all granules."""
    page = leaf(GRANULE_4K, at.DATA, USER | NEVER)
    return [
        *[page] * 10,
        *[leaf(GRANULE_4K, at.DATA, NEVER)] * 2,
        *[page | READ_ONLY] * 4,
        *[page & ~d.ACCESS_FLAG] * 4,
        *[leaf(GRANULE_4K, at.GUEST, USER | READ_ONLY)] * len(EXECUTABLE),
        *[0] * 8,
    ]


def _changing_blocks() -> list[int]:
    """Those of 4 KiB, tables for each granule, and blocks of the other granules, whose output address is the same."""
    small, large = (leaf(granule, at.GUEST, USER | NEVER, level=2) for granule in (GRANULE_4K, GRANULE_16K))
    blocks = [[block, block, block | READ_ONLY, block | READ_ONLY, block & ~d.ACCESS_FLAG] for block in (small, large)]
    return [*blocks[0], *(d.table(granule.table(LAST_LEVEL)) for granule in GRANULES), *blocks[1], 0, 0, 0]


@cache
def changing(level: int) -> tuple[int, ...]:
    """The entries that a table of `layout.CHANGING` begins with; pages and blocks with odd numbers are not global."""
    entries = _changing_pages() if level == LAST_LEVEL else _changing_blocks()
    assert len(entries) == at.CHANGING_ENTRIES[level]
    return tuple(
        entry | NOT_GLOBAL if number & 1 and d.is_leaf(entry, level) else entry for number, entry in enumerate(entries)
    )


def guest_memory() -> bytes:
    """The 2 MiB at `layout.GUEST`."""
    memory = bytearray(at.GUEST_SIZE)

    def put(address: int, data: bytes) -> None:
        memory[address - at.GUEST : address - at.GUEST + len(data)] = data

    for vector in range(16):
        put(at.VECTORS + vector * 0x80, struct.pack("<I", 0xD4000002 | vector << 5))
    put(at.RETURN, struct.pack("<I", encode("BR", opc=2, Rn=30)))
    put(at.CODE, struct.pack("<I", at.STOP) * (at.CODE_PAGES * at.PAGE // 4))
    contents = random.Random("data")
    put(at.DATA, contents.randbytes((at.DATA_PAGES + 1) * at.PAGE))
    for granule in GRANULES:
        for table, entries in _stage1(granule).items():
            for index, entry in entries.items():
                put(table + index * 8, struct.pack("<Q", entry))
    for level, table in at.CHANGING.items():
        entries_of_level = changing(level)
        put(table, struct.pack(f"<{len(entries_of_level)}Q", *entries_of_level))
    return bytes(memory)


def pristine(memory: bytes | bytearray) -> bytes:
    """`layout.SCANNED` of the guest's memory."""
    return b"".join(memory[start - at.GUEST : start - at.GUEST + size] for start, size in at.SCANNED)
