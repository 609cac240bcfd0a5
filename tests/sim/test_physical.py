# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory: frames, poison by granule, pages out of service."""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.sim.frames import BLOCK, Permutation, Region
from pytest_kvm_sea.sim.memory_map import GIB, MIB, Kind, memory_map
from pytest_kvm_sea.sim.physical import GRANULE, Offline, PhysicalMemory

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10)
RAM = 0x8000_0000


@given(st.integers(1, 5000))
def test_the_permutation_is_a_bijection_and_inverts(count: int) -> None:
    permutation = Permutation.scattering(count)
    images = [permutation.forward(index) for index in range(count)]
    assert sorted(images) == list(range(count))
    assert [permutation.backward(image) for image in images] == list(range(count))


@given(st.integers(2, 1 << 40), st.data())
def test_the_permutation_inverts_where_it_cannot_be_listed(count: int, data: st.DataObject) -> None:
    permutation = Permutation.scattering(count)
    index = data.draw(st.integers(0, count - 1))
    assert math.gcd(permutation.factor, count) == 1
    assert permutation.backward(permutation.forward(index)) == index


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_neighbours_in_a_mapping_are_no_neighbours_in_memory(page_size: int) -> None:
    frames = PhysicalMemory(page_size, 4 * GIB).allocate(8 * MIB)
    pages = [frames.hpa(offset) for offset in range(0, 8 * MIB, page_size)]
    assert len(set(pages)) == len(pages)
    assert all(abs(after - before) != page_size for before, after in itertools.pairwise(pages))


@given(st.lists(st.integers(1, 40), max_size=12), st.data())
def test_units_are_never_handed_out_twice(sizes: list[int], data: st.DataObject) -> None:
    """Whatever is taken, given back and withheld: what is live is disjoint, and what is free is the rest."""
    region = Region(BLOCK, (range(60 * BLOCK), range(100 * BLOCK, 140 * BLOCK)))
    live: list[list[tuple[int, int]]] = []
    withheld: set[int] = set()
    for size in sizes:
        taken = region.take(size)
        if taken is not None:
            assert sum(count for _, count in taken) == size
            live.append(taken)
        give_back = data.draw(st.booleans())
        if live and give_back:
            extents = live.pop(data.draw(st.integers(0, len(live) - 1)))
            if data.draw(st.booleans()):
                withheld.add(extents[0][0])
            region.give_back(extents, withheld)
        units = [unit for extents in live for start, count in extents for unit in range(start, start + count)]
        assert len(units) == len(set(units))
        assert not withheld & set(units)
        assert region.free + len(units) + len(withheld) == region.count


