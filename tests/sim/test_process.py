# SPDX-License-Identifier: GPL-2.0-only
"""The VMM's address space and its signals."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Backing, Sigbus
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.sim import copy_on_write
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.presence import Presence
from pytest_kvm_sea.sim.process import Process, SigbusNotCaptured

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10)


def process(page_size: int = 4096, pool: Hugepages | None = None, ram: int = 8 * GIB) -> Process:
    return Process(PhysicalMemory(page_size, ram), page_size, pool or Hugepages(free_2m=8, free_1g=1))


@dataclass(frozen=True)
class Bytes:
    """Contents of a memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def parts(self) -> Iterator[memoryview]:
        half = len(self.data) // 2
        yield memoryview(self.data)[:half]
        yield memoryview(self.data)[half:]


def refusal(action: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is what matters
        action()
    return refused.value.errno


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP, Backing.HUGETLB_2M])
def test_addresses_translate_both_ways(page_size: int, backing: Backing) -> None:
    vmm = process(page_size)
    first, second = vmm.map_memory(4 * MIB, backing), vmm.map_memory(4 * MIB, backing)
    for memory in (first, second):
        assert memory.address % page_size == 0
        for offset in (0, 1, page_size - 1, page_size, 2 * MIB, 4 * MIB - 1):
            hva = memory.address + offset
            hpa = vmm.hpa_of(hva)
            assert hpa is not None
            assert hpa % page_size == hva % page_size
            assert vmm.hva_of(hpa) == hva
            assert vmm.resolve(hva) == (memory, offset)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=20))
def test_the_address_space_is_what_was_mapped_and_not_closed(steps: list[tuple[bool, int]]) -> None:
    vmm = process()
    alive = []
    closed = []
    for keep, pages in steps:
        memory = vmm.map_memory(pages * 4096)
        alive.append(memory)
        if not keep:
            gone = alive.pop(0)
            # The view keeps the address taken, so that no later mapping can be confused with this one.
            closed.append((gone.address, gone.size, gone.view))
            gone.close()
    for memory in alive:
        assert vmm.resolve(memory.address, memory.size) == (memory, 0)
        assert vmm.resolve(memory.address + memory.size - 1, 1) == (memory, memory.size - 1)
        assert vmm.resolve(memory.address + 1, memory.size) is None
    for address, size, _view in closed:
        assert vmm.resolve(address) is None
        assert vmm.resolve(address + size - 1) is None
        assert vmm.hpa_of(address) is None
    vmm.close()
    assert all(vmm.resolve(memory.address) is None for memory in alive)


def test_a_range_must_lie_in_one_mapping() -> None:
    vmm = process()
    memory = vmm.map_memory(8192)
    assert vmm.resolve(memory.address + 4096, 4096) is not None
    assert vmm.resolve(memory.address + 4096, 4097) is None
    assert vmm.resolve(memory.address - 1, 2) is None
    assert vmm.resolve(0) is None


def test_closing_leaves_views_alone_and_is_allowed_twice() -> None:
    vmm = process()
    memory = vmm.map_memory(1 << 16)
    view = memory.view
    part = view[100:200]
    generation = vmm.generation
    memory.close()
    memory.close()
    assert vmm.generation == generation + 1
    assert memory.closed
    assert len(view) == 1 << 16
    part[0] = 7
    assert part[0] == 7


@pytest.mark.parametrize("offset", [0, MIB, MIB + 8])
@pytest.mark.parametrize("size", [100, 256 << 10])
def test_two_mappings_are_filled_and_each_is_its_own(offset: int, size: int) -> None:
    vmm = process()
    contents = bytes(range(251)) * (size // 251 + 1)
    one, other = vmm.map_memory(2 * MIB), vmm.map_memory(2 * MIB)
    one.view[offset + size] = 9
    for memory in (one, other):
        memory.fill(offset, Bytes(contents[:size]))
    one.view[offset + 3] = 0xEE
    assert other.view[offset : offset + size] == contents[:size]
    assert one.view[offset : offset + size].tobytes().replace(b"\xee", b"\3", 1) == contents[:size]
    assert one.view[offset + size] == 9
    assert {memory.presence(offset) for memory in (one, other)} == {Presence.OWN}
    view = other.view
    other.close()
    assert not any(view[offset : offset + size])
    assert one.view[offset + 4] == 4


def test_contents_that_cannot_be_mapped_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, f"{name} {flags}")

    monkeypatch.setattr(os, "memfd_create", no_room)
    memory = process().map_memory(MIB)
    memory.fill(4096, Bytes(b"seldom" * 32768))
    assert memory.view[4096 : 4096 + 6 * 32768] == b"seldom" * 32768


