# SPDX-License-Identifier: GPL-2.0-only
"""The granules of stage 1 as the cases use them, and where the tables of each lie (Arm ARM, D8.2.8 to D8.2.10)."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.oracle import layout as at

LAST_LEVEL: Final = 3
_TABLES_OF_ONE: Final = 7
"""One for each of four levels, and one more for each level at which a walk can begin: `Granule.root`."""


class Granule(NamedTuple):
    """The size of pages and tables."""

    page_shift: int
    level_bits: int
    """How many bits of the address a table resolves."""
    tg0: tuple[int, ...]
    """Values of TCR_EL1.TG0: the one for this granule, and one that is reserved and stands for it."""
    tg1: tuple[int, ...]
    largest_block: int
    """The first level at which a descriptor may be a block."""
    contiguous: tuple[int, ...]
    """By level, from the last to the largest blocks: how many entries with the contiguous bit make one."""
    sizes: tuple[int, ...]
    """Values of T0SZ and T1SZ: 36 to 48 bits, and 31, the smallest that reach `layout.GUEST`."""
    base: int
    """Where its tables are."""

    @property
    def size(self) -> int:
        """Bytes of a page, and of a table."""
        return 1 << self.page_shift

    def shift(self, level: int) -> int:
        """The lowest bit of the address that a table of this level resolves."""
        return self.page_shift + self.level_bits * (LAST_LEVEL - level)

    def entry(self, va: int, level: int) -> int:
        """The entry of a table of this level."""
        return va >> self.shift(level) & (1 << self.level_bits) - 1

    def first_level(self, size: int) -> int:
        """The level at which a walk begins with this T0SZ."""
        return 4 - -(-(64 - size - self.page_shift) // self.level_bits)

    def table(self, level: int) -> int:
        """The address of the table of this level."""
        return self.base + level * self.size

    def root(self, level: int, *, read_only: bool = False) -> int:
        """The table with which a walk that starts at this level begins, or the one that forbids all writes."""
        return self.table(4 + level) if read_only else self.table(level)

    def contiguous_size(self) -> int:
        """Bytes of as many pages as can be one entry of a TLB."""
        return self.contiguous[0] * self.size

    def end(self) -> int:
        """The address behind its tables."""
        return self.base + _TABLES_OF_ONE * self.size

    def page(self, number: int) -> int:
        """The virtual address of a page, counted from the one of `layout.GUEST`."""
        return at.GUEST + (number << self.page_shift)


GRANULE_4K: Final = Granule(12, 9, (0, 3), (2, 0), 1, (16, 16, 16), (16, 16, 22, 25, 28, 33), at.STAGE1)
GRANULE_16K: Final = Granule(14, 11, (2,), (1,), 2, (128, 32), (16, 17, 20, 25, 28, 33), at.STAGE1 + 0x1_0000)
GRANULE_64K: Final = Granule(16, 13, (1,), (3,), 2, (32, 32), (16, 21, 22, 25, 28, 33), at.STAGE1 + 0x4_0000)
GRANULES: Final = (GRANULE_4K, GRANULE_16K, GRANULE_64K)

_ENDS: Final = (GRANULE_16K.base, GRANULE_64K.base, at.STAGE1_END)
assert all(each.end() <= end for each, end in zip(GRANULES, _ENDS, strict=True))
assert all(each.base % each.size == 0 for each in GRANULES)


def of(tcr: int, half: int) -> Granule:
    """The granule of a half of the address space, by TCR_EL1."""
    if half:
        return next(each for each in GRANULES if tcr >> 30 & 3 in each.tg1)
    return next(each for each in GRANULES if tcr >> 14 & 3 in each.tg0)
