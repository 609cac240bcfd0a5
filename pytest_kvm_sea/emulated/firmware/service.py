# SPDX-License-Identifier: GPL-2.0-only
"""What the firmware does when it is asked: the operations of its port (docs/firmware.md)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.emulated.firmware import ghes, stage2
from pytest_kvm_sea.emulated.firmware.einj import EinjFirmware, Outcome
from pytest_kvm_sea.firmware.port import Operation, RequestError, choice, number

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm_sea.emulated.firmware.einj import Request
    from pytest_kvm_sea.emulated.firmware.ram import Ram

_PATIENCE = 2.0
"""Seconds to look again for. Tables of a VM that is gone are freed, and cleared, a moment later."""
_PAUSE = 0.05
_DRIVERS_PATIENCE = 0.5
"""einj.ko waits for 1 s at least."""
_FLAG_MEMORY, _UNCORRECTED = 0x2, 0x30
"""SET_ERROR_TYPE_WITH_ADDRESS: the address is valid; memory errors, uncorrectable and fatal."""
_U64 = (1 << 64) - 1
_SHOWN = 8
"""Injections in an answer: more would not fit into its line."""


class Service:
    """The firmware of one machine."""

    def __init__(self, ram: Ram, registers: Path | None = None, *, patience: float = _PATIENCE) -> None:
        """``registers``: the file with the registers of its EINJ table, if it has one."""
        self._ram = ram
        self._patience = patience
        self._broken: dict[int, stage2.Entry] = {}
        self._source: ghes.ErrorSource | None = None
        self._awaited: int | None = None
        self._broken_by_einj: list[stage2.Entry] = []
        self._next = 1
        self.operations: dict[str, Operation] = {
            "about": self._about,
            "break": self._break,
            "repair": self._repair,
            "record": self._record,
        }
        self.einj = None if registers is None else EinjFirmware(registers, self._place)
        if self.einj is not None:
            self.operations |= {
                "einj-outcome": self._einj_outcome,
                "einj-injections": self._einj_injections,
                "einj-mend": self._einj_mend,
            }

    def _about(self, _request: Mapping[str, Any]) -> dict[str, object]:
        return {"operations": sorted(self.operations), "broken": len(self._broken)}

    # Stage 2

    def _break(self, request: Mapping[str, Any]) -> dict[str, object]:
        """The stage-2 table that maps the page at ``hpa`` cannot be read any more; ``id`` is for the repair."""
        page = HostPA(number(request, "hpa") // stage2.PAGE * stage2.PAGE)
        try:
            entry = self._find(page, self._patience)
        except stage2.NotFound as error:
            raise RequestError(str(error)) from None
        identifier, self._next = self._next, self._next + 1
        self._broken[identifier] = entry
        stage2.break_entry(self._ram, entry)
        return {"id": identifier, "entry": entry.address, "was": entry.value, "level": entry.level}

    def _find(self, page: HostPA, patience: float) -> stage2.Entry:
        deadline = time.monotonic() + patience
        while True:
            try:
                return stage2.find_entry(self._ram, page)
            except stage2.NotFound as error:
                if not error.transient or time.monotonic() > deadline:
                    raise
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

    # GHES

    def _record(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Tell the kernel of a memory error at ``hpa``, and repair ``id`` as soon as it has read that."""
        address, identifier = HostPA(number(request, "hpa")), number(request, "id")
        if identifier not in self._broken:
            raise RequestError(f"nothing is broken under the id {identifier}; broken are {sorted(self._broken)}")
        try:
            self._source = self._source or ghes.find_source(self._ram)
        except IndexError as error:
            raise RequestError(str(error)) from None
        if self._source is None:
            raise RequestError("the machine has no error source that is notified by SEA (QEMU's ras=on)")
        self._awaited = identifier
        if address not in self._ram:
            raise RequestError(f"{address:#x} is not in the machine's RAM")
        ghes.record(self._ram, self._source, address, ~(stage2.PAGE - 1) & _U64)
        return {}

    def hurries(self) -> bool:
        """Whether the kernel may at any moment read a record, and walk tables that are to be repaired before."""
        return self._awaited is not None

    def step(self) -> None:
        """What is to be done unasked. To be called every few milliseconds, or all the time if it hurries."""
        if self.einj is not None:
            self.einj.step()
        if self._awaited is None or self._source is None:
            return
        if self._awaited not in self._broken or ghes.is_read(self._ram, self._source):
            entry = self._broken.pop(self._awaited, None)
            self._awaited = None
            # Not broken any more: the kernel has freed that table since, and there is nothing to repair.
            with contextlib.suppress(stage2.NotFound):
                if entry is not None:
                    stage2.repair_entry(self._ram, entry)

    # EINJ

    def _place(self, request: Request) -> int:
        """Break the stage-2 table that maps the page; no other error can be had on this machine. Raises NotFound."""
        if not request.type & _UNCORRECTED or not request.flags & _FLAG_MEMORY:
            raise stage2.NotFound("nothing breaks by an error that is corrected, or not in memory")
        page = HostPA(request.address & request.mask & ~(stage2.PAGE - 1))
        entry = self._find(page, min(self._patience, _DRIVERS_PATIENCE))
        self._broken_by_einj.append(entry)
        stage2.break_entry(self._ram, entry)
        return entry.level

    def _einj_mend(self, _request: Mapping[str, Any]) -> dict[str, object]:
        """Repair every table that EINJ broke. The kernel walks them to take a page away, and would not survive."""
        mended = len(self._broken_by_einj)
        while self._broken_by_einj:
            try:
                stage2.repair_entry(self._ram, self._broken_by_einj.pop())
            except stage2.NotFound as error:
                raise RequestError(str(error)) from None
        return {"mended": mended}

    def _einj_outcome(self, request: Mapping[str, Any]) -> dict[str, object]:
        """How EINJ's commands end from now on: `success`, `failed`, `invalid` or `timeout`."""
        assert self.einj is not None
        self.einj.outcome = choice(request, "outcome", Outcome)
        return {}

    def _einj_injections(self, _request: Mapping[str, Any]) -> dict[str, object]:
        """What was injected so far: type, flags, address and mask as the kernel asked, and what came of it."""
        assert self.einj is not None
        return {"injections": [injection.as_answer() for injection in self.einj.injections[-_SHOWN:]]}
