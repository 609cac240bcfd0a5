# SPDX-License-Identifier: GPL-2.0-only
"""Stage 2 around the guest, the same for all cases: which of its pages there are, and what may be done with them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import descriptors as d
from tests.oracle import layout as at
from tests.oracle.granules import GRANULES

_READ: Final = 1 << 6
_WRITE: Final = 1 << 7
_XN: Final = 1 << 54
_NORMAL: Final = 0xF << 2
_READABLE: Final = 2 * at.PAGE
"""What can be read of a table; the walk of one that is larger ends behind it with a fault of stage 2."""


class Page(NamedTuple):
    """What stage 2 makes of an intermediate physical address."""

    target: int
    """The physical address."""
    flags: int

    @property
    def writable(self) -> bool:
        return bool(self.flags & _WRITE)

    @property
    def executable(self) -> bool:
        return not self.flags & _XN


def _pages(start: int, end: int) -> range:
    return range(start, end, at.PAGE)


def _tables() -> Iterator[int]:
    for granule in GRANULES:
        for table in range(granule.base, granule.end(), granule.size):
            yield from _pages(table, table + min(granule.size, _READABLE))


def _map() -> dict[int, Page]:
    code_end = at.CODE + at.CODE_PAGES * at.PAGE
    pages = {page: Page(page, _READ) for page in _pages(at.VECTORS, code_end)}
    pages |= {page + at.CODE_AGAIN - at.CODE: Page(page, _READ | _WRITE | _XN) for page in _pages(at.CODE, code_end)}
    pages |= {page: Page(page, _READ | _WRITE | _XN) for page in (*_pages(at.DATA, at.DATA_END), *at.CHANGING.values())}
    for page in _pages(at.DATA_AGAIN, at.DATA_AGAIN_END):
        pages[page] = Page(at.DATA + page % (at.DATA_PAGES * at.PAGE), _READ | _WRITE | _XN)
    pages[at.READ_ONLY] = Page(at.READ_ONLY, _READ | _XN)
    pages |= dict.fromkeys((at.BROKEN, at.BROKEN_TABLE), Page(at.NOTHING_THERE, _READ | _WRITE))
    return pages | {page: Page(page, _READ | _XN) for page in _tables()}


PAGES: Final[Mapping[int, Page]] = _map()
"""By intermediate physical address. What is not here is a translation fault."""


def level(ipa: int) -> int:
    """The level at which a walk for an address that is not mapped ends."""
    for number, shift in ((0, 39), (1, 30), (2, 21)):
        if ipa >> shift != at.GUEST >> shift:
            return number
    return 3


def image() -> bytes:
    """Four tables for `layout.STAGE2`."""
    tables = [[0] * d.TABLE_ENTRIES for _ in range(4)]
    for number in range(3):
        tables[number][d.index(at.GUEST, number)] = d.table(at.STAGE2 + (number + 1) * at.PAGE)
    for ipa, page in PAGES.items():
        tables[3][d.index(ipa, 3)] = page.target | d.ACCESS_FLAG | d.INNER_SHAREABLE | _NORMAL | 3 | page.flags
    return b"".join(struct.pack(f"<{d.TABLE_ENTRIES}Q", *table) for table in tables)