def test_a_file_that_is_cut_short_is_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write

    def short(descriptor: int, data: memoryview) -> int:
        return whole(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", short)
    memory = process().map_memory(MIB)
    memory.fill(0, Bytes(b"cut off." * 16384))
    monkeypatch.undo()
    assert memory.view[: 8 * 16384] == b"cut off." * 16384


def test_a_file_that_nobody_keeps_stays_open_until_it_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_on_write, "_template", copy_on_write._Template)
    memory = process().map_memory(MIB)
    assert copy_on_write.overlay(memory.address, Bytes(b"keep it." * 16384))
    assert memory.view[: 8 * 16384] == b"keep it." * 16384


def test_a_page_that_was_filled_and_not_looked_at_can_be_poisoned() -> None:
    host = SimHost(load_platform("ampereone"))
    try:
        memory = host.map_memory(2 * MIB)
        memory.fill(0, Bytes(b"tables.." * (MIB // 8)))
        host.poison_page(HostVA(memory.address + 0x8_0000))
        assert Pagemap(host).entry(HostVA(memory.address + 0x8_0000)).swapped
        assert Pagemap(host).entry(HostVA(memory.address + 0x9_0000)).pfn
    finally:
        host.close()


def test_frames_return_when_a_mapping_closes() -> None:
    vmm = process()
    memory = vmm.map_memory(4 * GIB)
    assert refusal(lambda: vmm.map_memory(4 * GIB)) == errno.ENOMEM
    memory.close()
    vmm.map_memory(4 * GIB).close()


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP, Backing.HUGETLB_2M])
def test_migration_moves_the_frames_and_not_the_bytes(backing: Backing) -> None:
    vmm = process()
    memory = vmm.map_memory(2 * MIB, backing)
    memory.view[77] = 7
    before, generation = memory.hpa(77), vmm.generation
    vmm.migrate(memory)
    after = vmm.hpa_of(memory.address + 77)
    assert after is not None
    assert after != before
    assert vmm.generation == generation + 1
    assert vmm.hva_of(after) == memory.address + 77
    assert vmm.hva_of(before) is None
    assert memory.view[77] == 7
    memory.close()
    assert vmm.hva_of(after) is None


@pytest.mark.parametrize("alignment", [0, 4096, 1 << 16, 2 * MIB, 1 << 30])
def test_alignment_is_kept_and_the_memory_is_whole(alignment: int) -> None:
    memory = process().map_memory(1 << 20, alignment=alignment)
    if alignment:
        assert memory.address % alignment == 0
    assert len(memory.view) == memory.size == 1 << 20
    memory.view[0] = memory.view[-1] = 0xA5
    assert memory.view.tobytes().count(0xA5) == 2


@pytest.mark.parametrize("alignment", [3, 4097, -4096])
def test_alignment_is_a_power_of_two(alignment: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        process().map_memory(4096, alignment=alignment)


@pytest.mark.parametrize(
    ("page_size", "backing", "asked", "mapped"),
    [
        (4096, Backing.ANONYMOUS, 1, 4096),
        (65536, Backing.ANONYMOUS, 4096, 65536),
        (4096, Backing.HUGETLB_2M, 4096, 2 * MIB),
        (4096, Backing.HUGETLB_1G, 2 * MIB, GIB),
    ],
)
def test_whole_pages_are_mapped(page_size: int, backing: Backing, asked: int, mapped: int) -> None:
    memory = process(page_size).map_memory(asked, backing)
    assert memory.size == mapped
    assert memory.address % (mapped if backing is not Backing.ANONYMOUS else page_size) == 0


@pytest.mark.parametrize(
    ("page_size", "backing", "size", "code"),
    [
        (4096, Backing.ANONYMOUS, 0, errno.EINVAL),
        (4096, Backing.ANONYMOUS, -1, errno.EINVAL),
        (4096, Backing.ANONYMOUS, 1 << 40, errno.ENOMEM),
        (4096, Backing.HUGETLB_2M, 0, errno.EINVAL),
        (4096, Backing.HUGETLB_2M, 18 * MIB, errno.ENOMEM),
        (4096, Backing.HUGETLB_1G, 2 * GIB, errno.ENOMEM),
        (65536, Backing.HUGETLB_1G, GIB, errno.EINVAL),
    ],
)
def test_what_mmap_refuses(page_size: int, backing: Backing, size: int, code: int) -> None:
    vmm = process(page_size)
    assert refusal(lambda: vmm.map_memory(size, backing)) == code
    vmm.map_memory(2 * MIB, Backing.HUGETLB_2M)  # and nothing was lost by it


def test_the_pool_of_huge_pages_is_used_up_and_refilled() -> None:
    vmm = process(pool=Hugepages(free_2m=2, free_1g=0))
    first = vmm.map_memory(2 * MIB, Backing.HUGETLB_2M)
    vmm.map_memory(2 * MIB, Backing.HUGETLB_2M)
    assert refusal(lambda: vmm.map_memory(2 * MIB, Backing.HUGETLB_2M)) == errno.ENOMEM
    assert refusal(lambda: vmm.map_memory(GIB, Backing.HUGETLB_1G)) == errno.ENOMEM
    first.close()
    vmm.map_memory(2 * MIB, Backing.HUGETLB_2M)


# Presence


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_page_comes_into_being_by_a_write(page_size: int) -> None:
    memory = process(page_size).map_memory(4 * page_size)
    pages = range(0, 4 * page_size, page_size)
    assert [memory.presence(page) for page in pages] == [Presence.ABSENT] * 4
    memory.view[2 * page_size + page_size - 1] = 1
    assert [memory.presence(page) for page in pages] == [
        Presence.ABSENT,
        Presence.ABSENT,
        Presence.OWN,
        Presence.ABSENT,
    ]


def test_reading_brings_the_page_of_zeros() -> None:
    memory = process().map_memory(8192)
    assert memory.view[0] == 0
    assert memory.presence(0) is Presence.ZERO
    memory.view[1] = 1
    assert memory.presence(0) is Presence.OWN
    assert memory.presence(4096) is Presence.ABSENT


@pytest.mark.parametrize("backing", [Backing.HUGETLB_2M, Backing.THP])
def test_huge_pages_come_whole(backing: Backing) -> None:
    memory = process().map_memory(4 * MIB, backing)
    assert memory.presence(0) is Presence.ABSENT
    memory.view[3 * MIB] = 1
    assert memory.presence(2 * MIB) is Presence.OWN
    assert memory.presence(4 * MIB - 1) is Presence.OWN
    assert memory.presence(0) is Presence.ABSENT


# SIGBUS

SIGNAL = Sigbus(4, HostVA(0x1000), 12)


def test_signals_go_to_the_innermost_capture() -> None:
    vmm = process()
    with vmm.capture_sigbus() as outer:
        vmm.deliver_sigbus(SIGNAL)
        with vmm.capture_sigbus() as inner:
            vmm.deliver_sigbus(SIGNAL)
            vmm.deliver_sigbus(SIGNAL)
        vmm.deliver_sigbus(SIGNAL)
    assert (len(outer), len(inner)) == (2, 2)


def test_a_signal_without_a_capture_would_have_killed() -> None:
    vmm = process()
    with vmm.capture_sigbus():
        pass
    with pytest.raises(SigbusNotCaptured, match=r"si_code 0x4, si_addr 0x1000.*would have killed") as killed:
        vmm.deliver_sigbus(SIGNAL)
    assert killed.value.sigbus is SIGNAL


def test_a_capture_is_of_its_thread_only() -> None:
    vmm = process()
    caught: list[BaseException] = []

    def other() -> None:
        try:
            vmm.deliver_sigbus(SIGNAL)
        except SigbusNotCaptured as error:
            caught.append(error)

    with vmm.capture_sigbus() as mine:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(caught) == 1
    assert mine == []


def test_a_capture_ends_with_its_context_even_on_an_error() -> None:
    vmm = process()
    with pytest.raises(ZeroDivisionError), vmm.capture_sigbus():
        _ = 1 // 0
    with pytest.raises(SigbusNotCaptured):
        vmm.deliver_sigbus(SIGNAL)


def test_threads_map_and_unmap_at_once() -> None:
    vmm = process()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                memory = vmm.map_memory(1 << 16)
                assert vmm.resolve(memory.address, memory.size) == (memory, 0)
                assert vmm.hva_of(memory.hpa(5)) == memory.address + 5
                memory.close()
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    gc.collect()
    assert vmm.resolve(0) is None
