# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host's end of the firmware port: what the emulated machine's firmware does, done to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.firmware.port import LONGEST, PATH, Operation, RequestError, answer, choice, number
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.sim.apei import Severity
from pytest_kvm_sea.sim.files import SimFile
from pytest_kvm_sea.sim.firmware import Status

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.firmware import Firmware
    from pytest_kvm_sea.sim.kvm.device import Machine
    from pytest_kvm_sea.sim.kvm.stage2 import Stage2

_PAGE_MASK = 0xFFF
_TABLE_SHIFT, _TABLE_LEVEL = 21, 3
_SHOWN = 8
_HUGE = {Backing.THP, Backing.HUGETLB_2M, Backing.HUGETLB_1G}


class FirmwarePort:
    """The firmware of one host, as it is reached by its port."""

    def __init__(self, machine: Machine, firmware: Firmware) -> None:
        self._machine = machine
        self._firmware = firmware
        self._broken: dict[int, tuple[Stage2, tuple[int, int]]] = {}
        self._next = 1

    @property
    def operations(self) -> dict[str, Operation]:
        """What can be asked for, by name."""
        found: dict[str, Operation] = {
            "about": self._about,
            "break": self._break,
            "repair": self._repair,
            "einj-outcome": self._einj_outcome,
            "einj-injections": self._einj_injections,
        }
        if self._firmware.apei.present:
            found |= {"record": self._record, "report": self._report, "scrub": self._scrub}
        return found

    def open(self, flags: int) -> SimFile:
        """Open the port."""
        return _PortFile(flags, self.operations)

    def _about(self, _request: Mapping[str, Any]) -> dict[str, object]:
        return {"operations": sorted(self.operations), "broken": len(self._broken)}

    def _break(self, request: Mapping[str, Any]) -> dict[str, object]:
        stage2, block = self._find(HostPA(number(request, "hpa") & ~_PAGE_MASK))
        identifier, self._next = self._next, self._next + 1
        self._broken[identifier] = (stage2, block)
        stage2.broken_tables[block] = _TABLE_LEVEL
        return {"id": identifier, "level": _TABLE_LEVEL}

    def _find(self, page: HostPA) -> tuple[Stage2, tuple[int, int]]:
        """The stage 2 that maps a page, and its level-3 table as `Stage2.broken_tables` names it."""
        if not self._machine.physical.is_ram(page):
            raise RequestError(f"{page:#x} is not in the machine's RAM")
        hva = self._machine.process.hva_of(page)
        found = []
        if hva is not None and not self._huge(hva):
            found = [
                (vm.stage2, (_TABLE_SHIFT, ipa >> _TABLE_SHIFT))
                for vm in self._machine.vms
                for ipa in vm.stage2.mapped(hva)
            ]
        if not found:
            raise RequestError(
                f"no stage-2 table maps {page:#x} by a page of 4 KiB; the guest must touch that page first"
            )
        if len(found) > 1:
            raise RequestError(f"more than one stage-2 table may map {page:#x}; nothing was changed")
        return found[0]

    def _huge(self, hva: int) -> bool:
        found = self._machine.process.resolve(hva)
        return found is not None and found[0].backing in _HUGE

    def _repair(self, request: Mapping[str, Any]) -> dict[str, object]:
        self._mend(self._identifier(request))
        return {}

    def _identifier(self, request: Mapping[str, Any]) -> int:
        identifier = number(request, "id")
        if identifier not in self._broken:
            raise RequestError(f"nothing is broken under the id {identifier}; broken are {sorted(self._broken)}")
        return identifier

    def _record(self, request: Mapping[str, Any]) -> dict[str, object]:
        address, identifier = HostPA(number(request, "hpa")), self._identifier(request)
        self._machine.apei.record = (address, lambda: self._mend(identifier))
        return {}

    def _report(self, request: Mapping[str, Any]) -> dict[str, object]:
        address = HostPA(number(request, "hpa"))
        self._firmware.apei.report(address, choice(request, "severity", Severity))
        return {}

    def _scrub(self, _request: Mapping[str, Any]) -> dict[str, object]:
        return {"pages": list(self._firmware.scrub())}

    def _mend(self, identifier: int) -> None:
        if identifier in self._broken:
            stage2, block = self._broken.pop(identifier)
            del stage2.broken_tables[block]

    def _einj_outcome(self, request: Mapping[str, Any]) -> dict[str, object]:
        self._firmware.next_status = choice(request, "outcome", Status)
        return {}

    def _einj_injections(self, _request: Mapping[str, Any]) -> dict[str, object]:
        return {
            "injections": [
                {
                    "type": injection.request.type,
                    "flags": injection.request.flags,
                    "address": injection.request.address,
                    "mask": injection.request.mask,
                    "placed": injection.poisoned,
                }
                for injection in self._firmware.injections[-_SHOWN:]
            ]
        }


class _PortFile(SimFile):
    """An open port: a line in, a line out (drivers/char/virtio_console.c)."""

    seekable = False

    def __init__(self, flags: int, operations: Mapping[str, Operation]) -> None:
        super().__init__(PATH, flags)
        self._operations = operations
        self._request = b""
        self._answers = b""

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002 - there are no positions
        *lines, self._request = (self._request + data).split(b"\n")
        for line in lines:
            self._answers += answer(line[:LONGEST], self._operations)
        return len(data)

    def read_at(self, size: int, offset: int) -> bytes:  # noqa: ARG002
        data, self._answers = self._answers[:size], self._answers[size:]
        return data
