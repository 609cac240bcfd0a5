# SPDX-License-Identifier: GPL-2.0-only
"""What happens in a test while it happens: a line of raw facts per step, put into words only if somebody asks.

VMM, EINJ client and firmware client are given a `Trace` and add to it; it is always on in tests, so adding is one
append. What the facts of each kind of step are is said at `Step`, and they are what the step has at hand: numbers and
small frozen objects, nothing that keeps a VM alive.
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

FIRST, LAST = 400, 1600
"""How many steps are kept from the start, and how many up to the end; what is between is counted only."""
PLACES = 256


class Step(enum.Enum):
    """What was done. In brackets: the values that come with it."""

    VM = enum.auto()
    """A VM was made [IPA bits, revision]."""
    MEMSLOT = enum.auto()
    """[slot, IPA, size, host virtual address, read only, backing]"""
    CAPABILITY = enum.auto()
    """KVM_ENABLE_CAP [number, flags, whether it is the one that asks for SEA exits]."""
    VCPU = enum.auto()
    """A vCPU was made [entry]."""
    PROGRAM = enum.auto()
    """A program was loaded [entry, vectors]."""
    RUN = enum.auto()
    """KVM_RUN []"""
    EXIT = enum.auto()
    """KVM_RUN returned to the VMM [exit as `vmm.exits` has it, PC or None]."""
    INTERRUPTED = enum.auto()
    """KVM_RUN was interrupted and is called again []."""
    RUN_FAILED = enum.auto()
    """KVM_RUN failed [errno, PC]."""
    TIMEOUT = enum.auto()
    """[seconds, PC]"""
    UCALL = enum.auto()
    """The exit before it was one [the ucall as `guest.ucall` has it]."""
    EVENTS = enum.auto()
    """KVM_SET_VCPU_EVENTS [ext_dabt_pending, ext_iabt_pending, serror_pending, SError syndrome or None, errno,
    registers afterwards]"""
    REGISTERS = enum.auto()
    """The VMM took an exception for the guest by KVM_SET_ONE_REG [registers afterwards]."""
    WRITE = enum.auto()
    """To a file of EINJ [`ras.einj_files.Write`, error or None]."""
    POISONED = enum.auto()
    """MADV_HWPOISON [host virtual address]."""
    INJECTED = enum.auto()
    """EINJ says that it injected [host virtual or None, host physical address, error type, notrigger]."""
    FIRMWARE = enum.auto()
    """A request to the firmware [operation, arguments, answer or error]."""
    RETIRED = enum.auto()
    """A page went out of service, or did not [host physical address, how, error or None]."""


class Who(NamedTuple):
    """A VM by the order in which they were made, and one of its vCPUs."""

    vm: int
    vcpu: int | None = None


class Record(NamedTuple):
    """One step."""

    number: int
    """From 0; one that is left out was dropped."""
    time: float
    """Seconds since the trace began."""
    step: Step
    who: Who | None
    """What it is about."""
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of the same byte, as far as one look-up gave them."""

    gva: int | None = None
    ipa: int | None = None
    hva: int | None = None
    hpa: int | None = None


class Broken(NamedTuple):
    """Memory that must not be read any more, by the address that is known of it."""

    hva: int | None = None
    hpa: int | None = None
    ipa: int | None = None
    lsb: int = 0
    """Least significant bit of the address that counts, where the kernel has said so."""


class Trace:
    """The steps of one test, from any number of threads. The first and the last ones are kept."""

    enabled = True
    """Whether it is worth asking for values that only the trace wants."""

    def __init__(self) -> None:
        self._start = perf_counter()
        self._numbers = itertools.count()
        self._vms = itertools.count()
        self._first: list[Record] = []
        self._last: deque[Record] = deque(maxlen=LAST)
        self._places: list[Addresses] = []
        self.broken: set[Broken] = set()
        """Complete, however long the trace gets."""

    def next_vm(self) -> Who:
        """How the next VM is to be called."""
        return Who(next(self._vms))

    def add(self, step: Step, who: Who | None, *values: Any) -> None:
        """Note a step. Never raises."""
        number = next(self._numbers)
        kept = self._first if number < FIRST else self._last
        kept.append(Record(number, perf_counter() - self._start, step, who, values))

    def place(self, **addresses: int) -> None:
        """Note a translation: `gva` and `ipa`, `ipa` and `hva`, `hva` and `hpa` of one byte."""
        if len(self._places) < PLACES:
            self._places.append(Addresses(**addresses))

    def broke(self, *, hva: int | None = None, hpa: int | None = None, ipa: int | None = None, lsb: int = 0) -> None:
        """Note memory that has, or may have, an error in it."""
        self.broken.add(Broken(hva, hpa, ipa, lsb))

    def records(self) -> list[Record]:
        """All that is kept, in order."""
        return sorted([*self._first, *self._last], key=lambda record: record.number)

    @property
    def places(self) -> tuple[Addresses, ...]:
        """All translations that were looked up."""
        return tuple(self._places)

    @property
    def dropped(self) -> range:
        """The numbers of the steps that were not kept."""
        last = self._last
        return range(FIRST, last[0].number) if last else range(0)


class _NoTrace(Trace):
    """For whoever does not want one."""

    enabled = False

    def add(self, step: Step, who: Who | None, *values: Any) -> None:
        """Nothing is kept."""

    def place(self, **addresses: int) -> None:
        """Nothing is kept."""

    def broke(self, *, hva: int | None = None, hpa: int | None = None, ipa: int | None = None, lsb: int = 0) -> None:
        """Nothing is kept."""


NO_TRACE: Trace = _NoTrace()
