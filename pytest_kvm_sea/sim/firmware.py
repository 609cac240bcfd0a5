# SPDX-License-Identifier: GPL-2.0-only
"""The firmware behind the EINJ table: what it does with a request to inject an error (ACPI 6.5, 18.6; EINJv2: 6.6).

Memory errors of the uncorrectable kinds become poison; whether an error is reported to the kernel at once, or waits
until somebody consumes it, is the trigger. What a machine does on a *fatal* error is not modelled: it is recorded,
poisons, and nobody panics. What a vendor's own types do, and what the syndromes of EINJv2's components mean, nobody
but the vendor knows: such a type is accepted and does nothing, the syndromes are recorded.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.platforms.model import EinjOutcome
from pytest_kvm_sea.sim.apei import Apei, Severity
from pytest_kvm_sea.sim.memory_failure import MemoryFailure
from pytest_kvm_sea.sim.physical import GRANULE

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

FLAG_APICID, FLAG_MEMORY, FLAG_SBDF, FLAG_EINJV2 = 1, 2, 4, 8
MEMORY_CE, MEMORY_UER, MEMORY_FATAL = 0x08, 0x10, 0x20
V2_MEMORY = 0x2
_VENDOR = 1 << 31
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


_ANSWERS = {
    EinjOutcome.FAILED: Status.FAILED,
    EinjOutcome.INVALID: Status.INVALID,
    EinjOutcome.TIMEOUT: Status.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class Component:
    """One of the parts of the machine that an EINJv2 error names: 16 bytes each, as the firmware gets them."""

    id: bytes
    syndrome: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What the kernel puts into SET_ERROR_TYPE_WITH_ADDRESS; without that action only ``type``."""

    type: int
    flags: int = 0
    """Which of the others are valid: FLAG_APICID, FLAG_MEMORY, FLAG_SBDF. FLAG_EINJV2: the type is one of EINJv2."""
    address: int = 0
    mask: int = 0
    apicid: int = 0
    sbdf: int = 0
    components: tuple[Component, ...] = ()

    @property
    def is_v2(self) -> bool:
        return bool(self.flags & FLAG_EINJV2) and not self.type & _VENDOR

    @property
    def is_memory(self) -> bool:
        """An error in memory, of any severity."""
        if self.is_v2:
            return bool(self.type & V2_MEMORY)
        return not self.type & _VENDOR and bool(self.type & (MEMORY_CE | _UNCORRECTED))

    @property
    def is_corrected(self) -> bool:
        return not self.is_v2 and not self.type & _UNCORRECTED


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
        self._outcome = self._einj.outcome
        self._physical = physical
        self.failure = MemoryFailure(physical, process)
        """What the kernel does with the memory that is reported to it."""
        self.apei = Apei(platform, self.failure, process)
        """Where the kernel reads the reports."""
        self.next_status = _ANSWERS.get(self._outcome, Status.SUCCESS)
        """How the next commands end. With anything but SUCCESS nothing is injected."""
        self.injections: list[Injection] = []
        """All that were injected, in order."""

    def execute(self, request: Request) -> Status:
        """EXECUTE_OPERATION and the status that follows."""
        if self.next_status is not Status.SUCCESS:
            return self.next_status
        if not self._offers(request):
            return Status.INVALID
        target = self._target(request)
        poisons = target is not None and self._outcome is not EinjOutcome.UNPOISONED and not request.is_corrected
        if target is not None and poisons:
            self._physical.poison(target, GRANULE)
        self.injections.append(Injection(request, target, poisons))
        if self._outcome is EinjOutcome.REPORTED:
            self.trigger()
        return Status.SUCCESS

    def trigger(self) -> None:
        """The TRIGGER_ERROR table: the last error injected becomes visible, and the kernel is told of it.

        Once per injection. The report is an asynchronous one: memory_failure takes the page out of service; a process
        that uses it is told when it touches the page, unless it wants to be told early.
        """
        if not self.injections or self.injections[-1].triggered:
            return
        injection = self.injections[-1]
        injection.triggered = True
        target = injection.target
        if target is None or not injection.poisoned:
            return
        before = self._physical.is_offline(target)
        self.apei.report(target, Severity.RECOVERABLE)
        injection.offlined = self._physical.is_offline(target) and not before

    def scrub(self) -> list[HostPA]:
        """The patrol scrubber has been through all of memory: every error that the kernel does not know is reported.

        The pages that were.
        """
        pages = dict.fromkeys(self._physical.page(granule) for granule in self._physical.poison_granules)
        unknown = [page for page in pages if self._physical.is_ram(page) and not self._physical.is_offline(page)]
        for page in unknown:
            self.apei.report(page, Severity.RECOVERABLE)
        return unknown

    def _offers(self, request: Request) -> bool:
        types = self._einj.v2_error_types if request.is_v2 else self._einj.error_types
        return (request.type & _VENDOR or request.type) in types

    def _target(self, request: Request) -> HostPA | None:
        if not request.is_memory:
            return None
        if request.flags & FLAG_MEMORY:
            return HostPA((request.address & request.mask) // GRANULE * GRANULE)
        # Nobody said where: the firmware takes a place of its own.
        return HostPA(self._physical.map.firmware.start)
