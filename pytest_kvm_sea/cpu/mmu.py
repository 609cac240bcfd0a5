# SPDX-License-Identifier: GPL-2.0-only
"""Stage 1 of the EL1&0 translation regime with granules of 4, 16 and 64 KiB (Arm ARM, D8)."""

from __future__ import annotations

from struct import unpack_from
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.sysregs import SysReg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.bus import Access, ExternalAbort, Stage2Fault
from pytest_kvm_sea.cpu.state import (
    MAIR_EL1,
    SCTLR_EL1,
    SCTLR_M,
    SCTLR_WXN,
    TCR_EL1,
    TTBR0_EL1,
    TTBR1_EL1,
    State,
)
from pytest_kvm_sea.cpu.traps import Stage1Fault, WalkAborted

_ADDRESS: Final = 0x0000_FFFF_FFFF_F000
_VALID: Final = 1
_TABLE: Final = 2
"""Bit 1: a table at levels 0 to 2, a page at level 3."""
_LAST_LEVEL: Final = 3
_AF: Final = 1 << 10
_AP_USER: Final = 1 << 6
_AP_READ_ONLY: Final = 1 << 7
_PXN: Final = 1 << 53
_UXN: Final = 1 << 54
_TABLE_PXN: Final = 1 << 59
_TABLE_UXN: Final = 1 << 60
_TABLE_AP_NO_USER: Final = 1 << 61
_TABLE_AP_READ_ONLY: Final = 1 << 62
_OUTPUT_BITS: Final = (32, 36, 40, 42, 44, 48, 48, 48)
"""By TCR_EL1.IPS; 52 bits need the larger granules or FEAT_LPA2."""


class Leaf(NamedTuple):
    """The end of a walk that found a descriptor."""

    ipa: int
    level: int
    descriptor: int
    """With what the tables above it forbid merged in."""


class _Granule(NamedTuple):
    """The size of pages and tables (Arm ARM, D8.2.8 to D8.2.10)."""

    page_shift: int
    level_bits: int
    """How many bits of the address a table resolves."""
    largest_block: int
    """The first level at which a descriptor may be a block."""


_4K: Final = _Granule(12, 9, 1)
_16K: Final = _Granule(14, 11, 2)
_64K: Final = _Granule(16, 13, 2)


class _Half(NamedTuple):
    """Where TCR_EL1 has the fields of one half of the address space, and which register has its tables."""

    size_shift: int
    disable_shift: int
    ignore_top_shift: int
    base: SysReg
    granule_shift: int
    granules: tuple[_Granule, ...]
    """By TG0 or TG1. The value that is reserved stands for 4 KiB, as the architecture allows."""


_HALVES: Final = (
    _Half(0, 7, 37, TTBR0_EL1, 14, (_4K, _64K, _16K, _4K)),
    _Half(16, 23, 38, TTBR1_EL1, 30, (_4K, _16K, _4K, _64K)),
)


class Regime(NamedTuple):
    """How a walk for an address begins."""

    level: int
    shift: int
    """The lowest bit of the address that the first table resolves."""
    table: int
    entry: int
    """Its number in the first table."""
    granule: _Granule


