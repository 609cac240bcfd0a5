# SPDX-License-Identifier: GPL-2.0-only
"""The firmware process: its registers as the kernel's driver uses them, its port, its end."""

from __future__ import annotations

import json
import mmap
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.emulated.firmware.__main__ import serve
from pytest_kvm_sea.emulated.firmware.ram import BASE, Ram
from pytest_kvm_sea.emulated.firmware.service import Service
from pytest_kvm_sea.firmware.einj_table import ADDRESS_STRUCTURE, CommandStatus, Register
from pytest_kvm_sea.firmware.port import answer

PAGE, TABLE, POINTER = HostPA(BASE + 0x1_2000), HostPA(BASE + 0x2_0000), HostPA(BASE + 0x3_0008)
MEMORY_CE, MEMORY_UER, FLAG_MEMORY = 0x08, 0x10, 2


class Driver:
    """What einj.ko does with the registers, step by step (drivers/acpi/apei/einj-core.c __einj_error_inject)."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.registers = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def read(self, register: Register) -> int:
        return int.from_bytes(self.registers[register : register + 8], "little")

    def write(self, register: Register, value: int) -> None:
        self.registers[register : register + 8] = value.to_bytes(8, "little")

    def execute(self, kind: int, address: int, flags: int = FLAG_MEMORY) -> None:
        """Up to the first look at BUSY."""
        self.write(Register.BEGIN, 1)
        ADDRESS_STRUCTURE.pack_into(self.registers, Register.ADDRESS, kind, 0, flags, 0, address, -4096 % (1 << 64), 0)
        self.write(Register.BUSY, 1)
        self.write(Register.EXECUTE, 1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Memory of a machine in which stage 2 maps one page, and the file with the registers."""
    ram, registers = tmp_path / "ram", tmp_path / "registers"
    for path in (ram, registers):
        path.write_bytes(bytes(1 << 20))
    with ram.open("r+b") as file:
        file.seek(TABLE - BASE)
        file.write((PAGE | 0x7DB).to_bytes(8, "little"))
        file.seek(POINTER - BASE)
        file.write((TABLE | 3).to_bytes(8, "little"))
    return ram, registers


@pytest.fixture
def service(files: tuple[Path, Path]) -> Service:
    return Service(Ram(files[0]), files[1], patience=0)


@pytest.fixture
def driver(files: tuple[Path, Path], service: Service) -> Driver:
    return Driver(files[1])


def ask(service: Service, operation: str, **arguments: object) -> dict[str, Any]:
    line = answer(json.dumps({"op": operation, **arguments}).encode(), service.operations)
    found: dict[str, Any] = json.loads(line)
    return found


def step(service: Service) -> bool:
    assert service.einj is not None
    return service.einj.step()


def test_break_and_repair(service: Service, files: tuple[Path, Path]) -> None:
    before = files[0].read_bytes()
    reply = ask(service, "break", hpa=PAGE + 0x123)
    assert (reply["ok"], reply["entry"], reply["was"]) == (True, POINTER, TABLE | 3)
    assert files[0].read_bytes() != before
    assert ask(service, "about")["broken"] == 1
    assert not ask(service, "break", hpa=PAGE)["ok"]
    assert ask(service, "repair", id=reply["id"])["ok"]
    assert files[0].read_bytes() == before
    assert "nothing is broken under the id" in ask(service, "repair", id=reply["id"])["error"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"garbage", "not JSON"),
        (b"[1]", "must be an object"),
        (b"{}", "unknown operation None; there are about, break, einj-"),
        (b'{"op": "break"}', "hpa is None; it must be a number"),
        (b'{"op": "break", "hpa": true}', "hpa is True"),
        (b'{"op": "break", "hpa": -1}', "hpa is -1"),
        (b'{"op": "break", "hpa": 0}', "not in the machine's RAM"),
        (b'{"op": "einj-outcome", "outcome": "maybe"}', "there are success, failed, invalid, timeout"),
    ],
)
def test_wrong_requests_are_answered(service: Service, line: bytes, error: str) -> None:
    reply = json.loads(answer(line, service.operations))
    assert not reply["ok"]
    assert error in reply["error"]


def test_nothing_happens_before_execute(service: Service, driver: Driver) -> None:
    assert not step(service)
    assert driver.read(Register.GET_TYPE) == 0x38
    assert driver.read(Register.TRIGGER_TABLE) == 0


