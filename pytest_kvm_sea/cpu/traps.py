# SPDX-License-Identifier: GPL-2.0-only
"""How execution stops: what is taken to EL2, what is taken to EL1, and what ends a table walk."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvm_sea.cpu.bus import ExternalAbort, Stage2Fault


@dataclass(frozen=True, slots=True)
class Trap:
    """An exception taken to EL2, as the hypervisor finds it in its registers."""

    esr: int
    """ESR_EL2."""
    far: int
    """FAR_EL2; zero where the exception class has none."""
    ipa: int | None
    """The intermediate physical address of the access, all bits of it. None: HPFAR_EL2 is not valid."""
    source: int | None = None
    """Of an external abort: what the bus said of where it came from. No register shows it."""


class GuestException(Exception):
    """A synchronous exception that is taken to EL1. Raised before the instruction has changed any state."""

    def __init__(self, esr: int, far: int | None = None, *, offset: int = 0, skip: bool = False) -> None:
        super().__init__(f"exception to EL1, ESR {esr:#x}")
        self.esr = esr
        self.far = far
        self.offset = offset
        """0 for the synchronous vector; 0x180 for an external abort taken as an SError (SCTLR2_EL1.EASE)."""
        self.skip = skip
        """The preferred return address is the next instruction (SVC)."""


class TrapTaken(Exception):
    """An exception that is taken to EL2."""

    def __init__(self, trap: Trap, *, skip: bool = False) -> None:
        super().__init__(f"trap to EL2, ESR {trap.esr:#x}")
        self.trap = trap
        self.skip = skip


class Stage1Fault(Exception):
    """Stage 1 does not let an access through; the status code includes the level."""

    def __init__(self, fsc: int) -> None:
        super().__init__(f"stage-1 fault, status code {fsc:#04x}")
        self.fsc = fsc


class WalkAborted(Exception):
    """A descriptor of stage 1 could not be read."""

    def __init__(self, cause: Stage2Fault | ExternalAbort, level: int, ipa: int) -> None:
        super().__init__(f"{cause} at the level {level} descriptor at {ipa:#x}")
        self.cause = cause
        self.level = level
        self.ipa = ipa
