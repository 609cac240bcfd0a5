# SPDX-License-Identifier: GPL-2.0-only
"""How KVM puts exceptions into a vCPU (arch/arm64/kvm/inject_fault.c, hyp/exception.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.sim.kvm.s1walk import descriptor_level

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.sim.kvm.behaviour import Behaviour
    from pytest_kvm_sea.sim.kvm.fault import FaultInfo
    from pytest_kvm_sea.sim.kvm.nested import Nested
    from pytest_kvm_sea.sim.kvm.stage2 import Stage2

_ESR_EL1, _FAR_EL1, _SCTLR2_EL1 = sysreg("esr_el1"), sysreg("far_el1"), sysreg("sctlr2_el1")
_SYNC, _SERROR = 0x000, 0x180
_PSTATE_A = 1 << 8
_MODE_MASK = 0xF
_SCTLR2_NMEA, _SCTLR2_EASE = 1 << 2, 1 << 5
_SERROR_NO_SYNDROME = 1 << 24
"""kvm_inject_serror: an IMPLEMENTATION DEFINED syndrome (ISS.IDS) and nothing in it."""
SERROR_ISS_MASK = 0x1FF_FFFF


class Injector:
    """Puts exceptions into one vCPU."""

    def __init__(self, cpu: Cpu, behaviour: Behaviour, stage2: Stage2, fault: FaultInfo) -> None:
        self._cpu = cpu
        self._behaviour = behaviour
        self._stage2 = stage2
        self._fault = fault
        self.nested: Nested | None = None
        """The vCPU's virtual EL2, if it has one."""
        self._pending: int | None = None
        """Vector of an exception that is marked and not entered yet (kernels until 6.16)."""

    @property
    def pending(self) -> bool:
        """An exception is marked: an MMIO that waits for its completion is void."""
        return self._pending is not None

    def commit(self) -> bool:
        """Enter the marked exception, if there is one; tells whether there was."""
        vector, self._pending = self._pending, None
        if vector is None:
            return False
        self._cpu.enter_exception(vector, self._cpu.sysregs[_ESR_EL1], None)
        return True

    def sea(self, address: int, *, instruction: bool, iss: int = 0) -> bool:
        """kvm_inject_sea: an external abort at this address; False where KVM finds nothing to inject.

        ``iss``: bits that the VMM adds to the syndrome (the follow-up).
        """
        nested = self._owner()
        if nested is not None and nested.takes_sea():
            nested.inject_sea(address, instruction=instruction)
            return True
        status = self._abort_status(address)
        if status is None:
            return False
        esr = self._abort_class(instruction=instruction) | self._il() | status | iss
        if self._behaviour.injects_fnv and self._fault.esr & syndromes.FNV:
            esr |= syndromes.FNV
        self._pend(_SERROR if self._sctlr2(_SCTLR2_EASE) else _SYNC, esr, address)
        return True

    def size_fault(self, address: int, *, instruction: bool) -> None:
        """kvm_inject_size_fault: an address size fault at level 0, for an IPA beyond what the host has."""
        if self.sea(address, instruction=instruction):
            self._cpu.sysregs[_ESR_EL1] &= ~syndromes.FSC_MASK

    def undefined(self) -> None:
        """kvm_inject_undefined."""
        self._pend(_SYNC, EC.UNKNOWN << syndromes.EC_SHIFT | self._il(), None)

    def serror(self, syndrome: int | None = None) -> None:
        """kvm_inject_serror_esr: entered by software where it is not masked, else left to the virtual SError."""
        iss = _SERROR_NO_SYNDROME if syndrome is None else syndrome
        nested = self._owner()
        if nested is not None and nested.takes_serror(masked=self._serror_masked()):
            nested.inject_serror(iss)
            return
        if self._behaviour.immediate and not self._serror_masked():
            self._pend(_SERROR, EC.SERROR << syndromes.EC_SHIFT | self._il() | iss, None)
        else:
            self._cpu.vserror = iss & SERROR_ISS_MASK

    def retry_serror(self) -> None:
        """An SError that waits: where it belongs may have changed (nested.c kvm_nested_flush_hwstate and _sync_).

        Nothing waits that nobody could take: at EL2 HCR_EL2.AMO counts as 1 where TGE is 0, for E2H is 1.
        """
        if self.nested is None or not self._behaviour.routes_to_el2:
            return
        pending, self._cpu.vserror = self._cpu.vserror, None
        if pending is not None:
            self.serror(pending)

    def to_el2(self, esr: int) -> None:
        """kvm_inject_nested_sync: what trapped belongs to the guest hypervisor."""
        if self.nested is not None:
            self.nested.inject(_SYNC, esr, None)

    def _owner(self) -> Nested | None:
        """The guest hypervisor of a vCPU that runs its guest; None also where KVM does not ask it (until 6.16)."""
        if self.nested is not None and self.nested.in_l2 and self._behaviour.routes_to_el2:
            return self.nested
        return None

    def _abort_status(self, address: int) -> int | None:
        """The status code: that of the failed stage-1 walk, if it was one."""
        if not (self._behaviour.s1ptw_level and self._fault.esr & syndromes.S1PTW):
            return syndromes.FSC_SEA
        if self._fault.ipa is None:
            return None
        level = descriptor_level(self._cpu, self._stage2, address, self._fault.ipa)
        return None if level is None else syndromes.fsc_sea_walk(level)

    def _abort_class(self, *, instruction: bool) -> int:
        lower = self._cpu.pstate & _MODE_MASK == 0
        if instruction:
            exception_class = EC.IABT_LOWER if lower else EC.IABT_CURRENT
        else:
            exception_class = EC.DABT_LOWER if lower else EC.DABT_CURRENT
        return exception_class << syndromes.EC_SHIFT

    def _il(self) -> int:
        """The IL bit: always set since 7.2, before that copied from the last trap."""
        if self._behaviour.il_from_last_trap:
            return self._fault.esr & syndromes.IL
        return syndromes.IL

    def _serror_masked(self) -> bool:
        return bool(self._cpu.pstate & _PSTATE_A) and not self._sctlr2(_SCTLR2_NMEA)

    def _sctlr2(self, bit: int) -> bool:
        return self._behaviour.ease and bool(self._cpu.sysregs.get(_SCTLR2_EL1, 0) & bit)

    def _pend(self, vector: int, esr: int, far: int | None) -> None:
        self._cpu.sysregs[_ESR_EL1] = esr
        if far is not None:
            self._cpu.sysregs[_FAR_EL1] = far
        self._pending = vector
