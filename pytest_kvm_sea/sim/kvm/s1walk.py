# SPDX-License-Identifier: GPL-2.0-only
"""At which level of the guest's stage 1 lies this descriptor? (arch/arm64/kvm/at.c __kvm_find_s1_desc_level)"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.bus import PAGE_MASK, Access, ExternalAbort, Stage2Fault
from pytest_kvm_sea.cpu.traps import Stage1Fault

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.sim.kvm.stage2 import Stage2

_SCTLR = sysreg("sctlr_el1")
_U64 = struct.Struct("<Q")


def descriptor_level(cpu: Cpu, stage2: Stage2, va: int, page: int) -> int | None:
    """The level of the descriptor, in the walk for ``va``, that lies in this page of guest physical memory.

    None where the walk does not come by there; 0 where the guest's MMU is off.
    """
    if not cpu.sysregs[_SCTLR] & 1:
        return 0
    try:
        level, shift, table, index, granule = cpu.regime(va)
    except Stage1Fault:
        return None
    while True:
        address = table + index * 8
        if address & ~PAGE_MASK == page:
            return level
        descriptor = _read(stage2, address)
        if descriptor is None or not descriptors.is_table(descriptor, level):
            return None
        table = descriptor & descriptors.ADDRESS_MASK & -(1 << granule.page_shift)
        level, shift = level + 1, shift - granule.level_bits
        index = va >> shift & (1 << granule.level_bits) - 1


def _read(stage2: Stage2, ipa: int) -> int | None:
    try:
        view = stage2.page(ipa, Access.WALK).view
    except (Stage2Fault, ExternalAbort):
        return None
    value: int = _U64.unpack_from(view, ipa & PAGE_MASK)[0]
    return value
