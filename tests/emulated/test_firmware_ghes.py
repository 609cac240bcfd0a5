# SPDX-License-Identifier: GPL-2.0-only
"""The error source in a HEST as QEMU makes it, and a record as the kernel's checks want it."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.emulated.firmware import ghes
from pytest_kvm_sea.emulated.firmware.ram import BASE, Ram
from pytest_kvm_sea.emulated.firmware.service import Service
from pytest_kvm_sea.firmware.port import answer

HEST_BY_QEMU_7_2 = bytes.fromhex(
    "4845535484000000014e424f434853204258504320202020010000004258504301000000010000000a000000ffff000101000000010000"
    "00000400000040000400"
    "00f17600000000081c000000000000000000000000000000000000000000000000000000040000004000040800f17600000000feffffff"
    "ffffffff0100000000000000"
)
"""With its registers at 0x76f10000: the address of the block, the acknowledge register 8 bytes on."""
REGISTERS, BLOCK = HostPA(BASE + 0x1000), HostPA(BASE + 0x1010)


def hest(*sources: bytes) -> bytes:
    """A table like that of QEMU, with these sources."""
    header = bytearray(HEST_BY_QEMU_7_2[:40])
    struct.pack_into("<I", header, 4, 40 + 92 * len(sources))
    struct.pack_into("<I", header, 36, len(sources))
    table = header + b"".join(sources)
    table[9] = (table[9] - sum(table)) % 256
    return bytes(table)


def source(notification: int = 8, kind: int = 10) -> bytes:
    """One source; 8: notified by SEA, 7: by GPIO."""
    one = bytearray(HEST_BY_QEMU_7_2[40:])
    struct.pack_into("<H", one, 0, kind)
    struct.pack_into("<Q", one, 24, REGISTERS)
    one[32] = notification
    struct.pack_into("<Q", one, 68, REGISTERS + 8)
    return bytes(one)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def ram(path: Path) -> Iterator[Ram]:
    opened = Ram(path)
    opened.write_u64(REGISTERS, BLOCK)
    opened.write_u64(HostPA(REGISTERS + 8), 1)
    yield opened
    opened.close()


def test_the_sample_is_a_table() -> None:
    assert len(HEST_BY_QEMU_7_2) == 0x84
    assert sum(HEST_BY_QEMU_7_2) % 256 == 0


@pytest.mark.parametrize("sources", [[source()], [source(7), source()], [source(), source(7)]])
def test_the_source_that_is_notified_by_sea_is_found(ram: Ram, sources: list[bytes]) -> None:
    ram.write(HostPA(BASE + 0x8000), b"HEST" + b"\x07" * 60)
    ram.write(HostPA(BASE + 0x9898), hest(*sources))
    assert ghes.find_source(ram) == ghes.ErrorSource(BLOCK, HostPA(REGISTERS + 8))


@pytest.mark.parametrize("table", [hest(), hest(source(7)), hest(source(kind=9)), hest(source())[:-1] + b"\x01"])
def test_no_such_source(ram: Ram, table: bytes) -> None:
    """None at all, another notification, a GHES without acknowledge register, a wrong checksum."""
    ram.write(HostPA(BASE + 0x9898), table)
    assert ghes.find_source(ram) is None


def test_the_record_as_the_kernel_reads_it(ram: Ram) -> None:
    """drivers/firmware/efi/cper.c cper_estatus_check, ghes.c ghes_handle_memory_failure."""
    found = ghes.ErrorSource(BLOCK, HostPA(REGISTERS + 8))
    assert ghes.is_read(ram, found)
    ghes.record(ram, found, HostPA(0x4567_8B80), 0xFFFF_FFFF_FFFF_F000)
    assert not ghes.is_read(ram, found)
    assert ram.read_u64(HostPA(REGISTERS + 8)) & 1 == 0
    status, raw_offset, raw_length, length, severity = struct.unpack("<5I", ram.read(BLOCK, 20))
    assert (status & 1, status >> 4 & 0x3FF, raw_offset, raw_length, severity) == (1, 1, 0, 0, 0)
    data = ram.read(HostPA(BLOCK + 20), length)
    assert uuid.UUID(bytes_le=data[:16]) == uuid.UUID("a5bc1114-6f64-4ede-b863-3e83ed7c83b1")
    section_severity, revision, _, _, section_length = struct.unpack_from("<IHBBI", data, 16)
    assert (section_severity, revision >> 8, section_length) == (0, 3, length - 72)
    assert section_length == 80
    valid, _, address, mask = struct.unpack_from("<4Q", data, 72)
    assert (valid, address, mask) == (2, 0x4567_8B80, 0xFFFF_FFFF_FFFF_F000)
    assert not any(data[72 + 32 :])


def test_the_table_is_repaired_when_the_record_has_been_read(ram: Ram, path: Path) -> None:
    page, table, pointer = HostPA(BASE + 0x1_2000), HostPA(BASE + 0x2_0000), HostPA(BASE + 0x3_0008)
    ram.write(HostPA(BASE + 0x9898), hest(source()))
    ram.write_u64(table, page | 0x7DB)
    ram.write_u64(pointer, table | 3)
    service = Service(Ram(path), patience=0)

    def ask(line: str) -> dict[str, object]:
        return dict(json.loads(answer(line.encode(), service.operations)))

    assert "nothing is broken" in str(ask('{"op": "record", "hpa": 1, "id": 1}')["error"])
    assert ask(f'{{"op": "break", "hpa": {page}}}')["id"] == 1
    assert ask(f'{{"op": "record", "hpa": {page}, "id": 1}}')["ok"]
    service.step()
    assert service.hurries()
    assert ram.read_u64(pointer) == 0x0B00_0003
    ram.write(BLOCK, bytes(4))
    service.step()
    assert not service.hurries()
    assert ram.read_u64(pointer) == table | 3
