# SPDX-License-Identifier: GPL-2.0-only
"""The client of a firmware that plays along: errors in stage-2 tables, and what the firmware shall answer to EINJ.

An emulated machine has such a firmware, and so have the simulated hosts; no real server has one. It is asked over a
virtio-serial port (`firmware.port`).
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_kvm_sea.firmware.port import LONGEST, NAME, PATH
from pytest_kvm_sea.reports.trace import NO_TRACE, Step, Trace

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA
    from pytest_kvm_sea.hosts.contract import File, Host

ANSWER_TIMEOUT = 20.0
"""Seconds. A search through the memory of a machine takes less than one."""
PORTS = "/sys/class/virtio-ports"
_PAUSE = 0.01


class FirmwareError(Exception):
    """The firmware did not do what was asked, and says why; or it does not answer."""


@dataclass(slots=True)
class BrokenTable:
    """A stage-2 table that cannot be read."""

    page: HostPA
    """A page that it maps: what the firmware was told."""
    id: int
    level: int
    """The walk that cannot read it fails at this level: 3 for pages of 4 KiB, 2 for huge pages of 2 MiB."""


@dataclass(slots=True)
class Firmware:
    """The firmware of one host. Everything that it broke is to be repaired before the VM is closed (`repair_all`)."""

    host: Host
    broken: list[BrokenTable] = field(default_factory=list)
    trace: Trace = NO_TRACE

    def break_table(self, page: HostPA) -> BrokenTable:
        """Make the table unreadable by which stage 2 of some VM maps a page of this host.

        The guest must have touched the page. Whoever walks that table from now on, for a page that is in no TLB, runs
        into an external abort on the walk. Raises FirmwareError; nothing was broken then.
        """
        answer = self.ask("break", hpa=page)
        table = BrokenTable(page, int(answer["id"]), int(answer["level"]))
        self.broken.append(table)
        return table

    def repair(self, table: BrokenTable) -> None:
        """Make the table readable again. Raises FirmwareError."""
        self.ask("repair", id=table.id)
        self.broken.remove(table)

    def repair_all(self) -> None:
        """Everything that is still broken. KVM itself reads these tables to close the VM: it would not survive."""
        while self.broken:
            self.repair(self.broken[-1])

    def record(self, table: BrokenTable, page: HostPA) -> None:
        """Have the host's APEI claim the next external abort: as a memory error at ``page``. Raises FirmwareError.

        The table is repaired as soon as the kernel has read the record: it may walk it to take the page away.
        """
        self.ask("record", hpa=page, id=table.id)
        self.broken.remove(table)

    def report(self, page: HostPA, severity: str) -> None:
        """Have an asynchronous source of APEI report a memory error that nobody has consumed. Raises FirmwareError.

        ``severity``: `recoverable`, an uncorrected one, or `corrected`, one correction above the threshold.
        """
        self.ask("report", hpa=page, severity=severity)

    def scrub(self) -> list[HostPA]:
        """Have the patrol scrubber go through all of memory: pages with errors that the kernel did not know of.

        It is told of each, as by `report`. Raises FirmwareError.
        """
        return [HostPA(page) for page in self.ask("scrub")["pages"]]

    def set_einj_outcome(self, outcome: str) -> None:
        """How EINJ's commands end from now on: `success`, `failed`, `invalid`, `timeout`. Raises FirmwareError."""
        self.ask("einj-outcome", outcome=outcome)

    def einj_injections(self) -> list[dict[str, Any]]:
        """The last errors that the firmware took on, as it was told of them. Raises FirmwareError.

        type, flags, address, mask: SET_ERROR_TYPE_WITH_ADDRESS; placed: whether there is an error now.
        """
        return list(self.ask("einj-injections")["injections"])

    def einj_level(self) -> int | None:
        """The level of the stage-2 table that the last injection broke; None where it placed nothing."""
        injections = self.einj_injections()
        return injections[-1].get("level") if injections else None

    def mend_einj(self) -> None:
        """Repair what EINJ broke, where that is stage-2 tables. Raises FirmwareError."""
        self.ask("einj-mend")

    def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """One request, one answer. Raises FirmwareError."""
        request = json.dumps({"op": operation, **arguments}).encode() + b"\n"
        deadline = time.monotonic() + ANSWER_TIMEOUT
        try:
            with closing(_open(self.host, deadline)) as file:
                _write(file, request, deadline)
                reply = _read_line(file, deadline)
        except OSError as error:
            self.trace.add(Step.FIRMWARE, None, operation, arguments, {"ok": False, "error": str(error)})
            raise FirmwareError(f"the firmware port {NAME} cannot be used: {error.strerror}") from error
        answer = json.loads(reply)
        self.trace.add(Step.FIRMWARE, None, operation, arguments, answer)
        if not answer["ok"]:
            raise FirmwareError(f"the firmware refuses {operation!r}: {answer['error']}")
        return dict(answer)


def _open(host: Host, deadline: float) -> File:
    """The port serves one at a time: wait for whoever has it."""
    path = _locate(host)
    while True:
        try:
            return host.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def _locate(host: Host) -> str:
    """By the link that udev makes, or else by the names in sysfs. FileNotFoundError where there is no such port."""
    try:
        host.access(PATH, os.F_OK)
    except FileNotFoundError:
        for device in host.listdir(PORTS):
            with closing(host.open(f"{PORTS}/{device}/name", os.O_RDONLY)) as name:
                if name.read().decode().strip() == NAME:
                    return f"/dev/{device}"
        raise
    return PATH


def _write(file: File, data: bytes, deadline: float) -> None:
    while data:
        try:
            data = data[file.write(data) :]
        except BlockingIOError:
            _wait(deadline)


def _read_line(file: File, deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        try:
            part = file.read(LONGEST)
        except BlockingIOError:
            _wait(deadline)
            continue
        if not part:
            raise OSError(errno.EPIPE, "the firmware has gone")
        line += part
    return line


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {ANSWER_TIMEOUT:g} s")
    time.sleep(_PAUSE)
