# SPDX-License-Identifier: GPL-2.0-only
"""Words of the part of the encoding space that floating point and SIMD have: allocated, near to that, and all others.

The model knows which are allocated (`arm64.simd_encodings`) and traps them; all else is UNDEFINED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_kvm_sea.arm64.simd_encodings import simd_encodings
from pytest_kvm_sea.cpu import pstate
from tests.oracle.instructions import Draft

_SPACE: Final = 3 << 26
_LOW: Final = 10
"""Bits that are two registers in nearly every encoding."""
_STRIDE: Final = 0x9E375
"""Odd: a permutation of 20 bits, which any few of its numbers are spread over."""


def _any(draft: Draft) -> None:
    """One after the other of the words that differ in bits 31 to 10: in 2,097,152 cases they are all there once."""
    number = draft.index // len(SIMD_STRATA) * _STRIDE
    high, middle = number >> 16 & 0xF, number & 0xFFFF
    draft.words.append(high << 28 | _SPACE | middle << _LOW | draft.rng.getrandbits(_LOW))
    # So that it is executed: neither in another page nor with PSTATE.IL
    draft.pc = draft.code_at
    draft.pstate &= ~pstate.IL


def _row(draft: Draft) -> None:
    """Of every line of the tables; half of the time with one bit that is otherwise."""
    rng = draft.rng
    row = rng.choice(simd_encodings())
    mask, match = rng.choice(row.allocated)
    word = rng.getrandbits(32) & ~mask | match
    if rng.randrange(2):
        word ^= 1 << rng.choice([bit for bit in range(32) if not _SPACE >> bit & 1])
    draft.words.append(word)


SIMD_STRATA: Final[dict[str, Callable[[Draft], None]]] = {"SIMD space": _any, "SIMD rows": _row}
