# SPDX-License-Identifier: GPL-2.0-only
"""The stage 2 that a guest hypervisor makes for its own guest (Arm ARM, D8.3; arch/arm64/kvm/nested.c).

Its tables lie in the memory of the VM and give addresses of that: what this lets through goes on to the VM's own stage
2. KVM keeps shadow tables of both in one; here every page is looked up anew, which no guest can tell from that.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.cpu.bus import PAGE_MASK, Access, Bus, ExternalAbort, Page, Stage2Fault

_ADDRESS = 0x0000_FFFF_FFFF_F000
_VALID, _TABLE = 1 << 0, 1 << 1
_READ, _WRITE, _AF = 1 << 6, 1 << 7, 1 << 10
_XN = 1 << 54
_LAST_LEVEL = 3
_START_LEVELS = (2, 1, 0)
"""By VTCR_EL2.SL0, for tables with the 4 KiB granule."""
_PAGE_SHIFT = 12
_LEVEL_BITS = 9
_U64 = struct.Struct("<Q")


class _Leaf(NamedTuple):
    ipa: int
    level: int
    descriptor: int


class NestedStage2:
    """The bus of L2."""

    def __init__(self, stage2: Bus) -> None:
        self._stage2 = stage2
        self._table = 0
        self._start_level = 0
        self._bits = 0

    def load(self, vttbr: int, vtcr: int) -> None:
        """Take VTTBR_EL2 and VTCR_EL2 as they are now."""
        self._table = vttbr & _ADDRESS
        self._bits = 64 - (vtcr & 0x3F)
        self._start_level = _START_LEVELS[min(vtcr >> 6 & 3, len(_START_LEVELS) - 1)]

    def translate(self, ipa: int, access: Access) -> int:
        """From L2's physical address to one of the VM. Raises Stage2Fault with the hypervisor's status."""
        leaf = self._walk(ipa)
        if not _permitted(leaf.descriptor, access):
            raise Stage2Fault(syndromes.FSC_PERMISSION + leaf.level)
        return leaf.ipa

    def page(self, ipa: int, access: Access) -> Page:
        """See cpu.bus.Bus."""
        page = self._stage2.page(self.translate(ipa, access), access)
        if page.writable and not self._walk(ipa).descriptor & _WRITE:
            return Page(page.view, stable=page.stable, writable=False)
        return page

    def check(self, ipa: int, size: int, access: Access) -> None:
        """See cpu.bus.Bus."""
        self._stage2.check(self.translate(ipa, access), size, access)

    def _walk(self, ipa: int) -> _Leaf:
        level, table = self._start_level, self._table
        if ipa >> self._bits:
            raise Stage2Fault(syndromes.FSC_TRANSLATION)
        index_mask = ~0  # tables of the first level may be concatenated
        while True:
            shift = _PAGE_SHIFT + _LEVEL_BITS * (_LAST_LEVEL - level)
            descriptor = self._read(table + (ipa >> shift & index_mask) * 8, level)
            if not descriptor & _VALID:
                raise Stage2Fault(syndromes.FSC_TRANSLATION + level)
            if level == _LAST_LEVEL or not descriptor & _TABLE:
                break
            table, level, index_mask = descriptor & _ADDRESS, level + 1, (1 << _LEVEL_BITS) - 1
        if (level == _LAST_LEVEL) != bool(descriptor & _TABLE) or level == 0:
            raise Stage2Fault(syndromes.FSC_TRANSLATION + level)
        if not descriptor & _AF:
            raise Stage2Fault(syndromes.FSC_ACCESS_FLAG + level)
        size = 1 << shift
        return _Leaf(descriptor & _ADDRESS & -size | ipa & size - 1, level, descriptor)

    def _read(self, address: int, level: int) -> int:
        try:
            view = self._stage2.page(address, Access.READ).view
        except (Stage2Fault, ExternalAbort):
            # Not memory: what the walker finds there is an external abort.
            raise Stage2Fault(syndromes.fsc_sea_walk(level)) from None
        value: int = _U64.unpack_from(view, address & PAGE_MASK)[0]
        return value


def _permitted(descriptor: int, access: Access) -> bool:
    if access is Access.WRITE:
        return bool(descriptor & _WRITE)
    if access is Access.FETCH and descriptor & _XN:
        return False
    return bool(descriptor & _READ)
