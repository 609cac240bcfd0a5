# SPDX-License-Identifier: GPL-2.0-only
"""What happened in one test, as data: what the text of a failure and the page with the picture are made from.

`Story.as_json` is what travels: from a worker of xdist to the controller, and into the JSON lines. Values are texts
that are ready to be shown (addresses with 0x), because no reader calculates with them. Everything that comes out of the
guest is text that nobody has checked: whoever shows it escapes and cuts it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


class Lane(enum.Enum):
    """Who does something. In the order of the picture, from left to right."""

    GUEST = "guest"
    KVM = "kvm"
    """The host's kernel: KVM, EINJ's driver, memory_failure."""
    FIRMWARE = "firmware"
    """Of the host: EINJ, GHES; the memory itself."""
    VMM = "vmm"
    """This process."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step."""

    time: float
    """Seconds since the test began."""
    lane: str
    """Value of the `Lane` that acts."""
    to: str
    """Value of the `Lane` that it acts on; the same lane for what happens inside one."""
    title: str
    """A few words: `KVM_RUN`, `KVM_EXIT_ARM_SEA`, `echo 1 > error_inject`, `ucall SYNC(1)`."""
    facts: Sequence[tuple[str, str]] = ()
    """Name and value, addresses first: (gva, 0x81234b80)."""
    kind: str = ""
    """For colours and filters: run, exit, sea, einj, inject, vector, ucall, signal, setup, error."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a syndrome."""

    name: str
    bits: str
    """`31:26`, or `9`."""
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Syndrome:
    """A syndrome register, field by field."""

    register: str
    """`ESR_EL1`, or `arm_sea.esr`."""
    value: str
    fields: Sequence[Field] = ()
    summary: str = ""
    """All of it in one sentence."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A line of the code around the PC."""

    address: str
    word: str
    text: str
    is_pc: bool = False
    place: str = ""
    """In terms of the program, where it is known: `guest_code+0x10, g.read_u64(CELL)`."""


@dataclass(frozen=True, slots=True)
class Place:
    """One byte of memory by all its addresses; empty where one is not known."""

    gva: str = ""
    ipa: str = ""
    hva: str = ""
    hpa: str = ""
    what: str = ""
    """Why it matters: `poisoned by EINJ`, `reported by KVM_EXIT_ARM_SEA`."""


@dataclass(frozen=True, slots=True)
class Taint:
    """What the kernel's taint was before and after."""

    before: int
    after: int
    added: Sequence[str] = ()
    """`W (9): kernel issued warning`."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in one test."""

    target: str
    """`sim-ampereone-mainline`"""
    kernel: str = ""
    """uname -r of the host."""
    events: Sequence[Event] = ()
    places: Sequence[Place] = ()
    registers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By vCPU (`vCPU 0`) and name of the register; values as 0x with 16 digits."""
    code: Mapping[str, Sequence[Instruction]] = field(default_factory=dict)
    """By vCPU."""
    syndromes: Sequence[Syndrome] = ()
    expected: str = ""
    """What the test expected, in pytest's words: the last assertion."""
    console: Sequence[str] = ()
    """What the guest printed."""
    kernel_log: Sequence[str] = ()
    """The kernel's messages since the test began."""
    taint: Taint | None = None
    notes: Sequence[str] = ()
    """What was cut, and what could not be found out and why."""

    def as_json(self) -> dict[str, Any]:
        """All of it in types that JSON has."""
        return asdict(self)
