# SPDX-License-Identifier: GPL-2.0-only
"""Page frames: which physical memory is behind which byte of a mapping, in constant space.

A region hands out units (2 MiB blocks of ordinary memory, or the huge pages of a hugetlb pool). The order of blocks
and of the pages within a block is an affine permutation, so that neighbours in a mapping are no neighbours in memory,
as on a host that has been up for a while, and both directions are a multiplication away.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from itertools import accumulate

BLOCK = 2 << 20
"""Unit of ordinary memory: what a transparent huge page needs in one piece."""


@dataclass(frozen=True, slots=True)
class Permutation:
    """i -> (factor * i + shift) mod count, and back."""

    count: int
    factor: int = 1
    shift: int = 0
    inverse: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inverse", pow(self.factor, -1, self.count) if self.count > 1 else 1)

    @classmethod
    @functools.cache
    def scattering(cls, count: int) -> Permutation:
        """One that puts neighbours far apart: its factor is the number next to the golden section that is coprime."""
        factor = max(1, round(count * 0.6180339887))
        while math.gcd(factor, count) != 1:
            factor += 1
        return cls(count, factor, count // 3)

    def forward(self, index: int) -> int:
        return (self.factor * index + self.shift) % self.count

    def backward(self, index: int) -> int:
        return self.inverse * (index - self.shift) % self.count


class Region:
    """Physical memory in units of one size. Units are named by index; ``permutation`` says which index lies where."""

    def __init__(self, unit: int, spans: tuple[range, ...], *, scatter: bool = False) -> None:
        """``spans`` are address ranges, ascending, aligned to ``unit``."""
        self.unit = unit
        self.spans = spans
        counts = [len(span) // unit for span in spans]
        self.count = sum(counts)
        self._firsts = [0, *accumulate(counts)][:-1]
        self._starts = [span.start for span in spans]
        self.permutation = Permutation.scattering(self.count) if scatter and self.count else Permutation(self.count)
        self._free: list[tuple[int, int]] = [(0, self.count)] if self.count else []
        self._live: list[tuple[int, int, Frames, int]] = []

    def address(self, index: int) -> int:
        ordinal = self.permutation.forward(index)
        span = bisect_right(self._firsts, ordinal) - 1
        return self._starts[span] + (ordinal - self._firsts[span]) * self.unit

    def index(self, address: int) -> int | None:
        """The unit that holds an address; None if the address is not of this region."""
        span = bisect_right(self._starts, address) - 1
        if span < 0 or address >= self.spans[span].stop:
            return None
        ordinal = self._firsts[span] + (address - self._starts[span]) // self.unit
        return self.permutation.backward(ordinal)

    @property
    def free(self) -> int:
        """Units that are not in use and not withheld."""
        return sum(count for _, count in self._free)

    def take(self, count: int) -> list[tuple[int, int]] | None:
        """The first ``count`` free units as (index, count) extents; None, and nothing taken, if there are too few."""
        taken: list[tuple[int, int]] = []
        wanted = count
        for start, available in self._free:
            taken.append((start, min(available, wanted)))
            wanted -= taken[-1][1]
            if not wanted:
                break
        if wanted:
            return None
        rest_of_last = (taken[-1][0] + taken[-1][1], self._free[len(taken) - 1][1] - taken[-1][1])
        self._free[: len(taken)] = [rest_of_last] if rest_of_last[1] else []
        return taken

    def give_back(self, extents: list[tuple[int, int]], withheld: set[int]) -> None:
        """Return units; those in ``withheld`` are never handed out again."""
        for start, count in extents:
            end = start + count
            for stop in [*sorted(index for index in withheld if start <= index < end), end]:
                if stop > start:
                    insort(self._free, (start, stop - start))
                start = stop + 1  # noqa: PLW2901  the extent is cut at every unit withheld
        self._merge()

    def withhold(self, index: int) -> None:
        """Never hand this unit out, if it is free now."""
        for position, (start, count) in enumerate(self._free):
            if start <= index < start + count:
                parts = [(start, index - start), (index + 1, start + count - index - 1)]
                self._free[position : position + 1] = [part for part in parts if part[1]]
                return

    def _merge(self) -> None:
        merged: list[tuple[int, int]] = []
        for start, count in self._free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + count)
            else:
                merged.append((start, count))
        self._free = merged

    def enter(self, frames: Frames) -> None:
        offset = 0
        for start, count in frames.extents:
            insort(self._live, (start, count, frames, offset), key=lambda entry: entry[0])
            offset += count * self.unit

    def leave(self, frames: Frames) -> None:
        self._live = [entry for entry in self._live if entry[2] is not frames]

    def owner(self, index: int) -> tuple[Frames, int] | None:
        """The frames that unit ``index`` belongs to, and the offset of the unit in them."""
        position = bisect_right(self._live, index, key=lambda entry: entry[0]) - 1
        if position < 0:
            return None
        start, count, frames, offset = self._live[position]
        return (frames, offset + (index - start) * self.unit) if index < start + count else None


@dataclass(eq=False, slots=True)
class Frames:
    """The physical memory of one mapping, as its page tables have it."""

    region: Region
    extents: list[tuple[int, int]]
    """Units (first index, count), in the order of the mapping."""
    size: int
    page_size: int
    pages: Permutation
    """Order of the pages within one unit: the identity where the unit is one huge page."""
    entry: int
    """Bytes that one entry of the page tables maps: a huge page of hugetlb, else a page of the host."""
    changed: dict[int, Frames | int] = field(default_factory=dict)
    """Entries, by number, that are not as they were at first: the page that took the place, or, of a hwpoison entry,
    the physical address that it remembers."""
    parent: tuple[Frames, int] | None = None
    """Of a page that took another one's place: the mapping, and where in it."""

    def hpa(self, offset: int) -> int:
        """The physical address of the byte at ``offset`` of the mapping; of a hwpoison entry, what it was."""
        if self.changed:
            index, within = divmod(offset, self.entry)
            other = self.changed.get(index)
            if other is not None:
                return other + within if isinstance(other, int) else other.hpa(within)
        number, within = divmod(offset, self.region.unit)
        for start, count in self.extents:
            if number < count:
                page, byte = divmod(within, self.page_size)
                return self.region.address(start + number) + self.pages.forward(page) * self.page_size + byte
            number -= count
        raise IndexError(f"offset {offset:#x} lies outside a mapping of {self.size:#x} bytes")

    def lost(self, offset: int) -> bool:
        """Whether there is a hwpoison entry: whoever touches the page is killed."""
        other = self.changed.get(offset // self.entry) if self.changed else None
        return isinstance(other, int) or (other is not None and other.lost(offset % self.entry))

    def lose(self, offset: int) -> None:
        """Put a hwpoison entry where the page at ``offset`` is mapped."""
        start = offset // self.entry * self.entry
        self.changed[offset // self.entry] = self.hpa(start)

    def replace(self, offset: int, page: Frames) -> Frames | None:
        """Map another page at ``offset``; what it takes the place of, if that was not there from the beginning."""
        index = offset // self.entry
        before = self.changed.get(index)
        page.parent = (self, index * self.entry)
        self.changed[index] = page
        return before if isinstance(before, Frames) else None

    def offset_in_unit(self, within: int) -> int:
        """The inverse within one unit: from the place in physical memory to the place in the mapping."""
        page, byte = divmod(within, self.page_size)
        return self.pages.backward(page) * self.page_size + byte