class Mmu(State):
    """Walks the tables. Finds addresses and raises faults; what an access does with them is `memory`'s."""

    __slots__ = ()

    def stage1(self, va: int, access: Access, *, el: int, pan: bool) -> int:
        """The IPA of a virtual address, if the access is permitted.

        Raises Stage1Fault, or WalkAborted where a descriptor cannot be read.
        """
        if not self.sysregs[SCTLR_EL1] & SCTLR_M:
            return self._flat(va)
        leaf = self.walk(va)
        if not self._permitted(leaf.descriptor, access, el=el, pan=pan):
            raise Stage1Fault(esr.FSC_PERMISSION + leaf.level)
        return leaf.ipa

    def translate(self, va: int, *, write: bool, el0: bool) -> tuple[int | None, int]:
        """What AT S1E1R, S1E1W, S1E0R and S1E0W give at EL2: the IPA or None, and PAR_EL1 (Arm ARM, D24.2.127)."""
        try:
            return self.translate_unless_aborted(va, write=write, el0=el0)
        except WalkAborted as aborted:
            if isinstance(aborted.cause, Stage2Fault):
                return None, _par_failed(aborted.cause.fsc) | 1 << 8 | 1 << 9
            walk = esr.fsc_parity_walk if aborted.cause.parity else esr.fsc_sea_walk
            if aborted.cause.walk_level is not None:
                return None, _par_failed(walk(aborted.cause.walk_level)) | 1 << 8 | 1 << 9
            return None, _par_failed(walk(aborted.level))

    def translate_unless_aborted(self, va: int, *, write: bool, el0: bool) -> tuple[int | None, int]:
        """The same as far as it is in PAR_EL1 at EL1. Raises WalkAborted."""
        access = Access.WRITE if write else Access.READ
        try:
            ipa = self.stage1(va, access, el=0 if el0 else 1, pan=False)
        except Stage1Fault as fault:
            return None, _par_failed(fault.fsc)
        if self.sysregs[SCTLR_EL1] & SCTLR_M:
            descriptor = self.walk(va).descriptor
            attributes = self.sysregs[MAIR_EL1] >> 8 * (descriptor >> 2 & 7) & 0xFF
            shareability = descriptor >> 8 & 3
        else:
            attributes, shareability = 0, 2
        return ipa, attributes << 56 | ipa & _ADDRESS | 1 << 11 | 1 << 9 | shareability << 7

    def ignores_top_byte(self, va: int) -> bool:
        """TCR_EL1.TBI of the half that the address is in."""
        return bool(self.sysregs[TCR_EL1] >> _HALVES[va >> 55 & 1].ignore_top_shift & 1)

    def _flat(self, va: int) -> int:
        ipa = va & (1 << 56) - 1 if self.ignores_top_byte(va) else va
        if ipa >> self.features.physical_bits:
            raise Stage1Fault(esr.FSC_ADDRESS_SIZE)
        return ipa

    def regime(self, va: int) -> Regime:
        """What TCR_EL1 and TTBR0_EL1 or TTBR1_EL1 say of an address. Raises Stage1Fault where they have no tables."""
        tcr = self.sysregs[TCR_EL1]
        half = _HALVES[va >> 55 & 1]
        bits = 64 - (tcr >> half.size_shift & 0x3F)
        checked = va & (1 << 56) - 1 if tcr >> half.ignore_top_shift & 1 else va
        top = 56 if tcr >> half.ignore_top_shift & 1 else 64
        if bits > 48 or bits < 25 or tcr >> half.disable_shift & 1:
            raise Stage1Fault(esr.FSC_TRANSLATION)
        if checked >> bits != ((1 << top - bits) - 1 if half.base == TTBR1_EL1 else 0):
            raise Stage1Fault(esr.FSC_TRANSLATION)
        granule = half.granules[tcr >> half.granule_shift & 3]
        level = 4 - -(-(bits - granule.page_shift) // granule.level_bits)
        shift = granule.page_shift + granule.level_bits * (_LAST_LEVEL - level)
        # The table of the first level may be smaller than a page, and is aligned to its size
        table = self.sysregs[half.base] & 0x0000_FFFF_FFFF_FFFE & ~((8 << bits - shift) - 1)
        return Regime(level, shift, table, (va & (1 << bits) - 1) >> shift, granule)

    def walk(self, va: int) -> Leaf:
        """Follow the tables to the leaf. Raises Stage1Fault for translation, access-flag and address-size faults."""
        level, shift, table, index, (page_shift, level_bits, largest_block) = self.regime(va)
        output = min(_OUTPUT_BITS[self.sysregs[TCR_EL1] >> 32 & 7], self.features.physical_bits)
        if table >> output:
            raise Stage1Fault(esr.FSC_ADDRESS_SIZE)
        address_mask = _ADDRESS & -(1 << page_shift)
        inherited = 0
        while True:
            ipa = table + index * 8
            view = self.table_views.get(ipa >> 12)
            if view is None:
                view = self._table(ipa, level)
            descriptor: int = unpack_from("<Q", view, ipa & 0xFFF)[0]
            if not descriptor & _VALID:
                raise Stage1Fault(esr.FSC_TRANSLATION + level)
            if level == _LAST_LEVEL or not descriptor & _TABLE:
                break
            table = descriptor & address_mask
            if table >> output:
                raise Stage1Fault(esr.FSC_ADDRESS_SIZE + level)
            inherited |= descriptor
            level += 1
            shift -= level_bits
            index = va >> shift & (1 << level_bits) - 1
        if (level == _LAST_LEVEL) != bool(descriptor & _TABLE) or level < largest_block:
            # A block where there are none, or the reserved encoding at level 3
            raise Stage1Fault(esr.FSC_TRANSLATION + level)
        base = descriptor & _ADDRESS & ~((1 << shift) - 1)
        if base >> output:
            raise Stage1Fault(esr.FSC_ADDRESS_SIZE + level)
        if not descriptor & _AF:
            raise Stage1Fault(esr.FSC_ACCESS_FLAG + level)
        return Leaf(base | va & (1 << shift) - 1, level, _inherit(descriptor, inherited))

    def _table(self, ipa: int, level: int) -> memoryview:
        """The page of the descriptor at ``ipa``, which may be read."""
        try:
            page = self.bus.page(ipa, Access.WALK)
            if not page.stable:
                self.bus.check(ipa, 8, Access.WALK)
        except (Stage2Fault, ExternalAbort) as cause:
            raise WalkAborted(cause, level, ipa) from None
        if page.stable:
            self.table_views[ipa >> 12] = page.view
        return page.view

    def _permitted(self, descriptor: int, access: Access, *, el: int, pan: bool) -> bool:
        """Arm ARM, D8.4: direct permissions, PXN, UXN, SCTLR_EL1.WXN, PAN."""
        user, read_only = descriptor & _AP_USER, descriptor & _AP_READ_ONLY
        if access is Access.FETCH:
            writable = not read_only and (el == 1 or user)
            if writable and self.sysregs[SCTLR_EL1] & SCTLR_WXN:
                return False
            if el == 0:
                return not descriptor & _UXN
            return not descriptor & _PXN and not (user and not read_only)
        if el == 0:
            return bool(user) and not (access is Access.WRITE and read_only)
        if pan and user:
            return False
        return not (access is Access.WRITE and read_only)

    @property
    def pan(self) -> bool:
        """Whether PAN restricts accesses now."""
        return bool(self.el and self.pstate_bits & pstate.PAN)


def _par_failed(fsc: int) -> int:
    return 1 << 11 | fsc << 1 | 1


def _inherit(descriptor: int, tables: int) -> int:
    """Merge what table descriptors forbid into the leaf (Arm ARM, D8.4.3: APTable, UXNTable, PXNTable)."""
    if tables & _TABLE_AP_READ_ONLY:
        descriptor |= _AP_READ_ONLY
    if tables & _TABLE_AP_NO_USER:
        descriptor &= ~_AP_USER
    if tables & _TABLE_UXN:
        descriptor |= _UXN
    if tables & _TABLE_PXN:
        descriptor |= _PXN
    return descriptor
