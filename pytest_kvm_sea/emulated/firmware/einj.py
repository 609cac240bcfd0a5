# SPDX-License-Identifier: GPL-2.0-only
"""The firmware behind the kernel's einj.ko: registers in memory that the machine and this process share."""

from __future__ import annotations

import enum
import mmap
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_kvm_sea.emulated.firmware.stage2 import NotFound
from pytest_kvm_sea.firmware.einj_table import ADDRESS_STRUCTURE, CommandStatus, Register

ERROR_TYPES = 0x38
"""Memory errors: correctable, uncorrectable, fatal (ACPI 6.5, table 18.30)."""
_REGISTER = struct.Struct("<Q")


class Outcome(enum.Enum):
    """How a command ends; the words are those of the simulated firmware."""

    SUCCESS = "success"
    FAILED = "failed"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    """It does not end: BUSY stays."""


_STATUS = {
    Outcome.SUCCESS: CommandStatus.SUCCESS,
    Outcome.FAILED: CommandStatus.FAILED,
    Outcome.INVALID: CommandStatus.INVALID,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What the kernel asked for in SET_ERROR_TYPE_WITH_ADDRESS."""

    type: int
    flags: int
    address: int
    mask: int


@dataclass(frozen=True, slots=True)
class Injection:
    """A request that succeeded."""

    request: Request
    level: int | None
    """Of the stage-2 table that is broken now; None where no error could be placed."""
    obstacle: str
    """Why not, for people."""

    def as_answer(self) -> dict[str, object]:
        """For the port."""
        return {
            **asdict(self.request),
            "placed": self.level is not None,
            "level": self.level,
            "obstacle": self.obstacle,
        }


class EinjFirmware:
    """The firmware of one machine, as far as its EINJ table goes."""

    def __init__(self, path: Path, place: Callable[[Request], int]) -> None:
        """``path``: the file with the registers, at its start. ``place``: break a table, tell its level, or NotFound.

        Raises OSError, and ValueError for a file that is too short.
        """
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._place = place
        self.outcome = Outcome.SUCCESS
        """How commands end from now on; with anything but SUCCESS nothing is injected."""
        self.injections: list[Injection] = []
        for register in Register:
            self._write(register, 0)
        self._write(Register.GET_TYPE, ERROR_TYPES)

    def step(self) -> bool:
        """Carry out the command that waits, if there is one; whether there was."""
        if not self._read(Register.EXECUTE):
            return False
        self._write(Register.EXECUTE, 0)
        status = _STATUS.get(self.outcome)
        if status is None:
            return True
        if status is CommandStatus.SUCCESS:
            request = self._request()
            status = self._inject(request)
        self._write(Register.STATUS, status)
        self._write(Register.BUSY, 0)
        return True

    def close(self) -> None:
        """Allowed twice."""
        self._map.close()

    def _inject(self, request: Request) -> CommandStatus:
        """An error in memory that no guest has mapped has no effect; where the tables are ambiguous, it is refused."""
        try:
            injection = Injection(request, self._place(request), "")
        except NotFound as error:
            if error.transient:
                return CommandStatus.FAILED
            injection = Injection(request, None, str(error))
        self.injections.append(injection)
        return CommandStatus.SUCCESS

    def _request(self) -> Request:
        kind, _, flags, _, address, mask, _ = ADDRESS_STRUCTURE.unpack_from(self._map, Register.ADDRESS)
        return Request(kind, flags, address, mask)

    def _read(self, register: Register) -> int:
        value: int = _REGISTER.unpack_from(self._map, register)[0]
        return value

    def _write(self, register: Register, value: int) -> None:
        _REGISTER.pack_into(self._map, register, value)
