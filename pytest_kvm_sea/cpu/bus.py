# SPDX-License-Identifier: GPL-2.0-only
"""What lies behind stage 1 of the processor: the contract between the CPU and whoever gives it memory.

The CPU translates a virtual address by its own stage 1 and then asks the bus for the page at the intermediate physical
address (IPA). The bus is stage 2 and memory in one; it answers with the page, with a stage-2 fault, or with an external
abort. The CPU turns faults into syndromes (Arm ARM D24.2.40, ESR_EL2) and hands them to whoever runs it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1


class Access(enum.Enum):
    """What an access is made for."""

    READ = "read"
    WRITE = "write"
    FETCH = "fetch"
    WALK = "walk"
    """A read of a stage-1 descriptor by the table walker."""


class Stage2Fault(Exception):
    """Stage 2 does not let the access through. Always taken to EL2."""

    def __init__(self, fsc: int) -> None:
        super().__init__(f"stage-2 fault, status code {fsc:#04x}")
        self.fsc = fsc
        """Fault status code with its level, e.g. 0x07 translation fault level 3, 0x0f permission fault level 3."""


class ExternalAbort(Exception):
    """The memory system answered the access with an error (poison, or nothing there)."""

    def __init__(
        self,
        *,
        parity: bool = False,
        walk_level: int | None = None,
        severity: int = 0,
        external: bool = False,
        source: int | None = None,
    ) -> None:
        super().__init__("external abort")
        self.source = source
        """Whatever the bus knows of where it came from; handed on in the `Trap`."""
        self.parity = parity
        """Parity or ECC error: status codes 0x18, 0x1c+level in place of 0x10, 0x14+level."""
        self.walk_level = walk_level
        """Not None: the descriptor that could not be read was one of *stage 2*, at this level."""
        self.severity = severity
        """ESR.SET, bits 12:11: 0 recoverable, 2 uncontainable, 3 restartable. Zero without FEAT_RAS."""
        self.external = external
        """ESR.EA, bit 9."""


class Page(NamedTuple):
    """A 4 KiB page of memory as the bus gives it."""

    view: memoryview
    """4096 bytes, format 'B'."""
    stable: bool
    """True: until the next `Cpu.invalidate_tlb` every access of this kind to this page succeeds: it may stay in a TLB.
    False (the page holds poison): `Bus.check` must be asked before every access."""
    writable: bool = True
    """False: writes must be asked for by ``page(ipa, Access.WRITE)`` and will fault."""


class Bus(Protocol):
    """Stage 2 and the memory behind it."""

    def page(self, ipa: int, access: Access) -> Page:
        """The page that holds this IPA. Raises Stage2Fault; ExternalAbort where stage 2's own tables cannot be read."""
        ...

    def check(self, ipa: int, size: int, access: Access) -> None:
        """Raise ExternalAbort if one of ``size`` bytes (within one page) is poisoned. For pages that are not stable."""
        ...
