# SPDX-License-Identifier: GPL-2.0-only
"""The firmware behind the EINJ table: what it does with a request to inject an error (ACPI 6.5, 18.6).

Memory errors of the uncorrectable kinds become poison; whether an error is reported to the kernel at once, or waits
until somebody consumes it, is the trigger. What a machine does on a *fatal* error is not modelled: it is recorded,
poisons, and nobody panics.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.sim.physical import GRANULE

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

FLAG_APICID, FLAG_MEMORY, FLAG_SBDF, FLAG_EINJV2 = 1, 2, 4, 8
MEMORY_CE, MEMORY_UER, MEMORY_FATAL = 0x08, 0x10, 0x20
_UNCORRECTED = MEMORY_UER | MEMORY_FATAL


class Status(enum.Enum):
    """How the firmware ends a command (ACPI 6.5, table 18.31), or that it does not."""

    SUCCESS = "success"
    FAILED = "failed"
    """Unspecified failure, in practice: busy with another one."""
    INVALID = "invalid"
    """Invalid access: it does not like a parameter."""
    TIMEOUT = "timeout"
    """The busy bit never clears."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the kernel puts into SET_ERROR_TYPE_WITH_ADDRESS; without that action only ``type``."""

    type: int
    flags: int = 0
    """Which of the others are valid: FLAG_APICID, FLAG_MEMORY, FLAG_SBDF."""
    address: int = 0
    mask: int = 0
    apicid: int = 0
    sbdf: int = 0


@dataclass(slots=True)
class Injection:
    """One error that the firmware has taken on."""

    request: Request
    target: HostPA | None
    """The granule that was chosen; None for errors that are not in memory."""
    poisoned: bool
    triggered: bool = False
    offlined: bool = False
    """The error was reported, and memory_failure took the page out of service."""


class Firmware:
    """The firmware of one host."""

    def __init__(self, platform: Platform, physical: PhysicalMemory, process: Process) -> None:
        self._einj = platform.firmware.einj
        self._physical = physical
        self._process = process
        self.next_status = Status.SUCCESS
        """How the next commands end. For tests; with anything but SUCCESS nothing is injected."""
        self.injections: list[Injection] = []
        """All that were injected, in order."""

    def execute(self, request: Request) -> Status:
        """EXECUTE_OPERATION and the status that follows."""
        if self.next_status is not Status.SUCCESS:
            return self.next_status
        if not request.type & self._available:
            return Status.INVALID
        target = self._target(request)
        poisons = target is not None and self._einj.poisons and bool(request.type & _UNCORRECTED)
        if target is not None and poisons:
            self._physical.poison(target, GRANULE)
        self.injections.append(Injection(request, target, poisons))
        return Status.SUCCESS

    def trigger(self) -> None:
        """The TRIGGER_ERROR table: the last error injected becomes visible, and the kernel is told of it.

        Once per injection. The report is an asynchronous one: memory_failure takes the page out of service, and a
        process that uses it is not killed before it touches the page (vm.memory_failure_early_kill is 0).
        """
        if not self.injections or self.injections[-1].triggered:
            return
        injection = self.injections[-1]
        injection.triggered = True
        target = injection.target
        if target is None or not injection.poisoned:
            return
        if self._physical.is_ram(target) and not self._physical.is_offline(target):
            injection.offlined = target not in self._physical.map.kernel
            self._physical.log.hardware_error(target)
            if injection.offlined:
                self._physical.offline(target)

    @property
    def _available(self) -> int:
        return sum(set(self._einj.error_types))

    def _target(self, request: Request) -> HostPA | None:
        if not request.type & (MEMORY_CE | _UNCORRECTED):
            return None
        if request.flags & FLAG_MEMORY:
            return HostPA((request.address & request.mask) // GRANULE * GRANULE)
        # Nobody said where: the firmware takes a place of its own.
        return HostPA(self._physical.map.firmware.start)
