# SPDX-License-Identifier: GPL-2.0-only
"""Virtual EL2: a vCPU whose guest is a hypervisor (arch/arm64/kvm/nested.c, emulate-nested.c, hyp/vhe/sysreg-sr.c).

As with FEAT_NV2 the guest hypervisor runs at the processor's EL1, and the processor's EL1 registers hold those of its
EL2. Its guest, L2, runs at the same EL1 with its own registers in them. KVM changes them over: at the hypervisor's
ERET, which traps, and when it gives an exception of L2 to the hypervisor. What traps for KVM's own reasons goes on as
ever.

Only with HCR_EL2.E2H, as KVM has it unless a VMM asks for KVM_ARM_VCPU_HAS_EL2_E2H0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.arm64.sysregs import SYSREGS, SysReg, encode, sysreg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.state import UNKNOWN_AT_RESET
from pytest_kvm_sea.sim.kvm.nested_stage2 import NestedStage2

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.bus import Bus
    from pytest_kvm_sea.cpu.cpu import Cpu

HCR_VM, HCR_AMO, HCR_TGE, HCR_HCD, HCR_E2H, HCR_TEA = 1 << 0, 1 << 5, 1 << 27, 1 << 29, 1 << 34, 1 << 37
HCRX_TMEA = 1 << 19

_NAMES = {
    name: name.replace("el1", "el2")
    for name in (
        *("sctlr_el1", "sctlr2_el1", "ttbr0_el1", "ttbr1_el1", "tcr_el1", "spsr_el1", "elr_el1", "afsr0_el1"),
        *("afsr1_el1", "esr_el1", "far_el1", "mair_el1", "amair_el1", "vbar_el1", "contextidr_el1"),
    )
} | {"cpacr_el1": "cptr_el2", "cntkctl_el1": "cnthctl_el2"}
"""What EL1 and EL2 both have, so that the processor's EL1 register holds now one, now the other."""
_EL2_OF = {sysreg(el1): sysreg(el2) for el1, el2 in _NAMES.items()}
_EL1_OF_EL2 = {el2: el1 for el1, el2 in _EL2_OF.items()}
_EL1_OF_EL12 = {SysReg(el1 | 5 << 11): el1 for el1 in _EL2_OF}
_OWN = tuple(
    reg for name, reg in SYSREGS.items() if name.endswith("_el2") and reg not in _EL1_OF_EL2 and name != "sp_el2"
)
"""What only EL2 has."""
_HCR, _HCRX, _HPFAR = sysreg("hcr_el2"), sysreg("hcrx_el2"), sysreg("hpfar_el2")
_VTTBR, _VTCR = sysreg("vttbr_el2"), sysreg("vtcr_el2")
_SP_EL1, _SP_EL2 = sysreg("sp_el1"), sysreg("sp_el2")
_ELR, _SPSR = sysreg("elr_el1"), sysreg("spsr_el1")
_SCTLR2 = sysreg("sctlr2_el1")
_SCTLR2_EASE = 1 << 5
_RESET = {
    sysreg("tcr_el1"): 0x8080_0000,
    sysreg("cpacr_el1"): 0x22FF,
}
"""What KVM resets EL2's to where that is not zero, by EL1's number (sys_regs.c)."""
_PFR0, _MMFR1, _MMFR4 = sysreg("id_aa64pfr0_el1"), sysreg("id_aa64mmfr1_el1"), sysreg("id_aa64mmfr4_el1")
_NI_NV1 = 0xE
"""ID_AA64MMFR4_EL1.E2H0: neither HCR_EL2.E2H = 0 nor NV1."""
_UNKNOWN = tuple(map(sysreg, ("vpidr_el2", "vmpidr_el2", "vsesr_el2", "vdisr_el2")))
_RES1 = {_HCR: HCR_E2H, sysreg("sctlr_el2"): 0x3050_0980}
"""Bits that KVM keeps set, in registers where that can be seen (measured on 7.3.4)."""
_HPFAR_NS = 1 << 63
_TLBI_CRN = 8
_SYNC, _SERROR = 0x000, 0x180
_MODE, _MODE_BITS = 0xF, 0x1F
_MODE_EL0T, _MODE_EL1T, _MODE_EL2T = 0x0, 0x4, 0x8


def show_el2(id_registers: dict[SysReg, int]) -> None:
    """What a guest's ID registers say of a virtual EL2 (nested.c limit_nv_id_reg): EL2 in AArch64, E2H for ever."""
    id_registers[_PFR0] = id_registers.get(_PFR0, 0) & ~(0xF << 8) | 1 << 8
    id_registers[_MMFR1] = id_registers.get(_MMFR1, 0) & ~(0xF << 8) | 1 << 8
    id_registers[_MMFR4] = id_registers.get(_MMFR4, 0) & ~(0xF << 24) | _NI_NV1 << 24


