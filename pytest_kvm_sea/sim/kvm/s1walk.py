# SPDX-License-Identifier: GPL-2.0-only
"""At which level of the guest's stage 1 lies this descriptor? (arch/arm64/kvm/at.c __kvm_find_s1_desc_level)"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.bus import PAGE_MASK, Access, ExternalAbort, Stage2Fault

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.sim.kvm.stage2 import Stage2

_TTBR0, _TTBR1, _TCR, _SCTLR = sysreg("ttbr0_el1"), sysreg("ttbr1_el1"), sysreg("tcr_el1"), sysreg("sctlr_el1")
_HIGH_HALF = 1 << 55
_T1SZ_SHIFT = 16
_SIZE_MASK = 0x3F
_U64 = struct.Struct("<Q")


def descriptor_level(cpu: Cpu, stage2: Stage2, va: int, page: int) -> int | None:
    """The level of the descriptor, in the walk for ``va``, that lies in this page of guest physical memory.

    None where the walk does not come by there; 0 where the guest's MMU is off.
    """
    if not cpu.sysregs[_SCTLR] & 1:
        return 0
    high = bool(va & _HIGH_HALF)
    size_offset = cpu.sysregs[_TCR] >> (_T1SZ_SHIFT if high else 0) & _SIZE_MASK
    level = 4 - -(-(64 - size_offset - descriptors.PAGE_SHIFT) // 9)
    table = cpu.sysregs[_TTBR1 if high else _TTBR0] & descriptors.ADDRESS_MASK
    while True:
        address = table + descriptors.index(va, level) * 8
        if address & ~PAGE_MASK == page:
            return level
        descriptor = _read(stage2, address)
        if descriptor is None or not descriptors.is_table(descriptor, level):
            return None
        table = descriptor & descriptors.ADDRESS_MASK
        level += 1


def _read(stage2: Stage2, ipa: int) -> int | None:
    try:
        view = stage2.page(ipa, Access.WALK).view
    except (Stage2Fault, ExternalAbort):
        return None
    value: int = _U64.unpack_from(view, ipa & PAGE_MASK)[0]
    return value
