# SPDX-License-Identifier: GPL-2.0-only
"""What the firmware does when it is asked: the operations of its port (docs/firmware.md)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.emulated.firmware import stage2
from pytest_kvm_sea.firmware.port import Operation, RequestError, number

if TYPE_CHECKING:
    from pytest_kvm_sea.emulated.firmware.ram import Ram

_PATIENCE = 2.0
"""Seconds to look again for. Tables of a VM that is gone are freed, and cleared, a moment later."""
_PAUSE = 0.05


class Service:
    """The firmware of one machine."""

    def __init__(self, ram: Ram, *, patience: float = _PATIENCE) -> None:
        self._ram = ram
        self._patience = patience
        self._broken: dict[int, stage2.Entry] = {}
        self._next = 1
        self.operations: dict[str, Operation] = {
            "about": self._about,
            "break": self._break,
            "repair": self._repair,
        }

    def _about(self, _request: Mapping[str, Any]) -> dict[str, object]:
        return {"operations": sorted(self.operations), "broken": len(self._broken)}

    def _break(self, request: Mapping[str, Any]) -> dict[str, object]:
        """The stage-2 table that maps the page at ``hpa`` cannot be read any more; ``id`` is for the repair."""
        page = HostPA(number(request, "hpa") // stage2.PAGE * stage2.PAGE)
        entry = self._find(page)
        identifier, self._next = self._next, self._next + 1
        self._broken[identifier] = entry
        stage2.break_entry(self._ram, entry)
        return {"id": identifier, "entry": entry.address, "was": entry.value}

    def _find(self, page: HostPA) -> stage2.Entry:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return stage2.find_entry(self._ram, page)
            except stage2.NotFound as error:
                if time.monotonic() > deadline:
                    raise RequestError(str(error)) from None
            time.sleep(_PAUSE)

    def _repair(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Put back what ``id`` broke."""
        identifier = number(request, "id")
        entry = self._broken.pop(identifier, None)
        if entry is None:
            raise RequestError(f"nothing is broken under the id {identifier}; broken are {sorted(self._broken)}")
        try:
            stage2.repair_entry(self._ram, entry)
        except stage2.NotFound as error:
            raise RequestError(str(error)) from None
        return {}
