# SPDX-License-Identifier: GPL-2.0-only
"""The machine that gets our firmware, its table, and the process that is there as long as the machine is."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.firmware.equipment import TABLE_FILE, Equipment, equipment, equipped, table_archive
from pytest_kvm_sea.emulated.machine import MachineConfig
from pytest_kvm_sea.firmware import einj_table as tables
from pytest_kvm_sea.firmware.einj_table import Action, Instruction, Register

MACHINE = MachineConfig(
    kernel=Path("Image"), initrds=(b"root",), extra_initrd=(b"other",), memory=4, nvdimm_size=1, firmware=Path("EFI.fd")
)


def test_a_machine_without_firmware_is_left_alone() -> None:
    with equipped(MACHINE, firmware=False) as (machine, beside):
        assert machine is MACHINE
        assert beside is None


def test_the_machine_shares_its_memory(tmp_path: Path) -> None:
    shared = Equipment(tmp_path)
    machine = shared.fit(MACHINE)
    assert (machine.ram_file, machine.nvdimm_file) == (shared.ram, shared.registers)
    assert machine.acpi
    assert "init_on_free=1" in machine.append
    assert machine.extra_initrd == (table_archive(machine.nvdimm_base), b"other")
    command = machine.command(["qemu"], initrd=Path("initrd"), console=Path("console"), results=Path("results"))
    assert f"socket,id=firmware,path={shared.socket}" in command
    assert "virtserialport,chardev=firmware,name=org.pytest-kvm-sea.firmware" in command
    assert machine.nvdimm_base == 0x8000_0000


def entries(table: bytes) -> list[tuple[int, int, int, int, int]]:
    """Action, instruction, address, value and mask of each entry."""
    return [
        (entry[0], entry[1], entry[7], entry[8], entry[9])
        for entry in tables.ENTRY.iter_unpack(table[tables.HEADER.size + tables.EINJ_HEADER.size :])
    ]


def test_the_table_of_the_machine() -> None:
    archive = table_archive(0x8000_0000)
    assert archive.startswith(b"070701")
    assert archive.index(TABLE_FILE.encode()) < archive.index(b"EINJ\x70\x01\0\0")
    table = archive[archive.index(b"EINJ\x70\x01\0\0") :][:0x170]
    assert sum(table) % 256 == 0
    signature, length, _, _, oem, name, *_ = tables.HEADER.unpack_from(table)
    assert (signature, length, oem, name) == (b"EINJ", len(table), b"KVMSEA", b"EMULATED")
    assert struct.unpack_from("<IB3xI", table, 36) == (12, 0, 10)
    everything = (1 << 64) - 1
    assert entries(table) == [
        (0, 3, 0x8000_0000, 1, everything),
        (1, 0, 0x8000_0008, 0, everything),
        (2, 2, 0x8000_0010, 0, everything),
        (3, 0, 0x8000_0018, 0, everything),
        (4, 3, 0x8000_0020, 1, everything),
        (5, 3, 0x8000_0030, 1, everything),
        (5, 3, 0x8000_0028, 1, everything),
        (6, 1, 0x8000_0030, 1, everything),
        (7, 0, 0x8000_0038, 0, everything),
        (8, 2, 0x8000_0040, 0, everything),
    ]


def test_busy_is_set_before_the_command_starts() -> None:
    """Or else the kernel may look at BUSY before the firmware has seen the command, and take the last one's status."""
    steps = [step.register for step in tables.STEPS if step.action is Action.EXECUTE_OPERATION]
    assert steps == [Register.BUSY, Register.EXECUTE]


def test_registers_do_not_overlap() -> None:
    assert sorted(Register) == list(range(0, 9 * 8, 8))
    assert Register.ADDRESS + tables.ADDRESS_STRUCTURE.size < 0x1000
    assert Register.ADDRESS + tables.ADDRESS_STRUCTURE.size + 8 + 127 * 32 <= tables.V2_GET_TYPE
    assert {step.instruction for step in tables.STEPS if step.value == 0} == {Instruction.READ, Instruction.WRITE}


def test_the_process_is_there_as_long_as_the_machine() -> None:
    with equipment(MACHINE.memory) as shared:
        with shared.beside(MACHINE):
            assert (shared.ram.stat().st_size, shared.registers.stat().st_size) == (4 << 20, 1 << 20)
            with socket.socket(socket.AF_UNIX) as machine:
                machine.connect(str(shared.socket))
                machine.sendall(b'{"op": "about"}\n')
                assert json.loads(machine.recv(4096))["ok"]
        assert shared.directory.is_dir()
    assert not shared.directory.exists()


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    with pytest.raises(EmulationError, match="ended with 1") as caught, Equipment(directory).beside(MACHINE):
        pytest.fail("the machine is not to be started without its firmware")
    assert "AF_UNIX path too long" in caught.value.details
