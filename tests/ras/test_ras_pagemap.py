# SPDX-License-Identifier: GPL-2.0-only
"""The pagemap client against a pagemap whose every bit is chosen, and against the simulated host's."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages, Kernel, Platform, Process
from pytest_kvm_sea.ras.errors import TranslationError, Untranslatable
from pytest_kvm_sea.ras.pagemap import Pagemap, PagemapEntry
from pytest_kvm_sea.sim.files import TextFile, fail
from pytest_kvm_sea.sim.host import SimHost

PAGE_SIZES = (4 << 10, 16 << 10, 64 << 10)
HVA = HostVA(0xFFFF_4123_4BAD)
SHOWN, SWAP = 1 << 63, 1 << 62


class PagemapHost(SimHost):
    """A host whose pagemap has one entry, at HVA, or that refuses."""

    def __init__(self, entry: bytes | int, page_size: int = 4096, *, privileged: bool = True) -> None:
        super().__init__(
            Platform("test", "a host", kernel=Kernel(page_size=page_size), memory=GIB, hugepages=Hugepages(0, 0))
        )
        self.entry = entry
        self.privileged = privileged
        self.asked: list[tuple[int, int]] = []

    def open(self, path: str, flags: int, /) -> TextFile:
        assert (path, flags) == ("/proc/self/pagemap", os.O_RDONLY)
        if isinstance(self.entry, int):
            fail(self.entry, path)
        host, entry = self, self.entry

        class File(TextFile):
            def pread(self, size: int, offset: int, /) -> bytes:
                host.asked.append((size, offset))
                return entry

        return File(path, flags, bytes)

    def access(self, path: str, mode: int, /) -> None:
        assert path == "/proc/kpageflags"
        if not self.privileged:
            fail(errno.EACCES, path)


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


@given(page_size=st.sampled_from(PAGE_SIZES), pfn=st.integers(1, (1 << 36) - 1), hva=st.integers(0, (1 << 48) - 1))
def test_the_pfn_is_in_pages_of_the_host(page_size: int, pfn: int, hva: int) -> None:
    host = PagemapHost(word(SHOWN | 1 << 56 | pfn), page_size)
    hpa = Pagemap(host).translate(HostVA(hva))
    assert hpa == pfn * page_size + hva % page_size
    assert host.asked == [(8, hva // page_size * 8)]


@given(st.integers(0, (1 << 64) - 1))
def test_every_bit_has_one_meaning(raw: int) -> None:
    entry = PagemapEntry(raw)
    bits = {
        63: entry.present,
        62: entry.swapped,
        61: entry.file_or_shared,
        58: entry.guard,
        57: entry.uffd_write_protected,
        56: entry.exclusive,
        55: entry.soft_dirty,
    }
    rebuilt = sum(1 << bit for bit, value in bits.items() if value) | raw & 3 << 59
    low = raw & (1 << 55) - 1
    if entry.pfn is not None:
        assert entry.pfn == low
    if entry.swap_type is not None and entry.swap_offset is not None:
        assert entry.swap_offset << 5 | entry.swap_type == low
    assert rebuilt | low == raw
    assert (entry.pfn is None) != entry.present
    assert (entry.swap_type is None) != entry.swapped


REFUSALS: Sequence[tuple[bytes | int, bool, Untranslatable, str]] = (
    (word(0), True, Untranslatable.NOT_PRESENT, r"not present: never touched.*write to it first"),
    (word(1 << 55), True, Untranslatable.NOT_PRESENT, r"not present"),
    (word(SHOWN | 1 << 56), False, Untranslatable.HIDDEN, r"hides its PFN.*CAP_SYS_ADMIN.*run as root.*user namespace"),
    (word(SHOWN | 1 << 56), True, Untranslatable.ZERO, r"PFN reads 0.*nothing may be injected"),
    (word(SWAP | 0x1234 << 5 | 24), True, Untranslatable.SWAPPED, r"swap type 24.*offline.*mlock"),
    (word(SWAP), False, Untranslatable.SWAPPED, r"not in memory"),
    (b"", True, Untranslatable.NOT_MAPPED, r"no address of a user process"),
    (bytes(4), True, Untranslatable.NOT_MAPPED, r"no address of a user process"),
    (errno.EACCES, True, Untranslatable.UNREADABLE, r"cannot be read: EACCES, Permission denied"),
    (errno.ENOENT, True, Untranslatable.UNREADABLE, r"cannot be read: ENOENT"),
)


@pytest.mark.parametrize(("entry", "privileged", "reason", "text"), REFUSALS)
def test_why_there_is_no_address(entry: bytes | int, privileged: bool, reason: Untranslatable, text: str) -> None:
    with pytest.raises(TranslationError, match=text) as refused:
        Pagemap(PagemapHost(entry, privileged=privileged)).translate(HVA)
    assert refused.value.reason is reason
    assert refused.value.hva == HVA
    assert "0xffff41234bad" in str(refused.value)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP, Backing.HUGETLB_2M])
def test_on_the_simulated_host_it_is_the_address_of_the_cell(page_size: int, backing: Backing) -> None:
    host = SimHost(Platform("test", "a host", kernel=Kernel(page_size=page_size), memory=4 * GIB))
    memory = host.map_memory(4 * MIB, backing=backing)
    pagemap = Pagemap(host)
    for offset in (0, page_size + 77, 4 * MIB - 1):
        memory.view[offset] = 1
        hva = HostVA(memory.address + offset)
        hpa = pagemap.translate(hva)
        assert hpa == host.process.hpa_of(hva)
        assert host.process.hva_of(hpa) == hva
    host.close()


def test_on_the_simulated_host_the_unprivileged_are_told_so() -> None:
    host = SimHost(Platform("test", "a host", memory=4 * GIB, process=Process(root=False)))
    memory = host.map_memory(4096)
    with pytest.raises(TranslationError, match="never touched"):
        Pagemap(host).translate(memory.address)
    memory.view[0] = 1
    with pytest.raises(TranslationError, match="CAP_SYS_ADMIN"):
        Pagemap(host).translate(memory.address)
    host.close()
