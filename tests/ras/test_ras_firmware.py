# SPDX-License-Identifier: GPL-2.0-only
"""The client of the firmware port: where it looks for it, how it waits, what it says when there is none."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.firmware.port import NAME, PATH
from pytest_kvm_sea.hosts.contract import Host
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.ras import firmware as client
from pytest_kvm_sea.ras.firmware import BrokenTable, Firmware, FirmwareError
from pytest_kvm_sea.sim.host import SimHost


@dataclass
class FakePort:
    """A port whose reads and writes are scripted: bytes, or an errno."""

    reads: list[bytes | int]
    accepts: int = 1 << 20
    """Bytes that one write takes."""
    refusals: int = 0
    """Writes that find it full before one goes through."""
    written: bytes = b""
    closed: bool = False

    def read(self, _size: int = -1) -> bytes:
        item = self.reads.pop(0) if self.reads else errno.EAGAIN
        if isinstance(item, int):
            raise OSError(item, os.strerror(item))
        return item

    def write(self, data: bytes) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "full")
        taken = data[: self.accepts]
        self.written += taken
        return len(taken)

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeHost:
    """Files by path; an errno in place of a file."""

    files: dict[str, FakePort | bytes | int]
    opened: list[str] = field(default_factory=list)
    busy: int = 0

    def access(self, path: str, _mode: int) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def listdir(self, path: str) -> Sequence[str]:
        names = [each[len(path) + 1 :].partition("/")[0] for each in self.files if each.startswith(path)]
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return names

    def open(self, path: str, flags: int) -> FakePort:
        self.opened.append(path)
        file = self.files[path]
        if isinstance(file, int):
            raise OSError(file, os.strerror(file))
        if isinstance(file, bytes):
            return FakePort([file])
        assert flags & os.O_NONBLOCK, "a read must not wait for ever"
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return file


Make = Callable[..., Firmware]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A client of a host with these files."""
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.05)
    monkeypatch.setattr(client, "_PAUSE", 0.001)

    def make(host: FakeHost) -> Firmware:
        return Firmware(host)  # type: ignore[arg-type] # as much of a host as it uses

    return make


def test_a_request_in_pieces_and_an_answer_in_pieces(make: Make) -> None:
    port = FakePort([errno.EAGAIN, b'{"ok": tr', b'ue, "x": 7}\n'], accepts=5, refusals=2)
    assert make(FakeHost({PATH: port})).ask("about", y=1) == {"ok": True, "x": 7}
    assert json.loads(port.written) == {"op": "about", "y": 1}
    assert port.written.endswith(b"\n")
    assert port.closed


def test_without_the_link_the_port_is_found_by_its_name(make: Make) -> None:
    host = FakeHost(
        {
            f"{client.PORTS}/vport0p1/name": b"another\n",
            f"{client.PORTS}/vport0p2/name": f"{NAME}\n".encode(),
            "/dev/vport0p2": FakePort([b'{"ok": true}\n']),
        }
    )
    assert make(host).ask("about")["ok"]
    assert host.opened[-1] == "/dev/vport0p2"


def test_it_waits_for_whoever_has_the_port(make: Make) -> None:
    host = FakeHost({PATH: FakePort([b'{"ok": true}\n'])}, busy=3)
    assert make(host).ask("about")["ok"]
    assert len(host.opened) == 4


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (FakeHost({}), "No such file"),
        (FakeHost({f"{client.PORTS}/vport0p1/name": b"another\n"}), "No such file"),
        (FakeHost({PATH: errno.EACCES}), "Permission denied"),
        (FakeHost({PATH: FakePort([])}), "no answer within"),
        (FakeHost({PATH: FakePort([], refusals=1 << 20)}), "no answer within"),
        (FakeHost({PATH: FakePort([b""])}), "has gone"),
        (FakeHost({PATH: FakePort([])}, busy=1 << 20), "busy"),
        (FakeHost({PATH: FakePort([b'{"ok": false, "error": "no such table"}\n'])}), "refuses 'about': no such table"),
    ],
)
def test_what_can_go_wrong(make: Make, host: FakeHost, text: str) -> None:
    with pytest.raises(FirmwareError, match=text):
        make(host).ask("about")


def test_what_is_broken_is_remembered_until_it_is_repaired(make: Make) -> None:
    port = FakePort([b'{"ok": true, "id": 5, "level": 3}\n', b'{"ok": false, "error": "changed"}\n', b'{"ok": true}\n'])
    firmware = make(FakeHost({PATH: port}))
    table = firmware.break_table(HostPA(0x4000_0000))
    assert firmware.broken == [table] == [BrokenTable(HostPA(0x4000_0000), 5, 3)]
    with pytest.raises(FirmwareError, match="changed"):
        firmware.repair_all()
    assert firmware.broken == [table]
    firmware.repair_all()
    assert firmware.broken == []


def test_a_simulated_host_has_one() -> None:
    host: Host = SimHost(load_platform("ampereone"))
    operations = Firmware(host).ask("about")["operations"]
    assert {"break", "repair", "record", "einj-outcome", "einj-injections"} <= set(operations)
    with pytest.raises(FirmwareError, match="there are success, failed, invalid, timeout"):
        Firmware(host).set_einj_outcome("maybe")
    host.close()
