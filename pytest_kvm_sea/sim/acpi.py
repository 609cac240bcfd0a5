# SPDX-License-Identifier: GPL-2.0-only
"""The EINJ table as the firmware hands it to the kernel and /sys/firmware/acpi/tables shows it (ACPI 6.5, 18.6.1)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Einj

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_EINJ = struct.Struct("<IB3xI")
_ENTRY = struct.Struct("<BBBxBBBBQQQ")
_SYSTEM_MEMORY, _BITS, _QWORD = 0, 64, 4
READ, READ_VALUE, WRITE, WRITE_VALUE = range(4)

# action: (instruction, offset of its register, value)
_ACTIONS: dict[int, tuple[int, int, int]] = {
    0x00: (WRITE_VALUE, 0x00, 1),  # BEGIN_INJECTION_OPERATION
    0x01: (READ, 0x08, 0),  # GET_TRIGGER_ERROR_ACTION_TABLE
    0x02: (WRITE, 0x10, 0),  # SET_ERROR_TYPE
    0x03: (READ, 0x18, 0),  # GET_ERROR_TYPE
    0x04: (WRITE_VALUE, 0x20, 1),  # END_OPERATION
    0x05: (WRITE_VALUE, 0x28, 1),  # EXECUTE_OPERATION
    0x06: (READ_VALUE, 0x30, 1),  # CHECK_BUSY_STATUS
    0x07: (READ, 0x38, 0),  # GET_COMMAND_STATUS
    0x08: (WRITE, 0x40, 0),  # SET_ERROR_TYPE_WITH_ADDRESS
}
_SET_WITH_ADDRESS = 0x08


def einj_table(einj: Einj, registers: int) -> bytes:
    """The table of a firmware whose EINJ registers are at physical address ``registers``."""
    entries = b"".join(
        _ENTRY.pack(action, instruction, 0, _SYSTEM_MEMORY, _BITS, 0, _QWORD, registers + offset, value, (1 << 64) - 1)
        for action, (instruction, offset, value) in _ACTIONS.items()
        if einj.parameters or action != _SET_WITH_ADDRESS
    )
    length = _HEADER.size + _EINJ.size + len(entries)
    body = _EINJ.pack(_EINJ.size, 0, len(entries) // _ENTRY.size) + entries

    def header(checksum: int) -> bytes:
        return _HEADER.pack(b"EINJ", length, 1, checksum, b"KVMSEA", b"SIMULATE", 1, b"KSEA", 1)

    return header(-sum(header(0) + body) & 0xFF) + body