def test_a_refused_request_takes_nothing() -> None:
    region = Region(BLOCK, (range(8 * BLOCK),))
    assert region.take(9) is None
    assert region.free == 8


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("ram", [256 * MIB, 2 * GIB, 3 * GIB, 64 * GIB, 600 * GIB])
def test_frames_are_ram_that_is_not_the_kernels(page_size: int, ram: int) -> None:
    physical = PhysicalMemory(page_size, ram)
    size = 128 * MIB
    frames = physical.allocate(size)
    for offset in (0, 1, page_size, 2 * MIB - 1, size // 2, size - 1):
        hpa = frames.hpa(offset)
        assert physical.is_ram(hpa)
        assert hpa not in physical.map.kernel
        assert hpa // page_size != 0
        assert hpa % page_size == offset % page_size
        assert physical.owner(hpa) == (frames, offset)
    with pytest.raises(IndexError, match="outside a mapping"):
        frames.hpa(size + 2 * MIB)


@pytest.mark.parametrize(("page", "pages"), [(2 * MIB, 5), (GIB, 2)])
def test_huge_pages_are_contiguous_and_aligned(page: int, pages: int) -> None:
    physical = PhysicalMemory(4096, 64 * GIB)
    physical.reserve_pool(GIB, 2)
    physical.reserve_pool(2 * MIB, 8)
    frames = physical.allocate(pages * page, huge_page=page)
    for start in range(0, pages * page, page):
        assert frames.hpa(start) % page == 0
        assert frames.hpa(start + page - 1) == frames.hpa(start) + page - 1
    assert physical.pool_free(page) == {2 * MIB: 8, GIB: 2}[page] - pages
    physical.free(frames)
    assert physical.pool_free(page) == {2 * MIB: 8, GIB: 2}[page]


def test_ordinary_memory_and_pools_do_not_overlap() -> None:
    physical = PhysicalMemory(4096, GIB)
    physical.reserve_pool(2 * MIB, 100)
    pool = physical.allocate(200 * MIB, huge_page=2 * MIB)
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is what matters
        physical.allocate(2 * MIB, huge_page=2 * MIB)
    assert refused.value.errno == errno.ENOMEM
    rest = physical.allocate(700 * MIB, contiguous=True)
    blocks = [frames.hpa(offset) for frames in (pool, rest) for offset in range(0, frames.size, 2 * MIB)]
    assert len(set(blocks)) == len(blocks)


def test_memory_ends() -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    kept = physical.allocate(100 * MIB)
    for _ in range(3):
        with pytest.raises(OSError) as refused:  # noqa: PT011
            physical.allocate(100 * MIB)
        assert refused.value.errno == errno.ENOMEM
    physical.free(kept)
    physical.allocate(100 * MIB)


def test_pools_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="3 huge pages of 1073741824 bytes do not fit"):
        PhysicalMemory(4096, 2 * GIB).reserve_pool(GIB, 3)


@pytest.mark.parametrize(("page_size", "ram"), [(8192, GIB), (4096, 100 * MIB), (4096, GIB + 4096)])
def test_impossible_machines_are_refused(page_size: int, ram: int) -> None:
    with pytest.raises(ValueError, match=r"page size|memory of"):
        PhysicalMemory(page_size, ram)


@pytest.mark.parametrize("ram", [256 * MIB, 2 * GIB, 64 * GIB, 1000 * GIB])
def test_the_memory_map_adds_up(ram: int) -> None:
    layout = memory_map(ram)
    total = sum(each.end - each.start for each in layout.resources if each.kind is Kind.SYSTEM_RAM)
    assert total + len(layout.firmware) == ram
    assert layout.resources == tuple(sorted(layout.resources, key=lambda each: each.start))
    assert all(before.end <= after.start for before, after in itertools.pairwise(layout.resources))
    assert min(each.start for each in layout.resources if each.kind is Kind.SYSTEM_RAM) == RAM
    assert layout.zero_page in layout.kernel
    assert not layout.is_ram(layout.firmware.start)


# Poison

addresses = st.integers(RAM, RAM + 2 * MIB)
lengths = st.integers(1, 300)