class Nested:
    """The virtual EL2 of one vCPU."""

    def __init__(self, cpu: Cpu, stage2: Bus) -> None:
        self._cpu = cpu
        self._stage2 = stage2
        self._shadow = NestedStage2(stage2)
        self._parked: dict[SysReg, int] = {}
        """Those of `_EL2_OF` that the processor does not hold: EL1's while the hypervisor runs, EL2's while L2 does."""
        self._parked_sp = 0
        self._own: dict[SysReg, int] = {}
        self.hypervisor = True
        """The processor holds EL2's registers (is_hyp_ctxt)."""
        self.reset()

    def reset(self) -> None:
        """After the reset of the processor, whose registers are EL1's then: EL2h, as KVM_ARM_VCPU_INIT leaves it."""
        cpu = self._cpu
        self._parked = {reg: cpu.sysregs[reg] for reg in _EL2_OF}
        self._parked_sp = 0
        cpu.sp_el1 = UNKNOWN_AT_RESET
        self._own = dict.fromkeys(_OWN, 0) | dict.fromkeys(_UNKNOWN, UNKNOWN_AT_RESET) | {_HCR: HCR_E2H}
        cpu.sysregs.update(dict.fromkeys(_EL2_OF, 0) | _RESET)
        self.hypervisor = cpu.nv = True
        self._load_stage2()

    def finalise(self) -> None:
        """Before the first KVM_RUN: bits that are RES1 appear (kvm_init_nv_sysregs)."""
        for reg in _RES1:
            self.put(reg, self.get(reg) or 0)

    # Where the vCPU is

    @property
    def hcr(self) -> int:
        return self._own[_HCR]

    @property
    def in_l2(self) -> bool:
        """The guest's guest runs (is_nested_ctxt)."""
        return not self.hypervisor

    def accepts(self, value: int) -> bool:
        """Whether PSTATE may be set to this."""
        return not value & ~_MODE & _MODE_BITS and value & _MODE in {0, *range(4, 6), *range(8, 10)}

    def set_pstate(self, value: int) -> None:
        """Go to an exception level, whatever the vCPU is in: the registers of its translation regime come along."""
        mode = value & _MODE
        self._change(hypervisor=mode >= _MODE_EL2T or (mode == _MODE_EL0T and bool(self.hcr & HCR_TGE)))
        self._cpu.pstate = value - (_MODE_EL2T - _MODE_EL1T) if mode >= _MODE_EL2T else value

    def _change(self, *, hypervisor: bool) -> None:
        if hypervisor == self.hypervisor:
            return
        cpu = self._cpu
        cpu.sysregs.update(self._swapped())
        cpu.sp_el1, self._parked_sp = self._parked_sp, cpu.sp_el1
        self.hypervisor = cpu.nv = hypervisor
        self._load_stage2()

    def _swapped(self) -> dict[SysReg, int]:
        """Park what the processor holds; what was parked."""
        parked = self._parked
        self._parked = {reg: self._cpu.sysregs[reg] for reg in _EL2_OF}
        return parked

    def _load_stage2(self) -> None:
        """L2 lives behind the hypervisor's stage 2, where that is on."""
        shadowed = self.in_l2 and self.hcr & HCR_VM
        if shadowed:
            self._shadow.load(self._own[_VTTBR], self._own[_VTCR])
        self._cpu.bus = self._shadow if shadowed else self._stage2
        self._cpu.invalidate_tlb()

    @property
    def shadow(self) -> NestedStage2 | None:
        """The hypervisor's stage 2, if the vCPU runs behind it."""
        return self._shadow if self._cpu.bus is self._shadow else None

    # Registers

    def locate(self, reg: SysReg) -> tuple[dict[SysReg, int], SysReg] | None:
        """Where the value of a register is kept that EL1 and EL2 have each, or EL2 alone; None for all others."""
        mine, parked = self._cpu.sysregs, self._parked
        if reg in _EL2_OF:
            return (parked if self.hypervisor else mine), reg
        if reg in _EL1_OF_EL2:
            return (mine if self.hypervisor else parked), _EL1_OF_EL2[reg]
        return (self._own, reg) if reg in self._own else None

    @property
    def sp_el1(self) -> int:
        return self._parked_sp if self.hypervisor else self._cpu.sp_el1

    @sp_el1.setter
    def sp_el1(self, value: int) -> None:
        if self.hypervisor:
            self._parked_sp = value
        else:
            self._cpu.sp_el1 = value

    @property
    def sp_el2(self) -> int:
        return self._cpu.sp_el1 if self.hypervisor else self._parked_sp

    @sp_el2.setter
    def sp_el2(self, value: int) -> None:
        if self.hypervisor:
            self._cpu.sp_el1 = value
        else:
            self._parked_sp = value

    def get(self, reg: SysReg) -> int | None:
        """The value of a register that this vCPU has because it has EL2, by the number that it is known by at EL2."""
        if reg in (_SP_EL1, _SP_EL2):
            return self.sp_el1 if reg == _SP_EL1 else self.sp_el2
        place = self.locate(_EL1_OF_EL12.get(reg, reg))
        return None if place is None else place[0][place[1]]

    def put(self, reg: SysReg, value: int) -> bool:
        """Write such a register; False where there is none."""
        if reg in (_SP_EL1, _SP_EL2):
            if reg == _SP_EL1:
                self.sp_el1 = value
            else:
                self.sp_el2 = value
            return True
        place = self.locate(_EL1_OF_EL12.get(reg, reg))
        if place is None:
            return False
        place[0][place[1]] = value | _RES1.get(reg, 0)
        # Whatever it was: a translation regime may have changed, or who owns EL0.
        self._load_stage2()
        return True

    # What traps

    def system_access(self, esr: int) -> bool:
        """An MRS, MSR or SYS of the hypervisor; False where it is UNDEFINED."""
        iss = esr & syndromes.ISS_MASK
        reg = encode(iss >> 20 & 3, iss >> 14 & 7, iss >> 10 & 15, iss >> 1 & 15, iss >> 17 & 7)
        number, cpu = iss >> 5 & 0x1F, self._cpu
        if reg >> 14 == 1:
            if reg >> 7 & 0xF != _TLBI_CRN:
                return False
            cpu.invalidate_tlb()
        elif reg == _SP_EL2:
            return False
        elif iss & 1:
            value = self.get(reg)
            if value is None:
                return False
            if number < len(cpu.x):
                cpu.x[number] = value
        elif not self.put(reg, cpu.x[number] if number < len(cpu.x) else 0):
            return False
        cpu.pc += 4
        return True

    def eret(self) -> None:
        """kvm_emulate_nested_eret: the ERET of the hypervisor."""
        cpu = self._cpu
        spsr, target = cpu.sysregs[_SPSR], cpu.sysregs[_ELR]
        cpu.monitor = None
        if not self.accepts(spsr) or (self.hcr & HCR_TGE and spsr & _MODE in {4, 5}):
            cpu.pstate_bits = spsr & (pstate.DAIF | pstate.PAN) | pstate.IL
            cpu.fk, cpu.fa = pstate.RAW, spsr >> 28 & 0xF
            cpu.enter_mode(cpu.el, cpu.spsel)
        else:
            self.set_pstate(spsr)
        cpu.pc = target

    # Exceptions for the hypervisor

    def takes_sea(self) -> bool:
        """Whether an abort of L2 is the hypervisor's (kvm_sea_target_is_el2)."""
        if self.hcr & (HCR_TGE | HCR_TEA):
            return True
        cpu = self._cpu
        return bool(cpu.el and cpu.pstate_bits & pstate.A and self._own[_HCRX] & HCRX_TMEA)

    def takes_serror(self, *, masked: bool) -> bool:
        """Whether an SError of L2 is the hypervisor's (kvm_serror_target_is_el2)."""
        if self.hcr & HCR_AMO:
            return True
        if not self._own[_HCRX] & HCRX_TMEA:
            return False
        return bool(self._cpu.pstate_bits & pstate.A) if self._cpu.el else masked

    def inject_sea(self, address: int, *, instruction: bool) -> None:
        """kvm_inject_nested_sea: L2's abort, to the hypervisor."""
        exception_class = EC.IABT_LOWER if instruction else EC.DABT_LOWER
        ease = self._parked[_SCTLR2] & _SCTLR2_EASE
        self.inject(_SERROR if ease else _SYNC, syndromes.syndrome(exception_class, syndromes.FSC_SEA), address)

    def inject_serror(self, iss: int) -> None:
        """kvm_inject_nested_serror."""
        self.inject(_SERROR, syndromes.syndrome(EC.SERROR, iss), None)

    def inject_stage2_fault(self, esr: int, status: int, far: int, ipa: int) -> None:
        """kvm_inject_s2_fault: the hypervisor's own stage 2 does not let L2 through.

        HPFAR_EL2 comes with the bit by which KVM marks an address as valid for itself (measured on 7.3.4).
        """
        self._own[_HPFAR] = ipa >> 12 << 4 | _HPFAR_NS
        self.inject(_SYNC, esr & ~syndromes.FSC_MASK | status, far)

    def inject(self, vector: int, esr: int, far: int | None) -> None:
        """Enter EL2, from wherever the vCPU is (kvm_inject_nested)."""
        before = self._cpu.pstate
        from_l2 = self.in_l2
        self._change(hypervisor=True)
        self._cpu.enter_exception(vector, esr, far, below=before if from_l2 else None)
