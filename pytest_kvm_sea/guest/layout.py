# SPDX-License-Identifier: GPL-2.0-only
"""Where a program may lie in a guest's memory, and the parts that it consists of."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvm_sea.addresses import GuestPA, GuestVA

PAGE = 4096
DEFAULT_BASE = GuestVA(0x10000)
DEFAULT_UCALL_MMIO = GuestVA(0x291000)
LOW_MEMORY_SIZE = 0x28_0000
"""Slot 0 begins at guest physical 0 and holds program and page tables; a multiple of every host page size."""
TABLES_BASE = GuestPA(0x18_0000)
"""Where in slot 0 the page tables begin, and the room for a program ends."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a program with its permissions. Address and size are multiples of 4 KiB."""

    name: str
    gva: GuestVA
    data: bytes
    """What it begins with; the rest is zero."""
    size: int
    writable: bool
    executable: bool
    user: bool
    """EL0 has access too."""

    @property
    def end(self) -> GuestVA:
        return GuestVA(self.gva + self.size)


def pages(size: int) -> int:
    """A size or an address, rounded up to whole pages."""
    return size + -size % PAGE
