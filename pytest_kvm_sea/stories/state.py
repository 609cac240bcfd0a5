# SPDX-License-Identifier: GPL-2.0-only
"""How the vCPUs stand at the end of a test: registers, syndromes, the code around the PC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import syndrome_fields
from pytest_kvm_sea.arm64.disassembler import WORD, disassemble
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.reports.plain import plain
from pytest_kvm_sea.reports.story import Field, Instruction, Syndrome
from pytest_kvm_sea.stories.memory import BrokenMemory, SafeReader
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError

if TYPE_CHECKING:
    from pytest_kvm_sea.arm64.syndrome_fields import FieldValue
    from pytest_kvm_sea.vmm.vcpu import Vcpu

REGISTERS = (
    *(f"x{number}" for number in range(31)),
    "sp_el0",
    "sp_el1",
    "pc",
    "pstate",
    "elr_el1",
    "spsr_el1",
    "esr_el1",
    "far_el1",
    "vbar_el1",
    "sctlr_el1",
    "ttbr0_el1",
    "tcr_el1",
)
REGISTERS_EL2 = (
    "hcr_el2",
    "sp_el2",
    "elr_el2",
    "spsr_el2",
    "esr_el2",
    "far_el2",
    "vbar_el2",
    "sctlr_el2",
    "ttbr0_el2",
    "tcr_el2",
    "vttbr_el2",
    "vtcr_el2",
)
"""What a vCPU with a virtual EL2 has besides."""
NEVER_SET = 0x1DE7_EC7E_DBAD_C0DE
"""What KVM puts into registers that reset leaves unknown: no exception has set ESR_EL1 yet."""
BEFORE, AFTER = 5, 4
"""Instructions around the PC."""
_PLACE = 160


@dataclass(slots=True)
class State:
    """One vCPU."""

    registers: dict[str, int] = field(default_factory=dict)
    code: dict[str, list[Instruction]] = field(default_factory=dict)
    """By the register that says where: PC, and ELR_EL1 where an exception was taken from."""
    syndrome: Syndrome | None = None
    notes: list[str] = field(default_factory=list)


def look_at(vcpu: Vcpu, reader: SafeReader, name: str) -> State:
    """Read what can be read, and note what cannot. Raises nothing that a guest or a host can cause."""
    state = State()
    if vcpu.running:
        state.notes.append(f"{name} is still running: its registers cannot be read")
        return state
    try:
        state.registers = vcpu.registers(*REGISTERS, *(REGISTERS_EL2 if vcpu.el2 else ()))
    except OSError as error:
        state.notes.append(f"the registers of {name} cannot be read: {error.strerror}")
        return state
    pc, elr = state.registers["pc"], state.registers["elr_el1"]
    state.code["PC"] = _code(vcpu, reader, pc, f"{name}: PC", state.notes)
    if state.registers.get("esr_el2"):
        state.syndrome = decoded(f"ESR_EL2 of {name}", state.registers["esr_el2"])
    elif state.registers["esr_el1"] not in (NEVER_SET, 0):
        state.syndrome = decoded(f"ESR_EL1 of {name}", state.registers["esr_el1"])
        if not _shown(state.code["PC"], elr):
            state.code["ELR_EL1"] = _code(vcpu, reader, elr, f"{name}: ELR_EL1", state.notes)
    return state


def _shown(code: Sequence[Instruction], address: int) -> bool:
    return any(line.address == f"{address:#x}" for line in code)


def _code(vcpu: Vcpu, reader: SafeReader, at: int, what: str, notes: list[str]) -> list[Instruction]:
    """The instructions around an address, without those that cannot be read."""
    lines = []
    for address in range(max(at - BEFORE * WORD, 0), at + (AFTER + 1) * WORD, WORD):
        try:
            word = reader.word(GuestVA(address))
        except GuestMemoryAccessError:
            if address == at:
                notes.append(f"{what} is {at:#x}, and no code is mapped there")
        except BrokenMemory:
            if address == at:
                notes.append(f"{what} is {at:#x}, in a page that was broken: it was not read")
        else:
            (line,) = disassemble(word.to_bytes(WORD, "little"), address)
            place = vcpu.vm.program.locate(address) if vcpu.vm.program is not None else ""
            lines.append(Instruction(f"{address:#x}", f"{word:08x}", line.text, address == at, plain(place, _PLACE)))
    return lines


def decoded(register: str, value: int) -> Syndrome:
    """A syndrome, field by field."""
    fields = _fields(syndrome_fields.explain(value))
    return Syndrome(register, f"{value:#018x}", fields, syndrome_fields.summary(value))


def decoded_iss(register: str, value: int) -> Syndrome:
    """The ISS of a data abort by itself."""
    return Syndrome(register, f"{value:#x}", _fields(syndrome_fields.explain_iss(EC.DABT_LOWER, value)))


def _fields(fields: Sequence[FieldValue]) -> tuple[Field, ...]:
    return tuple(Field(each.name, each.bits, f"{each.value:#x}", each.meaning) for each in fields)


def shown(registers: Mapping[str, int]) -> dict[str, str]:
    """Registers as a story has them."""
    return {name: f"{value:#018x}" for name, value in registers.items()}
