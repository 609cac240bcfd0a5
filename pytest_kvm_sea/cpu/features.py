# SPDX-License-Identifier: GPL-2.0-only
"""What a simulated processor implements beyond the base architecture, and what its ID registers say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg


@dataclass(frozen=True)
class Features:
    """A processor model. ``id_registers`` overrides single ID registers; the rest follow from the flags."""

    ras: bool = True
    """FEAT_RAS: ESB, DISR_EL1, and a syndrome in SErrors."""
    sea_far: bool = True
    """FAR holds the address of a synchronous external abort. False: ESR.FnV is set and FAR holds garbage."""
    ease: bool = False
    """FEAT_DoubleFault2: SCTLR2_EL1 with EASE and NMEA."""
    pan: bool = True
    """FEAT_PAN: PSTATE.PAN and SCTLR_EL1.SPAN."""
    uao: bool = True
    """FEAT_UAO: PSTATE.UAO, with which LDTR and STTR at EL1 are ordinary accesses."""
    lse: bool = True
    """FEAT_LSE: the atomic instructions, CAS and SWP."""
    ssbs: bool = True
    """FEAT_SSBS2: PSTATE.SSBS and its register."""
    dit: bool = True
    """FEAT_DIT."""
    physical_bits: int = 48
    """Size of the (intermediate) physical address space that stage 1 may produce."""
    id_registers: Mapping[SysReg, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.ras, self.sea_far, self.ease, self.pan, self.lse, tuple(sorted(self.id_registers.items()))))


_PARANGE = {32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5, 52: 6}
_NONE = 0xF
"""The value of an ID field that says 'not implemented' where zero would mean 'implemented'."""


@cache
def id_registers(features: Features) -> Mapping[SysReg, int]:
    """Every ID register that has a value; the rest of their space reads as zero (Arm ARM, D24.2, each register)."""
    bits = max(size for size in _PARANGE if size <= max(features.physical_bits, 32))
    values = {
        # Implementer 0: reserved for software
        "midr_el1": 0x000F_0000,
        # Uniprocessor fields as KVM shows them for vCPU 0
        "mpidr_el1": 0x8000_0000,
        # No FP and SIMD, which a guest should not use: none is executed. One that does use it gets the exceptions of a
        # processor that has it (`arm64.simd_encodings`)
        "id_aa64pfr0_el1": 0x11 | _NONE << 16 | _NONE << 20 | features.ras << 28 | features.dit << 48,
        "id_aa64pfr1_el1": (2 if features.ssbs else 0) << 4 | features.ease << 56,
        # Debug architecture 8 with one breakpoint and one watchpoint less than architecturally possible: none usable
        "id_aa64dfr0_el1": 0x6,
        "id_aa64isar0_el1": 1 << 16 | (2 if features.lse else 0) << 20,
        "id_aa64isar1_el1": 2 << 20 | 1 << 36,
        # All granules, 16-bit ASIDs
        "id_aa64mmfr0_el1": _PARANGE[bits] | 2 << 4 | 1 << 20,
        "id_aa64mmfr1_el1": features.pan << 20,
        "id_aa64mmfr2_el1": features.uao << 4,
        "id_aa64mmfr3_el1": features.ease << 4,
        # 64-byte lines; no IDC, no DIC
        "ctr_el0": 0x8444_C004,
        "clidr_el1": 0x0A20_0023,
        "ccsidr_el1": 0x700F_E01A,
        # DC ZVA works on 64 bytes
        "dczid_el0": 4,
    }
    table = {sysreg(name): value for name, value in values.items()}
    table.update(features.id_registers)
    return table
