# SPDX-License-Identifier: GPL-2.0-only
"""A case, and what came of it: the two types that everything here talks about."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.oracle import layout as at

_INPUT: Final = struct.Struct(f"<{at.CODE_WORDS}Q{at.WORDS}I{at.RECORD_IN - at.SYSTEM_IN}Q")
_SPARE: Final = (0,) * (at.RECORD_IN - at.FORGET - 1)


@dataclass(slots=True)
class Case:
    """Registers, a few instructions, and where they lie."""

    stratum: str
    words: list[int]
    x: list[int]
    sp_el0: int
    sp_el1: int
    pstate: int
    pc: int
    """The virtual address of the first instruction."""
    code_at: int
    """Its physical address."""
    system: dict[str, int]
    """All of `layout.SYSTEM`."""
    index: int = -1
    compiled: bool = False
    """Loops are executed as compiled regions from their second round on."""
    forget: bool = False
    """It changes translation tables: both processors forget their TLB afterwards."""
    whole: bool = False
    """Its instructions are a sequence of the architecture's that is not to be taken apart."""

    def padded(self) -> list[int]:
        """The instructions, followed by `layout.STOP`."""
        return self.words + [at.STOP] * (at.WORDS - len(self.words))

    def record(self) -> bytes:
        """The input record."""
        return _INPUT.pack(
            *self.x,
            self.sp_el0,
            self.sp_el1,
            self.pstate,
            self.pc,
            self.code_at,
            *self.padded(),
            *(self.system[name] for name in at.SYSTEM),
            self.forget,
            *_SPARE,
        )


class Result(NamedTuple):
    """What a processor made of a case, up to the exception that was taken to EL2."""

    x: tuple[int, ...]
    sp_el0: int
    sp_el1: int
    pstate: int
    """SPSR_EL2."""
    pc: int
    """ELR_EL2."""
    esr_el2: int
    far_el2: int
    """Zero where the exception class has none."""
    hpfar_el2: int
    """Zero where it is not valid."""
    system: tuple[int, ...]
    """In the order of `layout.SYSTEM`."""
    changes: tuple[tuple[int, int], ...]
    """(address, value) of the doublewords of `layout.SCANNED` that have changed."""
    trouble: str = ""
    """What went wrong with the processor itself: it did not stop, or Python raised something."""


def broken(trouble: str) -> Result:
    """The result of a case that has none."""
    return Result((), 0, 0, 0, 0, 0, 0, 0, (), (), trouble)
