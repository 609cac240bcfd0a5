# SPDX-License-Identifier: GPL-2.0-only
"""/proc/self/pagemap, /proc/kpageflags and /proc/iomem, byte by byte."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.hosts.contract import Backing, File
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages, Kernel, Lockdown, Platform
from pytest_kvm_sea.platforms.model import Process as ProcessModel
from pytest_kvm_sea.sim.filesystem import Filesystem
from pytest_kvm_sea.sim.firmware import Firmware
from pytest_kvm_sea.sim.physical import EHWPOISON, PhysicalMemory
from pytest_kvm_sea.sim.process import Process
from pytest_kvm_sea.sim.procfs import SWP_HWPOISON, Kpf

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10)
PAGEMAP, KPAGEFLAGS, IOMEM = "/proc/self/pagemap", "/proc/kpageflags", "/proc/iomem"
HARD_OFFLINE = "/sys/devices/system/memory/hard_offline_page"
TASK_SIZE = 1 << 48
SHOWN, SWAP, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56


def no_tree() -> Path:
    raise AssertionError("nothing here needs the tree on disk")


class Machine:
    """The parts of a simulated host that these files show."""

    def __init__(
        self, page_size: int = 4096, *, root: bool = True, lockdown: Lockdown = Lockdown.NONE, memory: int = 4 * GIB
    ) -> None:
        self.platform = Platform(
            "test",
            "a host",
            kernel=Kernel(page_size=page_size, lockdown=lockdown),
            memory=memory,
            hugepages=Hugepages(free_2m=8, free_1g=0),
            process=ProcessModel(root=root),
        )
        self.page_size = page_size
        self.physical = PhysicalMemory(page_size, memory)
        self.process = Process(self.physical, page_size, self.platform.hugepages)
        firmware = Firmware(self.platform, self.physical, self.process)
        self.fail = firmware.failure.handle
        self.files = Filesystem(self.platform, self.process, self.physical, firmware, no_tree)

    def open(self, path: str, flags: int = os.O_RDONLY) -> File:
        return self.files.open(path, flags)

    def entry(self, hva: int) -> int:
        return int.from_bytes(self.open(PAGEMAP).pread(8, hva // self.page_size * 8), "little")

    def flags(self, hpa: int) -> set[Kpf]:
        (word,) = struct.unpack("=Q", self.open(KPAGEFLAGS).pread(8, hpa // self.page_size * 8))
        return {flag for flag in Kpf if word >> flag & 1}


def refusal(action: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is what matters
        action()
    return refused.value.errno


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@settings(max_examples=15)
@given(offset=st.integers(0, 3 * 64 * 1024 - 1))
def test_the_pfn_counts_pages_of_the_host(page_size: int, offset: int) -> None:
    machine = Machine(page_size)
    memory = machine.process.map_memory(3 * 64 * 1024)
    memory.view[offset] = 1
    entry = machine.entry(memory.address + offset)
    assert entry & ~((1 << 55) - 1) == SHOWN | EXCLUSIVE
    assert (entry & ((1 << 55) - 1)) * page_size + offset % page_size == memory.hpa(offset)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_what_was_never_touched_reads_zero(page_size: int) -> None:
    machine = Machine(page_size)
    memory = machine.process.map_memory(4 * page_size)
    memory.view[page_size] = 1
    entries = [machine.entry(memory.address + page * page_size) for page in range(4)]
    assert [bool(entry) for entry in entries] == [False, True, False, False]
    assert machine.entry(0) == 0


def test_what_was_only_read_is_the_page_of_zeros() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4096)
    assert memory.view[0] == 0
    assert machine.entry(memory.address) == SHOWN | machine.physical.zero_page // 4096
    memory.view[0] = 1
    assert machine.entry(memory.address) == SHOWN | EXCLUSIVE | memory.hpa(0) // 4096


def test_huge_pages_are_shown_page_by_page() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4 * MIB, Backing.HUGETLB_2M)
    memory.view[3 * MIB] = 1
    head = memory.hpa(2 * MIB) // 4096
    assert machine.entry(memory.address) == 0
    assert machine.entry(memory.address + 2 * MIB) == SHOWN | EXCLUSIVE | head
    assert machine.entry(memory.address + 4 * MIB - 1) == SHOWN | EXCLUSIVE | head + 511


def test_the_unprivileged_see_no_pfn() -> None:
    machine = Machine(root=False)
    memory = machine.process.map_memory(8192)
    memory.view[0] = 1
    assert machine.entry(memory.address) == SHOWN | EXCLUSIVE
    memory.view[4096] = 1
    machine.fail(memory.hpa(4096))
    assert machine.entry(memory.address + 4096) == SWAP


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP])
def test_an_offline_page_is_a_swap_entry(backing: Backing) -> None:
    machine = Machine()
    memory = machine.process.map_memory(2 * MIB, backing)
    memory.view[0] = memory.view[4096] = 1
    machine.fail(memory.hpa(0))
    assert machine.entry(memory.address) == SWAP | memory.hpa(0) // 4096 << 5 | SWP_HWPOISON
    assert machine.entry(memory.address + 4096) & SHOWN


def test_an_offline_huge_page_reads_zero_without_a_swap_bit() -> None:
    machine = Machine()
    memory = machine.process.map_memory(2 * MIB, Backing.HUGETLB_2M)
    memory.view[0] = 1
    machine.fail(memory.hpa(MIB))
    assert machine.entry(memory.address) == 0
    assert machine.entry(memory.address + 2 * MIB - 1) == 0


@pytest.mark.parametrize(("size", "offset"), [(7, 0), (9, 0), (8, 4), (1, 0), (8, 1), (12, 8), (8, -8)])
@pytest.mark.parametrize("path", [PAGEMAP, KPAGEFLAGS])
def test_entries_are_read_whole(path: str, size: int, offset: int) -> None:
    assert refusal(lambda: Machine().open(path).pread(size, offset)) == errno.EINVAL


def test_reading_ends_with_the_address_space() -> None:
    pagemap = Machine().open(PAGEMAP)
    last = TASK_SIZE // 4096 * 8
    assert pagemap.pread(8, last - 8) == bytes(8)
    assert pagemap.pread(64, last - 16) == bytes(16)
    assert pagemap.pread(8, last) == b""
    assert pagemap.pread(8, (1 << 63) - 8) == b""
    assert pagemap.pread(0, 0) == b""


def test_tags_of_addresses_are_ignored() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4096)
    memory.view[0] = 1
    tagged = memory.address | 0x5A << 56
    assert machine.entry(tagged) == machine.entry(memory.address) != 0


def test_positions_advance_and_there_is_no_reading_to_the_end() -> None:
    machine = Machine()
    pagemap = machine.open(PAGEMAP)
    assert pagemap.read(16) == bytes(16)
    assert refusal(pagemap.read) == errno.EINVAL
    assert refusal(lambda: pagemap.read(3)) == errno.EINVAL


def test_a_closed_mapping_is_gone() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4096)
    view = memory.view
    view[0] = 1
    memory.close()
    assert machine.entry(memory.address) == 0


# kpageflags


def test_page_flags() -> None:
    machine = Machine()
    small, huge = machine.process.map_memory(8192), machine.process.map_memory(2 * MIB, Backing.HUGETLB_2M)
    thp = machine.process.map_memory(2 * MIB, Backing.THP)
    for memory in (small, huge, thp):
        memory.view[0] = 1
    anonymous = {Kpf.UPTODATE, Kpf.DIRTY, Kpf.LRU, Kpf.MMAP, Kpf.ANON, Kpf.SWAPBACKED}
    assert machine.flags(small.hpa(0)) == anonymous
    assert machine.flags(small.hpa(4096)) == {Kpf.BUDDY}
    assert machine.flags(thp.hpa(0)) == anonymous | {Kpf.THP, Kpf.COMPOUND_HEAD}
    assert machine.flags(huge.hpa(0)) >= {Kpf.HUGE, Kpf.COMPOUND_HEAD}
    assert machine.flags(huge.hpa(8192)) >= {Kpf.HUGE, Kpf.COMPOUND_TAIL}
    assert machine.flags(0) == {Kpf.NOPAGE}
    assert machine.flags(0x8000_0000) == {Kpf.RESERVED}
    assert Kpf.ZERO_PAGE in machine.flags(machine.physical.zero_page)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_hwpoison_is_bit_19(page_size: int) -> None:
    machine = Machine(page_size)
    memory = machine.process.map_memory(4 * page_size)
    memory.view[page_size] = 1
    hpa = memory.hpa(page_size)
    before = machine.flags(hpa)
    machine.fail(hpa)
    assert machine.flags(hpa) == before - {Kpf.MMAP, Kpf.LRU} | {Kpf.HWPOISON}


def test_of_a_dissolved_huge_page_one_page_is_poisoned_and_the_rest_is_free() -> None:
    machine = Machine()
    memory = machine.process.map_memory(2 * MIB, Backing.HUGETLB_2M)
    memory.view[0] = 1
    hpa = memory.hpa(0x3000)
    machine.fail(hpa)
    assert machine.flags(hpa) == {Kpf.HWPOISON}
    assert machine.flags(hpa - 4096) == machine.flags(hpa + 4096) == machine.flags(memory.hpa(0)) == {Kpf.BUDDY}


def test_a_transparent_huge_page_is_split() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4 * MIB, Backing.THP)
    memory.view[0] = memory.view[2 * MIB] = 1
    machine.fail(memory.hpa(0x3000))
    assert Kpf.THP not in machine.flags(memory.hpa(0x4000))
    assert Kpf.THP in machine.flags(memory.hpa(2 * MIB))
    assert machine.entry(memory.address + 0x4000) & SHOWN


def test_page_flags_end_with_memory() -> None:
    machine = Machine()
    end = machine.physical.end // 4096 * 8
    assert len(machine.open(KPAGEFLAGS).pread(32, end - 16)) == 16
    assert machine.open(KPAGEFLAGS).pread(8, end) == b""


# iomem and others


def test_iomem_is_written_as_the_kernel_does() -> None:
    text = Machine(memory=4 * GIB).open(IOMEM).read()
    assert text == (
        b"08000000-0800ffff : GICD\n"
        b"080a0000-08ffffff : GICR\n"
        b"09000000-09000fff : ARMH0011:00\n"
        b"  09000000-09000fff : ARMH0011:00\n"
        b"80000000-feffffff : System RAM\n"
        b"  80210000-8212ffff : Kernel code\n"
        b"  82130000-8258ffff : reserved\n"
        b"  82590000-82c4ffff : Kernel data\n"
        b"ff000000-ffffffff : reserved\n"
        b"880000000-8ffffffff : System RAM\n"
    )


def test_the_unprivileged_see_no_addresses_in_iomem() -> None:
    shown, hidden = Machine().open(IOMEM).read(), Machine(root=False).open(IOMEM).read()
    names = [line.partition(b" : ")[2] for line in shown.splitlines()]
    assert [line.partition(b" : ")[2] for line in hidden.splitlines()] == names
    assert {line.split()[0] for line in hidden.splitlines()} == {b"00000000-00000000"}


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (Lockdown.NONE, b"[none] integrity confidentiality\n"),
        (Lockdown.INTEGRITY, b"none [integrity] confidentiality\n"),
        (Lockdown.CONFIDENTIALITY, b"none integrity [confidentiality]\n"),
    ],
)
def test_lockdown_marks_the_mode(mode: Lockdown, text: bytes) -> None:
    assert Machine(lockdown=mode).open("/sys/kernel/security/lockdown").read() == text


def test_the_release() -> None:
    assert Machine().open("/proc/sys/kernel/osrelease").read() == b"7.3.4\n"


# hard_offline_page


def test_hard_offline_takes_an_address() -> None:
    machine = Machine()
    memory = machine.process.map_memory(4096)
    memory.view[0] = 1
    file = machine.open(HARD_OFFLINE, os.O_WRONLY)
    text = f"{memory.hpa(100):#x}\n".encode()
    assert file.write(text) == len(text)
    assert machine.physical.is_offline(memory.hpa(0))
    assert refusal(lambda: file.write(text)) == EHWPOISON


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", errno.EINVAL),
        (b"here", errno.EINVAL),
        (b"9" * 30, errno.EINVAL),
        (b"0", errno.ENXIO),
        (b"0x80000000", errno.EBUSY),
    ],
)
def test_what_hard_offline_refuses(text: bytes, code: int) -> None:
    file = Machine().open(HARD_OFFLINE, os.O_WRONLY)
    assert refusal(lambda: file.write(text)) == code
