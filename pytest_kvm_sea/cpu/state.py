# SPDX-License-Identifier: GPL-2.0-only
"""The registers of a processor, and the memory views and code that are valid in each translation context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.bus import Bus
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.features import id_registers as id_registers_of

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.blocks import Block

SCTLR_EL1: Final = sysreg("sctlr_el1")
SCTLR2_EL1: Final = sysreg("sctlr2_el1")
TCR_EL1: Final = sysreg("tcr_el1")
TTBR0_EL1: Final = sysreg("ttbr0_el1")
TTBR1_EL1: Final = sysreg("ttbr1_el1")
MAIR_EL1: Final = sysreg("mair_el1")
ESR_EL1: Final = sysreg("esr_el1")
FAR_EL1: Final = sysreg("far_el1")
ELR_EL1: Final = sysreg("elr_el1")
SPSR_EL1: Final = sysreg("spsr_el1")
VBAR_EL1: Final = sysreg("vbar_el1")
PAR_EL1: Final = sysreg("par_el1")
CPACR_EL1: Final = sysreg("cpacr_el1")
DISR_EL1: Final = sysreg("disr_el1")

SCTLR_M: Final = 1 << 0
SCTLR_A: Final = 1 << 1
SCTLR_SA: Final = 1 << 3
SCTLR_SA0: Final = 1 << 4
SCTLR_UMA: Final = 1 << 9
SCTLR_DZE: Final = 1 << 14
SCTLR_UCT: Final = 1 << 15
SCTLR_NTWI: Final = 1 << 16
SCTLR_NTWE: Final = 1 << 18
SCTLR_WXN: Final = 1 << 19
SCTLR_SPAN: Final = 1 << 23
SCTLR_UCI: Final = 1 << 26
SCTLR_DSSBS: Final = 1 << 44
SCTLR2_NMEA: Final = 1 << 2
SCTLR2_EASE: Final = 1 << 5

UNKNOWN_AT_RESET: Final = 0x1DE7EC7EDBADC0DE
"""What KVM puts where the architecture leaves a reset value open (arch/arm64/kvm/sys_regs.c reset_unknown)."""
_UNKNOWN: Final = (
    "afsr0_el1",
    "afsr1_el1",
    "csselr_el1",
    "esr_el1",
    "far_el1",
    "mair_el1",
    "par_el1",
    "tpidr_el0",
    "tpidr_el1",
    "tpidrro_el0",
    "ttbr0_el1",
    "ttbr1_el1",
)
_ZERO: Final = (
    "actlr_el1",
    "amair_el1",
    "cntkctl_el1",
    "contextidr_el1",
    "cpacr_el1",
    "disr_el1",
    "elr_el1",
    "mdscr_el1",
    "osdlr_el1",
    "sctlr2_el1",
    "spsr_el1",
    "tcr_el1",
    "vbar_el1",
)
_RESET: Final[dict[SysReg, int]] = {
    **dict.fromkeys(map(sysreg, _UNKNOWN), UNKNOWN_AT_RESET),
    **dict.fromkeys(map(sysreg, _ZERO), 0),
    SCTLR_EL1: 0x00C5_0078,
    sysreg("oslsr_el1"): 0x8,
}
"""What KVM resets the writable registers to."""


class Context:
    """What one translation context (exception level, PAN) has found out: pages by virtual page number, code by PC."""

    __slots__ = ("blocks", "fetches", "reads", "writes")

    def __init__(self) -> None:
        self.fetches: dict[int, memoryview] = {}
        self.reads: dict[int, memoryview] = {}
        self.writes: dict[int, memoryview] = {}
        self.blocks: dict[int, Block] = {}

    def forget(self) -> None:
        self.fetches.clear()
        self.reads.clear()
        self.writes.clear()
        self.blocks.clear()


class State:
    """All registers. Condition flags and PSTATE are kept unpacked; `pstate` packs them."""

    __slots__ = (
        "_banked_sp",
        "blocks",
        "bus",
        "context",
        "contexts",
        "el",
        "exact",
        "fa",
        "fb",
        "features",
        "fk",
        "hcr_tea",
        "id_registers",
        "instructions",
        "kicked",
        "monitor",
        "nv",
        "pc",
        "pstate_bits",
        "reads",
        "sp",
        "spsel",
        "strict_alignment",
        "sysregs",
        "table_views",
        "vserror",
        "writes",
        "x",
    )

    def __init__(self, bus: Bus, features: Features) -> None:
        self.bus = bus
        self.features = features
        self.id_registers = id_registers_of(features)
        self.hcr_tea = features.ras
        """HCR_EL2.TEA: external aborts are taken to EL2."""
        self.nv = False
        """HCR_EL2.NV (and NV2): code at EL1 thinks that it is at EL2. Its ERET and its accesses to EL2's registers are
        taken to EL2, and it sees EL2 in CurrentEL and SPSR_EL1 (Arm ARM, D8.13)."""
        self.kicked = False
        """Set by anyone, from any thread: `run` returns soon. Cleared by whoever set it."""
        self.exact = False
        """The next block must be executed by closures: a region found something that only they do."""
        self.contexts = (Context(), Context(), Context(), Context())
        self.table_views: dict[int, memoryview] = {}
        self.instructions = 0
        """Instructions executed since the processor was made."""
        self.x: list[int] = [0] * 31
        self.reset()

    def reset(self) -> None:
        """What KVM_ARM_VCPU_INIT leaves: registers zero or as KVM resets them, EL1h, everything masked, PC 0."""
        self.x[:] = [0] * 31
        self.pc = 0
        self.sysregs: dict[SysReg, int] = dict(_RESET)
        self.vserror: int | None = None
        """Syndrome (bits 24:0 of VSESR_EL2) of a virtual SError that is pending."""
        self.monitor: tuple[int, bytes] | None = None
        """The exclusive monitor: the address, and what was loaded from there."""
        self._banked_sp = [0, 0]
        self.sp = 0
        self.el = self.spsel = 1
        self.fk = self.fa = self.fb = 0
        self.pstate_bits = 0
        self.pstate = pstate.RESET
        self.strict_alignment = False
        self.invalidate_tlb()

    def invalidate_tlb(self) -> None:
        """Forget every translation, every view of the bus's memory and all code found through them."""
        for context in self.contexts:
            context.forget()
        self.table_views.clear()

    # Stack pointers

    @property
    def sp_el0(self) -> int:
        return self._banked_sp[0] if self.spsel else self.sp

    @sp_el0.setter
    def sp_el0(self, value: int) -> None:
        self._banked_sp[0] = value
        if not self.spsel:
            self.sp = value

    @property
    def sp_el1(self) -> int:
        return self.sp if self.spsel else self._banked_sp[1]

    @sp_el1.setter
    def sp_el1(self, value: int) -> None:
        self._banked_sp[1] = value
        if self.spsel:
            self.sp = value

    # PSTATE

    @property
    def nzcv(self) -> int:
        """N, Z, C, V in bits 3:0."""
        return pstate.nzcv(self.fk, self.fa, self.fb)

    @property
    def pstate(self) -> int:
        """PSTATE as SPSR_EL1 would hold it. Setting it takes effect at once; a mode that is not AArch64 EL0t, EL1t or
        EL1h is a ValueError."""
        mode = (pstate.EL2T if self.nv else pstate.EL1T) | self.spsel if self.el else pstate.EL0T
        return self.nzcv << 28 | self.pstate_bits | mode

    @pstate.setter
    def pstate(self, value: int) -> None:
        mode = pstate.MODES.get(value & 0x1F)
        if mode is None:
            raise ValueError(f"PSTATE {value:#x}: mode {value & 0x1F:#x} is not one of 0 (EL0t), 4 (EL1t), 5 (EL1h)")
        self.fk = pstate.RAW
        self.fa = value >> 28 & 0xF
        self.pstate_bits = value & (
            pstate.DIT | pstate.UAO | pstate.PAN | pstate.SS | pstate.IL | pstate.SSBS | pstate.DAIF
        )
        self.enter_mode(*mode)

    def enter_mode(self, el: int, spsel: int) -> None:
        """Change the exception level and stack pointer; also needed after a change of PAN or IL in `pstate_bits`."""
        if spsel != self.spsel:
            self._banked_sp[self.spsel] = self.sp
            self.sp = self._banked_sp[spsel]
            self.spsel = spsel
        self.el = el
        pan = self.pstate_bits & pstate.PAN
        context = self.contexts[(3 if pan else 2) if el else 0]
        self.context = context
        self.reads = context.reads
        self.writes = context.writes
        self.blocks = {} if self.pstate_bits & pstate.IL else context.blocks
