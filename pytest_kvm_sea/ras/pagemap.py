# SPDX-License-Identifier: GPL-2.0-only
"""From host virtual to host physical addresses, by /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).

An entry counts pages of the host's own size: on a kernel with 64 KiB pages the PFN is to be multiplied by 64 KiB.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.ras.errors import TranslationError, Untranslatable, errno_name
from pytest_kvm_sea.reports.trace import NO_TRACE, Trace

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

PATH = "/proc/self/pagemap"
ENTRY_SIZE = 8
_PFN = (1 << 55) - 1
_SWAP_TYPE_BITS = 5


@dataclass(frozen=True, slots=True)
class PagemapEntry:
    """One u64 of pagemap, taken apart by bits."""

    raw: int

    @property
    def present(self) -> bool:
        """Bit 63."""
        return bool(self.raw >> 63 & 1)

    @property
    def swapped(self) -> bool:
        """Bit 62: swapped out, under migration, or poisoned and known to be."""
        return bool(self.raw >> 62 & 1)

    @property
    def file_or_shared(self) -> bool:
        """Bit 61: a page of a file, or shared anonymous."""
        return bool(self.raw >> 61 & 1)

    @property
    def guard(self) -> bool:
        """Bit 58: a guard region (since 6.15)."""
        return bool(self.raw >> 58 & 1)

    @property
    def uffd_write_protected(self) -> bool:
        """Bit 57."""
        return bool(self.raw >> 57 & 1)

    @property
    def exclusive(self) -> bool:
        """Bit 56: mapped only once."""
        return bool(self.raw >> 56 & 1)

    @property
    def soft_dirty(self) -> bool:
        """Bit 55."""
        return bool(self.raw >> 55 & 1)

    @property
    def pfn(self) -> int | None:
        """Bits 54:0 of a present page, in pages of the host; 0 where the kernel hides it."""
        return self.raw & _PFN if self.present else None

    @property
    def swap_type(self) -> int | None:
        """Bits 4:0 of a swapped page."""
        return self.raw & ((1 << _SWAP_TYPE_BITS) - 1) if self.swapped else None

    @property
    def swap_offset(self) -> int | None:
        """Bits 54:5 of a swapped page; for a poisoned one its PFN."""
        return (self.raw & _PFN) >> _SWAP_TYPE_BITS if self.swapped else None


class Pagemap:
    """pagemap of this process on ``host``."""

    def __init__(self, host: Host, trace: Trace = NO_TRACE) -> None:
        self._host = host
        self._trace = trace

    def entry(self, hva: HostVA) -> PagemapEntry:
        """The entry of the page that holds ``hva``. TranslationError if it cannot be read."""
        try:
            with closing(self._host.open(PATH, os.O_RDONLY)) as file:
                data = file.pread(ENTRY_SIZE, hva // self._host.page_size * ENTRY_SIZE)
        except OSError as error:
            text = f"{PATH} cannot be read: {errno_name(error.errno or 0)}, {error.strerror}"
            raise TranslationError(hva, Untranslatable.UNREADABLE, text) from error
        if len(data) < ENTRY_SIZE:
            text = f"{PATH} ends before it; it is no address of a user process"
            raise TranslationError(hva, Untranslatable.NOT_MAPPED, text)
        return PagemapEntry(int.from_bytes(data, "little"))

    def translate(self, hva: HostVA) -> HostPA:
        """The physical address of the byte at ``hva``. TranslationError, with its reason, where there is none."""
        entry = self.entry(hva)
        if entry.pfn:
            hpa = HostPA(entry.pfn * self._host.page_size + hva % self._host.page_size)
            self._trace.place(hva=hva, hpa=hpa)
            return hpa
        reason, text = self._why(entry)
        raise TranslationError(hva, reason, text)

    def _why(self, entry: PagemapEntry) -> tuple[Untranslatable, str]:
        if entry.swapped:
            return Untranslatable.SWAPPED, (
                f"its page is not in memory (swap type {entry.swap_type}): swapped out, being migrated, or already"
                " taken offline as poisoned; lock the memory (mlock) before it is translated"
            )
        if not entry.present:
            return Untranslatable.NOT_PRESENT, (
                "its page is not present: never touched, or a huge page that was taken offline as poisoned; write to"
                " it first"
            )
        if self._privileged():
            return (
                Untranslatable.ZERO,
                "its PFN reads 0, which is never memory of a process; nothing may be injected there",
            )
        return Untranslatable.HIDDEN, (
            f"{PATH} hides its PFN (it reads 0) from a process without CAP_SYS_ADMIN; run as root in the initial user"
            " namespace (root of a container's own user namespace does not count)"
        )

    def _privileged(self) -> bool:
        try:
            self._host.access("/proc/kpageflags", os.R_OK)
        except OSError:
            return False
        return True