@given(st.lists(st.tuples(st.booleans(), addresses, lengths), max_size=8), addresses, st.integers(1, 9000))
def test_poison_is_a_set_of_granules(changes: list[tuple[bool, int, int]], hpa: int, size: int) -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    model: set[int] = set()
    for poison, address, length in changes:
        granules = {byte // GRANULE for byte in (*range(address, address + length, GRANULE), address + length - 1)}
        if poison:
            physical.poison(address, length)
            model |= granules
        else:
            physical.unpoison(address, length)
            model -= granules
    assert physical.poison_granules == tuple(granule * GRANULE for granule in sorted(model))
    touched = range(hpa // GRANULE, (hpa + size - 1) // GRANULE + 1)
    assert physical.poisoned(hpa, size) == bool(model & set(touched))
    assert physical.page_poisoned(hpa) == any(granule * GRANULE // 4096 == hpa // 4096 for granule in model)


def test_every_change_is_a_new_generation() -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    seen = {physical.generation}
    changes: tuple[Callable[[], None], ...] = (
        lambda: physical.poison(RAM + 64 * MIB),
        lambda: physical.unpoison(RAM + 64 * MIB),
        lambda: physical.take_offline(RAM + 64 * MIB, Offline.FREE),
    )
    for change in changes:
        change()
        assert physical.generation not in seen
        seen.add(physical.generation)


def test_poison_of_one_byte_is_poison_of_its_granule() -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    physical.poison(RAM + 0x1_0000_77, 1)
    start = RAM + 0x1_0000_40
    assert physical.poison_granules == (start,)
    assert physical.poisoned(start, 1)
    assert physical.poisoned(start + 63, 1)
    assert physical.poisoned(start - 8, 9)
    assert not physical.poisoned(start - 8, 8)
    assert not physical.poisoned(start + 64, 64)


# Offline


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_page_goes_offline_as_a_whole(page_size: int) -> None:
    physical = PhysicalMemory(page_size, 256 * MIB)
    hpa = physical.allocate(2 * MIB).hpa(page_size + 5)
    base = hpa // page_size * page_size
    physical.take_offline(hpa, Offline.ANONYMOUS)
    assert physical.offline_was(base) is physical.offline_was(base + page_size - 1) is Offline.ANONYMOUS
    assert physical.is_offline(base + page_size - 1)
    assert not physical.is_offline(base - 1)
    assert not physical.is_offline(base + page_size)
    assert physical.offline_pages == 1


def test_a_huge_page_with_an_error_never_returns_to_its_pool() -> None:
    physical = PhysicalMemory(4096, 64 * GIB)
    physical.reserve_pool(GIB, 2)
    frames = physical.allocate(GIB, huge_page=GIB)
    base = frames.hpa(0)
    assert physical.huge_page(base + 5) == (base, GIB)
    physical.take_offline(frames.hpa(123_456_789), Offline.FREE)
    assert physical.huge_page(base + 5) is None
    assert not physical.is_offline(base)
    physical.free(frames)
    assert (physical.pool_free(GIB), physical.pool_size(GIB)) == (1, 1)
    assert physical.allocate(GIB, huge_page=GIB).hpa(0) != base


@pytest.mark.parametrize("when", ["in use", "free", "before the first allocation"])
def test_offline_frames_are_not_handed_out_again(when: str) -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    if when == "before the first allocation":
        hpa = PhysicalMemory(4096, 256 * MIB).allocate(4096).hpa(0)
    else:
        frames = physical.allocate(4096)
        hpa = frames.hpa(0)
        if when == "free":
            physical.free(frames)
    physical.take_offline(hpa, Offline.FREE)
    if when == "in use":
        physical.free(frames)
    everything = physical.allocate(174 * MIB)  # 256 less the kernel's 64, the firmware's 16 and the block withheld
    assert hpa // BLOCK not in {everything.hpa(offset) // BLOCK for offset in range(0, everything.size, BLOCK)}
    with pytest.raises(OSError, match="memory"):
        physical.allocate(4096)


def test_poison_that_the_kernel_does_not_know_of_hits_the_next_owner() -> None:
    physical = PhysicalMemory(4096, 256 * MIB)
    frames = physical.allocate(2 * MIB)
    physical.poison(frames.hpa(8192))
    physical.free(frames)
    assert physical.poisoned(physical.allocate(2 * MIB).hpa(8192), 8)


@settings(max_examples=30)
@given(st.sampled_from(PAGE_SIZES), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_owner_inverts_hpa(page_size: int, sizes: list[int], data: st.DataObject) -> None:
    physical = PhysicalMemory(page_size, 512 * MIB)
    physical.reserve_pool(2 * MIB, 40)
    for number, size in enumerate(sizes):
        kind = data.draw(st.integers(0, 2))
        if kind == 2 and physical.pool_free(2 * MIB) < size:
            kind = 0
        length = size * 2 * MIB if kind == 2 else size * page_size
        frames = physical.allocate(length, huge_page=2 * MIB if kind == 2 else 0, contiguous=kind == 1)
        offset = data.draw(st.integers(0, length - 1))
        assert physical.owner(frames.hpa(offset)) == (frames, offset)
        if number % 2:
            physical.free(frames)
            assert physical.owner(frames.hpa(offset)) is None