@pytest.mark.parametrize(
    ("outcome", "busy", "status"),
    [
        ("success", 0, CommandStatus.SUCCESS),
        ("failed", 0, CommandStatus.FAILED),
        ("invalid", 0, CommandStatus.INVALID),
        ("timeout", 1, CommandStatus.SUCCESS),
    ],
)
def test_outcomes(service: Service, driver: Driver, outcome: str, busy: int, status: int) -> None:
    assert ask(service, "einj-outcome", outcome=outcome)["ok"]
    driver.execute(MEMORY_UER, 0x5000_0000)
    assert driver.read(Register.BUSY) == 1
    assert step(service)
    assert (driver.read(Register.BUSY), driver.read(Register.STATUS)) == (busy, status)
    assert not step(service)
    told = ask(service, "einj-injections")["injections"]
    for each in told:
        assert "not in the machine's RAM" in each.pop("obstacle")
    expected = {"type": MEMORY_UER, "flags": FLAG_MEMORY, "address": 0x5000_0000, "mask": -4096 % (1 << 64)}
    assert told == ([{**expected, "placed": False, "level": None}] if outcome == "success" else [])


def test_a_time_out_does_not_last(service: Service, driver: Driver) -> None:
    ask(service, "einj-outcome", outcome="timeout")
    driver.execute(MEMORY_UER, PAGE)
    step(service)
    ask(service, "einj-outcome", outcome="success")
    assert driver.read(Register.BUSY) == 1
    driver.execute(MEMORY_UER, 0x5000_0000)
    step(service)
    assert driver.read(Register.BUSY) == 0


def test_an_error_in_a_mapped_page_breaks_its_table(service: Service, driver: Driver, files: tuple[Path, Path]) -> None:
    before = files[0].read_bytes()
    driver.execute(MEMORY_UER, PAGE + 0x40)
    step(service)
    assert ask(service, "einj-injections")["injections"][-1]["level"] == 3
    offset = POINTER - BASE
    assert files[0].read_bytes()[offset : offset + 8] == bytes.fromhex("0300000b00000000")
    assert ask(service, "einj-mend") == {"ok": True, "mended": 1}
    assert files[0].read_bytes() == before
    assert ask(service, "einj-mend") == {"ok": True, "mended": 0}


def test_what_is_ambiguous_is_refused(service: Service, driver: Driver, files: tuple[Path, Path]) -> None:
    with files[0].open("r+b") as file:
        file.seek(0x4_0008)
        file.write((TABLE | 3).to_bytes(8, "little"))
    before = files[0].read_bytes()
    driver.execute(MEMORY_UER, PAGE)
    step(service)
    assert (driver.read(Register.BUSY), driver.read(Register.STATUS)) == (0, CommandStatus.FAILED)
    assert ask(service, "einj-injections")["injections"] == []
    assert files[0].read_bytes() == before


@pytest.mark.parametrize(("kind", "flags"), [(MEMORY_CE, FLAG_MEMORY), (MEMORY_UER, 0)])
def test_what_breaks_nothing(service: Service, driver: Driver, files: tuple[Path, Path], kind: int, flags: int) -> None:
    """A corrected error, and one without an address."""
    before = files[0].read_bytes()
    driver.execute(kind, PAGE, flags)
    step(service)
    assert not ask(service, "einj-injections")["injections"][-1]["placed"]
    assert files[0].read_bytes() == before


@pytest.fixture
def machine(service: Service) -> Iterator[socket.socket]:
    """The machine's end of the port of a firmware that runs."""
    inside, outside = socket.socketpair()
    thread = threading.Thread(target=serve, args=(service, outside))
    thread.start()
    with inside:
        inside.settimeout(5)
        yield inside
    thread.join(5)
    outside.close()
    assert not thread.is_alive()


def test_the_port_takes_pieces_and_heaps(machine: socket.socket) -> None:
    machine.sendall(b'{"op": "ab')
    machine.sendall(b'out"}\n{"op": "about"}\n')
    replies = machine.makefile("rb")
    assert [json.loads(replies.readline())["ok"] for _ in range(2)] == [True, True]


def test_registers_are_looked_at_without_being_asked(machine: socket.socket, driver: Driver) -> None:
    driver.execute(MEMORY_UER, PAGE)
    for _ in range(500):
        if not driver.read(Register.BUSY):
            break
        threading.Event().wait(0.01)
    assert driver.read(Register.BUSY) == 0
    machine.sendall(b'{"op": "einj-mend"}\n')
    assert json.loads(machine.recv(4096)) == {"ok": True, "mended": 1}
