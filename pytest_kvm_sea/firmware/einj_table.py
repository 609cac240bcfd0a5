# SPDX-License-Identifier: GPL-2.0-only
"""An EINJ table, and the registers that it sends the kernel to (ACPI 6.5, 18.6).

The firmware waits for EXECUTE. The operation that starts it sets BUSY first, in the same go: from the kernel's first
look at BUSY until the firmware has acted and cleared it, the firmware is busy, however slow it is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

HEADER = struct.Struct("<4sIBB6s8sI4sI")
"""System description table header (ACPI 6.5, table 5.4)."""
EINJ_HEADER = struct.Struct("<IB3xI")
"""Length of this header, flags, number of entries (table 18.25)."""
ENTRY = struct.Struct("<BBBxBBBBQQQ")
"""Action, instruction, flags; register: space, bits, offset, access size, address; value, mask (table 18.27)."""
ADDRESS_STRUCTURE = struct.Struct("<IIIIQQI")
"""SET_ERROR_TYPE_WITH_ADDRESS: type, vendor extension, flags, APIC id, address, mask, PCIe SBDF (table 18.32)."""
_SYSTEM_MEMORY, _BITS, _QWORD = 0, 64, 4
_ALL = (1 << 64) - 1


class Action(enum.IntEnum):
    """Table 18.26."""

    BEGIN_OPERATION = 0x00
    GET_TRIGGER_TABLE = 0x01
    SET_ERROR_TYPE = 0x02
    GET_ERROR_TYPE = 0x03
    END_OPERATION = 0x04
    EXECUTE_OPERATION = 0x05
    CHECK_BUSY_STATUS = 0x06
    GET_COMMAND_STATUS = 0x07
    SET_ERROR_TYPE_WITH_ADDRESS = 0x08
    V2_GET_ERROR_TYPE = 0x11


class Instruction(enum.IntEnum):
    """Table 18.28."""

    READ = 0
    READ_VALUE = 1
    WRITE = 2
    WRITE_VALUE = 3


class Register(enum.IntEnum):
    """Offsets of the registers, 8 bytes each; ADDRESS is a structure, to which EINJv2 adds up to 127 components."""

    BEGIN = 0x00
    TRIGGER_TABLE = 0x08
    SET_TYPE = 0x10
    GET_TYPE = 0x18
    END = 0x20
    EXECUTE = 0x28
    BUSY = 0x30
    STATUS = 0x38
    ADDRESS = 0x40


V2_GET_TYPE = 0x1800
"""Offset of one more register, where there is EINJv2: behind the structure at ADDRESS with all its components."""


class CommandStatus(enum.IntEnum):
    """What STATUS says when the firmware is not busy any more (table 18.31)."""

    SUCCESS = 0
    FAILED = 1
    INVALID = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the table."""

    action: Action
    instruction: Instruction
    register: int
    value: int = 0


STEPS = (
    Step(Action.BEGIN_OPERATION, Instruction.WRITE_VALUE, Register.BEGIN, 1),
    Step(Action.GET_TRIGGER_TABLE, Instruction.READ, Register.TRIGGER_TABLE),
    Step(Action.SET_ERROR_TYPE, Instruction.WRITE, Register.SET_TYPE),
    Step(Action.GET_ERROR_TYPE, Instruction.READ, Register.GET_TYPE),
    Step(Action.END_OPERATION, Instruction.WRITE_VALUE, Register.END, 1),
    Step(Action.EXECUTE_OPERATION, Instruction.WRITE_VALUE, Register.BUSY, 1),
    Step(Action.EXECUTE_OPERATION, Instruction.WRITE_VALUE, Register.EXECUTE, 1),
    Step(Action.CHECK_BUSY_STATUS, Instruction.READ_VALUE, Register.BUSY, 1),
    Step(Action.GET_COMMAND_STATUS, Instruction.READ, Register.STATUS),
    Step(Action.SET_ERROR_TYPE_WITH_ADDRESS, Instruction.WRITE, Register.ADDRESS),
)
"""What the kernel is told to do; entries of one action are carried out in this order."""

V2_STEPS = (*STEPS, Step(Action.V2_GET_ERROR_TYPE, Instruction.READ, V2_GET_TYPE))
"""The same of a firmware that has EINJv2 (ACPI 6.6)."""


def einj_table(registers: int, steps: Iterable[Step] = STEPS, *, table_id: bytes = b"SIMULATE") -> bytes:
    """The table of a firmware whose registers begin at physical address ``registers``. ``table_id``: 8 bytes."""
    entries = b"".join(
        ENTRY.pack(
            step.action,
            step.instruction,
            0,
            _SYSTEM_MEMORY,
            _BITS,
            0,
            _QWORD,
            registers + step.register,
            step.value,
            _ALL,
        )
        for step in steps
    )
    length = HEADER.size + EINJ_HEADER.size + len(entries)
    body = EINJ_HEADER.pack(EINJ_HEADER.size, 0, len(entries) // ENTRY.size) + entries

    def header(checksum: int) -> bytes:
        return HEADER.pack(b"EINJ", length, 1, checksum, b"KVMSEA", table_id, 1, b"KSEA", 1)

    return header(-sum(header(0) + body) & 0xFF) + body
