# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions to EL1: entry and return, pending SErrors, and the instructions that generate exceptions."""

from __future__ import annotations

from typing import Final, NoReturn

from pytest_kvm_sea.arm64.esr import EC, ISS_MASK, syndrome
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.memory import Memory
from pytest_kvm_sea.cpu.state import (
    CPACR_EL1,
    DISR_EL1,
    ELR_EL1,
    ESR_EL1,
    FAR_EL1,
    SCTLR2_EL1,
    SCTLR2_NMEA,
    SCTLR_DSSBS,
    SCTLR_EL1,
    SCTLR_NTWE,
    SCTLR_NTWI,
    SCTLR_SPAN,
    SPSR_EL1,
    VBAR_EL1,
)
from pytest_kvm_sea.cpu.traps import GuestException, Trap, TrapTaken

_CURRENT_SPX: Final = 0x200
_LOWER_AARCH64: Final = 0x400
_SERROR_VECTOR: Final = 0x180
_CV_ALWAYS: Final = 1 << 24 | 0xE << 20
"""CV and COND of an instruction that is not conditional."""
_DISR_A: Final = 1 << 31
_FPEN_SHIFT: Final = 20


class Exceptions(Memory):
    """What changes the exception level."""

    __slots__ = ()

    def enter_exception(self, vector_offset_type: int, esr: int, far: int | None, *, below: int | None = None) -> None:
        """Take an exception to EL1 (Arm ARM, AArch64.TakeException; arch/arm64/kvm/hyp/exception.c).

        ``vector_offset_type`` is 0 synchronous, 0x80 IRQ, 0x100 FIQ, 0x180 SError. The preferred return address is the
        PC; a ``far`` of None leaves FAR_EL1 alone. ``below``: what PSTATE was in a lower exception level that this
        processor was in until now, though it is not the one that it seems to come from (nested virtualisation).
        """
        registers = self.sysregs
        registers[SPSR_EL1] = self.pstate if below is None else below
        registers[ELR_EL1] = self.pc
        registers[ESR_EL1] = esr
        if far is not None:
            registers[FAR_EL1] = far
        if not self.el or below is not None:
            vector_offset_type += _LOWER_AARCH64
        elif self.spsel:
            vector_offset_type += _CURRENT_SPX
        self.pc = registers[VBAR_EL1] + vector_offset_type & 0xFFFF_FFFF_FFFF_FFFF
        sctlr = registers[SCTLR_EL1]
        bits = self.pstate_bits & (pstate.DIT | pstate.PAN) | pstate.DAIF
        if self.features.pan and not sctlr & SCTLR_SPAN:
            bits |= pstate.PAN
        if self.features.ssbs and sctlr & SCTLR_DSSBS:
            bits |= pstate.SSBS
        self.pstate_bits = bits
        self.monitor = None
        self.enter_mode(1, 1)

    def _not_restored(self) -> int:
        """Bits of SPSR_EL1 that an exception return leaves alone: of what this processor does not have, and software
        step, which only debuggers ask for (Arm ARM, SetPSTATEFromPSR and DebugExceptionReturnSS)."""
        features = self.features
        absent = pstate.SS
        for present, bit in (
            (features.dit, pstate.DIT),
            (features.uao, pstate.UAO),
            (features.pan, pstate.PAN),
            (features.ssbs, pstate.SSBS),
        ):
            if not present:
                absent |= bit
        return absent

    def take_pending_serror(self) -> bool:
        """Take the virtual SError if one is pending and not masked. PC must be that of the next instruction."""
        if self.vserror is None:
            return False
        unmasked = self.features.ease and self.sysregs[SCTLR2_EL1] & SCTLR2_NMEA
        if self.pstate_bits & pstate.A and not unmasked:
            return False
        esr = syndrome(EC.SERROR, self.vserror & ISS_MASK)
        self.vserror = None
        self.enter_exception(_SERROR_VECTOR, esr, None)
        return True

    def after(self, pc: int) -> int:
        """The next PC after an instruction that may have unmasked an SError, or changed the context."""
        self.pc = pc
        self.take_pending_serror()
        return self.pc

    def undefined(self, pc: int = 0) -> NoReturn:
        """The instruction is UNDEFINED."""
        del pc
        raise GuestException(syndrome(EC.UNKNOWN))

    def require(self, feature: str) -> None:
        if not getattr(self.features, feature):
            self.undefined()

    def fp_simd(self, pc: int) -> NoReturn:
        """Allocated floating point and SIMD: trapped by CPACR_EL1.FPEN, else UNDEFINED, for none is executed."""
        fpen = self.sysregs[CPACR_EL1] >> _FPEN_SHIFT & 3
        if fpen in {0, 2} or (fpen == 1 and not self.el):
            raise GuestException(syndrome(EC.FP_ASIMD, _CV_ALWAYS))
        self.undefined(pc)

    def svc(self, immediate: int, pc: int) -> NoReturn:
        del pc
        raise GuestException(syndrome(EC.SVC64, immediate), skip=True)

    def hvc(self, immediate: int, pc: int) -> NoReturn:
        if not self.el:
            self.undefined(pc)
        raise TrapTaken(Trap(syndrome(EC.HVC64, immediate), 0, None), skip=True)

    def smc(self, immediate: int, pc: int) -> NoReturn:
        if not self.el:
            self.undefined(pc)
        raise TrapTaken(Trap(syndrome(EC.SMC64, immediate), 0, None))

    def brk(self, immediate: int, pc: int) -> NoReturn:
        del pc
        raise GuestException(syndrome(EC.BRK64, immediate))

    def wfi(self, pc: int) -> int:
        """Trapped to EL2, unless there is something to wake up for."""
        if not self.el and not self.sysregs[SCTLR_EL1] & SCTLR_NTWI:
            raise GuestException(syndrome(EC.WFX, _CV_ALWAYS))
        if self.vserror is not None:
            return pc + 4
        raise TrapTaken(Trap(syndrome(EC.WFX, _CV_ALWAYS), 0, None))

    def wfe(self, pc: int) -> int:
        """Does not wait, which the architecture allows; EL0 traps where SCTLR_EL1.nTWE says so."""
        if not self.el and not self.sysregs[SCTLR_EL1] & SCTLR_NTWE:
            raise GuestException(syndrome(EC.WFX, _CV_ALWAYS | 1))
        return pc + 4

    def esb(self, pc: int) -> int:
        """A pending SError that is masked is deferred to DISR_EL1; one that is not is taken."""
        if not self.features.ras:
            return pc + 4
        if self.vserror is not None and self.pstate_bits & pstate.A:
            self.sysregs[DISR_EL1] = _DISR_A | self.vserror & ISS_MASK
            self.vserror = None
        return self.after(pc + 4)

    def eret(self, pc: int) -> int:
        """Return from EL1. An SPSR with a mode that cannot be returned to sets PSTATE.IL (Arm ARM, D1.4.5)."""
        if not self.el:
            self.undefined(pc)
        if self.nv:
            raise TrapTaken(Trap(syndrome(EC.ERET), 0, None))
        spsr = self.sysregs[SPSR_EL1] & ~self._not_restored()
        target = self.sysregs[ELR_EL1]
        self.monitor = None
        if spsr & 0x1F not in pstate.MODES:
            mode = pstate.EL1T | self.spsel
            self.pstate = spsr & ~0x1F | pstate.IL | mode
        else:
            self.pstate = spsr
        if not self.pstate_bits & pstate.IL and self.ignores_top_byte(target):
            target = self.branch_address(target)
        return self.after(target)
