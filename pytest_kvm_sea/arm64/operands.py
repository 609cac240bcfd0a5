# SPDX-License-Identifier: GPL-2.0-only
"""Operands of A64 instructions: registers, addresses, conditions, shifts, and immediates with a form of their own."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Reg:
    """A general-purpose register, the zero register or the stack pointer."""

    name: str
    number: int
    bits: int
    is_sp: bool = False

    @property
    def sf(self) -> int:
        """The size bit of most encodings: 1 for 64 bits."""
        return self.bits >> 6

    def __str__(self) -> str:
        return self.name


X = tuple(Reg(f"x{number}", number, 64) for number in range(31))
W = tuple(Reg(f"w{number}", number, 32) for number in range(31))

X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15 = X[:16]
X16, X17, X18, X19, X20, X21, X22, X23, X24, X25, X26, X27, X28, X29, X30 = X[16:]
W0, W1, W2, W3, W4, W5, W6, W7, W8, W9, W10, W11, W12, W13, W14, W15 = W[:16]
W16, W17, W18, W19, W20, W21, W22, W23, W24, W25, W26, W27, W28, W29, W30 = W[16:]
XZR, WZR = Reg("xzr", 31, 64), Reg("wzr", 31, 32)
SP, WSP = Reg("sp", 31, 64, is_sp=True), Reg("wsp", 31, 32, is_sp=True)


def half(reg: Reg) -> Reg:
    """The 32-bit half of a register that is not the stack pointer."""
    return WZR if reg.number == len(W) else W[reg.number]


class Cond(enum.IntEnum):
    """Conditions, numbered as in the encodings (Arm ARM C1.2.4)."""

    EQ = 0
    NE = 1
    HS = 2
    LO = 3
    MI = 4
    PL = 5
    VS = 6
    VC = 7
    HI = 8
    LS = 9
    GE = 10
    LT = 11
    GT = 12
    LE = 13
    AL = 14

    @property
    def inverse(self) -> Cond:
        """The condition that holds when this one does not."""
        return Cond(self ^ 1)


class Shift(enum.IntEnum):
    """Shifts of a register operand, numbered as in the encodings."""

    LSL = 0
    LSR = 1
    ASR = 2
    ROR = 3


class Extend(enum.IntEnum):
    """Extensions of a register operand, numbered as in the encodings."""

    UXTB = 0
    UXTH = 1
    UXTW = 2
    UXTX = 3
    SXTB = 4
    SXTH = 5
    SXTW = 6
    SXTX = 7


@dataclass(frozen=True, slots=True)
class Offset:
    """``[base, #imm]``."""

    base: Reg
    imm: int = 0


@dataclass(frozen=True, slots=True)
class Pre:
    """``[base, #imm]!``: the base is changed before the access."""

    base: Reg
    imm: int


@dataclass(frozen=True, slots=True)
class Post:
    """``[base], #imm``: the base is changed after the access."""

    base: Reg
    imm: int


@dataclass(frozen=True, slots=True)
class Indexed:
    """``[base, index, extend #shift]``; `Extend.UXTX` is written LSL."""

    base: Reg
    index: Reg
    extend: Extend = Extend.UXTX
    shifted: bool = False
    """The index counts elements, not bytes."""


Address: TypeAlias = Reg | Offset | Pre | Post | Indexed
"""A register alone is ``Offset(register, 0)``."""


@dataclass(slots=True, eq=False)
class Label:
    """A place in the code, known by identity; the name is for messages."""

    name: str = field(default="label")

    def __str__(self) -> str:
        return self.name


Target: TypeAlias = Label | str
"""Where a branch goes: a label of this code, or the name of a symbol."""


@lru_cache(maxsize=1024)
def bitmask_immediate(value: int, bits: int) -> tuple[int, int, int] | None:
    """N, immr and imms of a logical immediate, or None where ``value`` cannot be one (Arm ARM, DecodeBitMasks).

    Such an immediate is an element of 2, 4, …, ``bits`` bits, repeated; the element is a rotated run of ones.
    """
    size = bits
    if not 0 < value < (1 << bits) - 1:
        return None
    while size > 2 and value & (1 << size // 2) - 1 == value >> size // 2 & (1 << size // 2) - 1:
        size //= 2
        value &= (1 << size) - 1
    ones = value.bit_count()
    run = (1 << ones) - 1
    for rotation in range(size):
        if (run >> rotation | run << size - rotation) & (1 << size) - 1 == value:
            # imms holds the element size as a prefix of ones that ends in a zero, then the length of the run.
            imms = (-2 * size & 0x3F) | (ones - 1)
            return int(size == 64), rotation, imms
    return None
