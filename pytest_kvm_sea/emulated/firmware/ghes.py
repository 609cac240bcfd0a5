# SPDX-License-Identifier: GPL-2.0-only
"""Report an error to the kernel's APEI: a record in the error status block of the source that is notified by SEA.

QEMU's `ras=on` makes the tables and reserves the blocks, in the machine's RAM; who writes there is the firmware. The
kernel looks at the block when an external abort comes (drivers/acpi/apei/ghes.c ghes_notify_sea), and clears it.
Layouts: ACPI 6.5, 18.3.2.8 (GHESv2) and 18.3.2.7.1 (error status block); UEFI 2.10, N.2.5 (memory error section).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA

if TYPE_CHECKING:
    from pytest_kvm_sea.emulated.firmware.ram import Ram

_SIGNATURE = b"HEST"
_HEADER_SIZE, _SOURCES_OFFSET, _LONGEST = 36, 40, 4096
_GHES_V2_TYPE, _GHES_V2_SIZE = 10, 92
_STATUS_ADDRESS, _NOTIFICATION, _ACKNOWLEDGE = 24, 32, 68
"""Offsets in a GHESv2 source: addresses in the generic addresses of the status block and the acknowledge register."""
_NOTIFIED_BY_SEA = 8
_RECOVERABLE = 0
_UNCORRECTABLE_ONE_ENTRY = 1 | 1 << 4
_STATUS = struct.Struct("<IIIII")
"""Block status, offset and length of raw data, length of data, severity."""
_ENTRY = struct.Struct("<16sIHBBI16s20sQ")
"""Section type, severity, revision, validation, flags, length, FRU id, FRU text, time stamp."""
_MEMORY = struct.Struct("<QQQQ48x")
"""Validation bits, error status, physical address, its mask; the rest is not valid."""
_MEMORY_SECTION = bytes.fromhex("1411bca5646fde4eb8633e83ed7c83b1")
_REVISION = 0x300
_ADDRESS_VALID = 2


@dataclass(frozen=True, slots=True)
class ErrorSource:
    """Where one source has its registers."""

    block: HostPA
    """The error status block."""
    acknowledge: HostPA
    """The kernel sets bit 0 when it has read the block."""


def find_source(ram: Ram) -> ErrorSource | None:
    """The source that is notified by SEA; None where the machine has no such table."""
    for address in ram.words(_SIGNATURE, 0):
        table = _table(ram, address)
        for start in range(_SOURCES_OFFSET, len(table) - _GHES_V2_SIZE + 1, _GHES_V2_SIZE):
            (kind,) = struct.unpack_from("<H", table, start)
            if kind == _GHES_V2_TYPE and table[start + _NOTIFICATION] == _NOTIFIED_BY_SEA:
                return _source(ram, table, start)
    return None


def _table(ram: Ram, address: HostPA) -> bytes:
    """The table that begins here, or nothing: the word occurs elsewhere, too."""
    length = ram.read_u64(address) >> 32
    if not _HEADER_SIZE < length <= _LONGEST or address + length not in ram:
        return b""
    table = ram.read(address, length)
    return b"" if sum(table) % 256 else table


def _source(ram: Ram, table: bytes, start: int) -> ErrorSource:
    (pointer,) = struct.unpack_from("<Q", table, start + _STATUS_ADDRESS)
    (acknowledge,) = struct.unpack_from("<Q", table, start + _ACKNOWLEDGE)
    block = HostPA(ram.read_u64(HostPA(pointer)))
    # Written to later, so looked at now.
    for address in (block, acknowledge):
        if address not in ram:
            raise IndexError(f"HEST names {address:#x}, which is not in the machine's RAM")
    return ErrorSource(block, HostPA(acknowledge))


def memory_record(address: HostPA, mask: int) -> bytes:
    """An error status block with one recoverable memory error."""
    section = _MEMORY.pack(_ADDRESS_VALID, 0, address, mask)
    entry = _ENTRY.pack(_MEMORY_SECTION, _RECOVERABLE, _REVISION, 0, 0, len(section), b"", b"", 0)
    status = _STATUS.pack(_UNCORRECTABLE_ONE_ENTRY, 0, 0, len(entry) + len(section), _RECOVERABLE)
    return status + entry + section


def is_read(ram: Ram, source: ErrorSource) -> bool:
    """Whether the kernel has read what was recorded, or nothing ever was."""
    return ram.read(source.block, 4) == bytes(4)


def record(ram: Ram, source: ErrorSource, address: HostPA, mask: int) -> None:
    """Put a memory error into the block; the kernel finds it at the next external abort."""
    block = memory_record(address, mask)
    ram.write_u64(source.acknowledge, ram.read_u64(source.acknowledge) & ~1)
    ram.write(HostPA(source.block + 4), block[4:])
    ram.write(source.block, block[:4])
