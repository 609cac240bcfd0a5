# SPDX-License-Identifier: GPL-2.0-only
"""What a scenario is made of: things to do to a VM, each with what is seen of it.

An observation is a mapping of names to texts and numbers as they are compared and written down; numbers as hexadecimal
texts. No address of the VMM is ever part of one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pytest_kvm_sea.addresses import GuestPA
from pytest_kvm_sea.uapi.registers import register_id
from pytest_kvm_sea.uapi.structures import UserspaceMemoryRegion
from pytest_kvm_sea.vmm.errors import GuestTimeoutError, RunError
from pytest_kvm_sea.vmm.exits import MmioExit, NisvExit, SeaExit, SystemEventExit, VmExit

if TYPE_CHECKING:
    from pytest_kvm_sea.agreement.machine import Machine

Observation: TypeAlias = "dict[str, str]"
STATE = ("pc", "pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1", "x0", "x1", "x2", "x3", "sp_el1", "sp_el0")
"""Registers that every look at the guest shows."""


class Step(Protocol):
    """One thing to do."""

    def do(self, machine: Machine) -> Observation:
        """Do it and say what was seen."""
        ...


def hexadecimal(value: int) -> str:
    return f"{value:#x}"


def attempt(call: Callable[[], object]) -> str:
    """`ok`, or the name of the errno."""
    try:
        call()
    except OSError as error:
        number = error.errno or 0
        return errno.errorcode.get(number, str(number))
    return "ok"


def _mmio(exit_: MmioExit) -> Observation:
    seen = {"exit": "MMIO", "address": hexadecimal(exit_.address), "size": str(exit_.size)}
    return seen | ({"write": exit_.data.hex()} if exit_.is_write else {"read": ""})


def _sea(exit_: SeaExit) -> Observation:
    fields = {"esr": exit_.esr, "flags": exit_.flags, "gva": exit_.gva, "gpa": exit_.gpa}
    return {"exit": "ARM_SEA"} | {name: hexadecimal(value) for name, value in fields.items()}


def describe(exit_: VmExit) -> Observation:
    """An exit as it is written down."""
    if isinstance(exit_, MmioExit):
        return _mmio(exit_)
    if isinstance(exit_, SeaExit):
        return _sea(exit_)
    if isinstance(exit_, NisvExit):
        return {"exit": "ARM_NISV", "iss": hexadecimal(exit_.esr_iss), "ipa": hexadecimal(exit_.fault_ipa)}
    if isinstance(exit_, SystemEventExit):
        return {"exit": "SYSTEM_EVENT", "type": str(exit_.type)}
    return {"exit": str(exit_)}


@dataclass(frozen=True, slots=True)
class Run:
    """KVM_RUN. A guest that goes on for ever is a result, too."""

    def do(self, machine: Machine) -> Observation:
        try:
            return describe(machine.vcpu.run())
        except RunError as error:
            return {"errno": errno.errorcode.get(error.errno, str(error.errno))}
        except GuestTimeoutError:
            return {"exit": "none"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an MMIO load is to find."""

    value: int

    def do(self, machine: Machine) -> Observation:
        machine.vcpu.answer_mmio(self.value.to_bytes(8, "little"))
        return {}


@dataclass(frozen=True, slots=True)
class Complete:
    """KVM_RUN with immediate_exit."""

    def do(self, machine: Machine) -> Observation:
        code = machine.vcpu.run_interrupted()
        return {"errno": errno.errorcode.get(code, str(code))}


@dataclass(frozen=True, slots=True)
class Events:
    """KVM_SET_VCPU_EVENTS with single bytes and the syndrome set."""

    bytes_at: dict[int, int] = field(default_factory=dict)
    esr: int = 0

    def do(self, machine: Machine) -> Observation:
        data = bytearray(64)
        data[8:16] = self.esr.to_bytes(8, "little")
        for offset, value in self.bytes_at.items():
            data[offset] = value
        events = machine.vm.revision.vcpu_events.from_buffer_copy(data)
        return {"result": attempt(lambda: machine.vcpu.set_events(events))}


SERROR, HAS_ESR, DABT = 0, 1, 2


def serror(esr: int | None = None) -> Events:
    """An SError, with a syndrome or without."""
    return Events({SERROR: 1}) if esr is None else Events({SERROR: 1, HAS_ESR: 1}, esr)


def abort() -> Events:
    """An external data abort."""
    return Events({DABT: 1})


def _events(data: bytes) -> str:
    """struct kvm_vcpu_events: what it has, and all of it where something else is not zero."""
    pending, has_esr, dabt = data[SERROR], data[HAS_ESR], data[DABT]
    text = f"serror={pending} has_esr={has_esr} dabt={dabt} esr={int.from_bytes(data[8:16], 'little'):#x}"
    return text if not any(data[3:8] + data[16:]) else f"{text} raw={data.hex()}"


@dataclass(frozen=True, slots=True)
class Look:
    """Registers and pending events."""

    def do(self, machine: Machine) -> Observation:
        seen = {name: hexadecimal(value) for name, value in machine.vcpu.registers(*STATE).items()}
        return seen | {"events": _events(bytes(machine.vcpu.get_events()))}


@dataclass(frozen=True, slots=True)
class GetReg:
    """KVM_GET_ONE_REG."""

    name: str

    def do(self, machine: Machine) -> Observation:
        values: list[int] = []
        result = attempt(lambda: values.append(machine.vcpu.get_reg(self.name)))
        return {"register": self.name, "result": result} | ({"value": hexadecimal(values[0])} if values else {})


@dataclass(frozen=True, slots=True)
class SetReg:
    """KVM_SET_ONE_REG."""

    name: str
    value: int

    def do(self, machine: Machine) -> Observation:
        result = attempt(lambda: machine.vcpu.set_reg(self.name, self.value))
        return {"register": self.name, "result": result}


@dataclass(frozen=True, slots=True)
class RawReg:
    """KVM_GET_ONE_REG of an id that is changed by some bits: errors only."""

    name: str
    change: int

    def do(self, machine: Machine) -> Observation:
        return {"result": attempt(lambda: machine.vcpu.get_reg_by_id(register_id(self.name) ^ self.change))}


@dataclass(frozen=True, slots=True)
class EnableCap:
    """KVM_ENABLE_CAP."""

    capability: int
    flags: int = 0

    def do(self, machine: Machine) -> Observation:
        return {"result": attempt(lambda: machine.vm.enable_cap(self.capability, flags=self.flags))}


@dataclass(frozen=True, slots=True)
class Slot:
    """KVM_SET_USER_MEMORY_REGION over spare memory of the VMM; ``offset`` is into that."""

    slot: int
    base: int
    size: int
    flags: int = 0
    offset: int = 0

    def do(self, machine: Machine) -> Observation:
        region = UserspaceMemoryRegion(self.slot, self.flags, self.base, self.size, machine.spare.address + self.offset)
        return {"result": attempt(lambda: machine.set_region(region))}


@dataclass(frozen=True, slots=True)
class Unmap:
    """The VMM unmaps memory that a memslot still points to."""

    def do(self, machine: Machine) -> Observation:
        machine.drop_spare()
        return {}


@dataclass(frozen=True, slots=True)
class Read:
    """Guest physical memory as the VMM sees it."""

    gpa: int
    size: int = 8

    def do(self, machine: Machine) -> Observation:
        return {"memory": bytes(machine.vm.memory.view(GuestPA(self.gpa), self.size)).hex()}
