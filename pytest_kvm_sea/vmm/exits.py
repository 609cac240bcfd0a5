# SPDX-License-Identifier: GPL-2.0-only
"""Why KVM_RUN returned, decoded from the shared page as the API revision lays it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.uapi.kvm import Exit as Reason
from pytest_kvm_sea.uapi.revisions import Revision
from pytest_kvm_sea.uapi.structures import KvmRun


@dataclass(frozen=True, slots=True)
class MmioExit:
    """KVM_EXIT_MMIO."""

    address: GuestPA
    size: int
    is_write: bool
    data: bytes
    """The ``size`` bytes that were stored; zeros for a load."""

    def __str__(self) -> str:
        direction = "store" if self.is_write else "load"
        return f"MMIO: {direction} of {self.size} bytes at {self.address:#x}"


@dataclass(frozen=True, slots=True)
class NisvExit:
    """KVM_EXIT_ARM_NISV: an access outside memory whose syndrome says too little to emulate it."""

    esr_iss: int
    fault_ipa: GuestPA

    def __str__(self) -> str:
        return f"ARM_NISV: esr_iss={self.esr_iss:#x} fault_ipa={self.fault_ipa:#x}"


@dataclass(frozen=True, slots=True)
class SeaExit:
    """KVM_EXIT_ARM_SEA: a synchronous external abort that the VMM is to deal with."""

    esr: int
    flags: int
    gva: GuestVA
    """Zero where it is not valid."""
    gpa: GuestPA
    """Zero where it is not valid."""
    gva_valid: bool
    gpa_valid: bool

    @property
    def far_valid(self) -> bool:
        """ESR.FnV is clear: the processor knows the address."""
        return not self.esr & syndromes.FNV

    @property
    def is_instruction_abort(self) -> bool:
        """The class decides what is to be injected."""
        return syndromes.ec(self.esr) == syndromes.EC.IABT_LOWER

    def __str__(self) -> str:
        return f"ARM_SEA: esr={self.esr:#x} flags={self.flags:#x} gva={self.gva:#x} gpa={self.gpa:#x}"


@dataclass(frozen=True, slots=True)
class MemoryFaultExit:
    """KVM_EXIT_MEMORY_FAULT, with which KVM_RUN fails (EFAULT): memory that KVM may not get at for the guest."""

    flags: int
    gpa: GuestPA
    size: int

    def __str__(self) -> str:
        return f"MEMORY_FAULT: flags={self.flags:#x} gpa={self.gpa:#x} size={self.size:#x}"


@dataclass(frozen=True, slots=True)
class SystemEventExit:
    """KVM_EXIT_SYSTEM_EVENT: the guest switched itself off, or reset."""

    type: int

    def __str__(self) -> str:
        return f"SYSTEM_EVENT: type {self.type}"


@dataclass(frozen=True, slots=True)
class SigbusExit:
    """Not an exit of KVM's: KVM_RUN was interrupted (EINTR) because the kernel sent SIGBUS."""

    signals: tuple[Sigbus, ...]

    def __str__(self) -> str:
        return "SIGBUS: " + ", ".join(f"si_code={s.code} si_addr={s.address:#x} lsb={s.lsb}" for s in self.signals)


@dataclass(frozen=True, slots=True)
class OtherExit:
    """An exit that has no meaning here."""

    reason: int

    def __str__(self) -> str:
        known = Reason(self.reason).name if self.reason in set(Reason) else "unknown"
        return f"exit reason {self.reason} ({known})"


VmExit: TypeAlias = "MmioExit | NisvExit | SeaExit | MemoryFaultExit | SystemEventExit | SigbusExit | OtherExit"


def _mmio(run: KvmRun) -> MmioExit:
    mmio = run.mmio
    data = bytes(mmio.data)[: min(mmio.len, 8)]
    return MmioExit(GuestPA(mmio.phys_addr), mmio.len, bool(mmio.is_write), data)


def _nisv(run: KvmRun) -> NisvExit:
    return NisvExit(run.arm_nisv.esr_iss, GuestPA(run.arm_nisv.fault_ipa))


def _memory_fault(run: KvmRun) -> MemoryFaultExit:
    fault = run.memory_fault
    return MemoryFaultExit(fault.flags, GuestPA(fault.gpa), fault.size)


def _system_event(run: KvmRun) -> SystemEventExit:
    return SystemEventExit(run.system_event.type)


_DECODERS: dict[int, Callable[[KvmRun], VmExit]] = {
    Reason.MMIO: _mmio,
    Reason.ARM_NISV: _nisv,
    Reason.MEMORY_FAULT: _memory_fault,
    Reason.SYSTEM_EVENT: _system_event,
}


def _sea(run: KvmRun, revision: Revision) -> SeaExit:
    sea = revision.arm_sea(run)
    if revision.flag_gva_valid is None:
        gva_valid = not sea.esr & syndromes.FNV
    else:
        gva_valid = bool(sea.flags & revision.flag_gva_valid)
    return SeaExit(
        esr=sea.esr,
        flags=sea.flags,
        gva=GuestVA(sea.gva),
        gpa=GuestPA(sea.gpa),
        gva_valid=gva_valid,
        gpa_valid=bool(sea.flags & revision.flag_gpa_valid),
    )


def decode_exit(run: KvmRun, revision: Revision) -> VmExit:
    """The exit that the shared page describes. Only the member of the union that belongs to the reason is read."""
    if run.exit_reason == revision.exit_arm_sea:
        return _sea(run, revision)
    decoder = _DECODERS.get(run.exit_reason)
    return OtherExit(run.exit_reason) if decoder is None else decoder(run)
