# SPDX-License-Identifier: GPL-2.0-only
"""PSTATE in the layout of SPSR_EL1 (Arm ARM, C5.2.19), condition flags and conditions.

The flags are kept as what they were computed from, since most are never looked at: a kind and two operands.
"""

from __future__ import annotations

from typing import Final

DIT: Final = 1 << 24
UAO: Final = 1 << 23
PAN: Final = 1 << 22
SS: Final = 1 << 21
IL: Final = 1 << 20
SSBS: Final = 1 << 12
D: Final = 1 << 9
A: Final = 1 << 8
I: Final = 1 << 7  # noqa: E741
F: Final = 1 << 6
DAIF: Final = D | A | I | F
EL0T: Final = 0x0
EL1T: Final = 0x4
EL1H: Final = 0x5
EL2T: Final = 0x8
EL2H: Final = 0x9
MODES: Final = {EL0T: (0, 0), EL1T: (1, 0), EL1H: (1, 1)}
"""M[4:0] -> (exception level, SPSel)."""
RESET: Final = DAIF | EL1H

# Kinds of flags
RAW: Final = 0
"""First operand: N, Z, C, V in bits 3:0."""
SUB64: Final = 1
SUB32: Final = 2
ADD64: Final = 3
ADD32: Final = 4
LOGIC64: Final = 5
LOGIC32: Final = 6
"""First operand: the result; C and V are clear."""


def nzcv(kind: int, a: int, b: int) -> int:
    """The four flags, N in bit 3."""
    if kind == RAW:
        return a
    width = 64 if kind & 1 else 32
    top = 1 << width - 1
    if kind >= LOGIC64:
        return (8 if a & top else 0) | (0 if a else 4)
    if kind <= SUB32:
        result = a - b
        carry = 2 if result >= 0 else 0
        overflow = (a ^ b) & (a ^ result)
    else:
        result = a + b
        carry = 2 if result >> width else 0
        overflow = (a ^ result) & (b ^ result)
    zero = 0 if result & (top << 1) - 1 else 4
    return (8 if result & top else 0) | zero | carry | (1 if overflow & top else 0)


def nzcv_with_carry(a: int, b: int, carry: int, width: int) -> int:
    """The flags of a + b + carry (Arm ARM, shared/functions/integer/AddWithCarry)."""
    result = a + b + carry
    top = 1 << width - 1
    zero = 0 if result & (top << 1) - 1 else 4
    overflow = (a ^ result) & (b ^ result)
    return (8 if result & top else 0) | zero | (2 if result >> width else 0) | (1 if overflow & top else 0)


def _holds(condition: int, flags: int) -> bool:
    negative, zero, carry, overflow = flags >> 3 & 1, flags >> 2 & 1, flags >> 1 & 1, flags & 1
    base = (
        bool(zero),
        bool(carry),
        bool(negative),
        bool(overflow),
        bool(carry and not zero),
        negative == overflow,
        negative == overflow and not zero,
        True,
    )[condition >> 1]
    return not base if condition & 1 and condition != 0xF else base


CONDITIONS: Final = tuple(tuple(_holds(condition, flags) for flags in range(16)) for condition in range(16))
"""[condition][NZCV] (Arm ARM, C1.2.4)."""
