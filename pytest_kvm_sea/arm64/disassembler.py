# SPDX-License-Identifier: GPL-2.0-only
"""Disassembly for people: traces and failure reports. Nothing is executed by it.

capstone is imported when the first line is wanted; it takes 50 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

WORD = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One word of code."""

    address: int
    word: int
    text: str

    def __str__(self) -> str:
        return f"{self.address:#x}:  {self.word:08x}  {self.text}"


def disassemble(code: bytes, address: int) -> list[Line]:
    """The words of ``code``, which lies at ``address``; what capstone rejects is ``.word 0x…``.

    Raises ValueError when the length of the code is not a multiple of 4.
    """
    if len(code) % WORD:
        raise ValueError(f"code has {len(code)} bytes; A64 instructions take a multiple of {WORD}")
    return [_line(code[offset : offset + WORD], address + offset) for offset in range(0, len(code), WORD)]


def _line(code: bytes, address: int) -> Line:
    word = int.from_bytes(code, "little")
    for _, _, mnemonic, operands in _capstone().disasm_lite(code, address, 1):
        return Line(address, word, f"{mnemonic} {operands}".rstrip())
    return Line(address, word, f".word {word:#010x}")


@cache
def _capstone() -> Any:
    import capstone  # noqa: PLC0415 - costs 50 ms, and only a report needs it

    return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
