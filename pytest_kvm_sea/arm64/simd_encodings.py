# SPDX-License-Identifier: GPL-2.0-only
"""Which words are floating-point and Advanced SIMD instructions, of the extensions that the processor has (C4.1).

The processor does not execute them: it has to know which of them CPACR_EL1.FPEN traps, and which are UNDEFINED before
anything could trap them. They are those of Armv8.2 with FEAT_FP16, FEAT_RDM, FEAT_DotProd, FEAT_AES, FEAT_PMULL,
FEAT_SHA1 and FEAT_SHA256, which is what the processor has that the oracle compares with, and many others.

The tables are `simd_scalar`, `simd_vector` and `simd_memory`; they are read when a word of this space is met for the
first time. A row has a pattern as in `encodings`, and lines that say what of it is allocated: ``"opcode=00001|0011x
size=11"`` gives bits to fields, ``|`` between alternatives, ``x`` for any; without such lines it is all of it. A line
with ``!`` in front takes away from what the others give.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from pytest_kvm_sea.arm64.encoding import Encoding

Rows: TypeAlias = tuple[tuple[str, ...], ...]

_TABLES: Final = ("simd_scalar", "simd_vector", "simd_memory")
_TOP: Final = 21
"""Rows are looked up by the bits from here on."""


class SimdEncoding(NamedTuple):
    """A row: instructions with the same fields, and the same rules for which of them there are."""

    encoding: Encoding
    """Its pattern, and what is taken away."""
    allocated: tuple[tuple[int, int], ...]
    """(mask, match) of what is given."""

    def has(self, word: int) -> bool:
        """Whether this word is an instruction of this row."""
        return any(word & mask == match for mask, match in self.allocated) and self.encoding.has(word)


def encoding_of(word: int) -> SimdEncoding | None:
    """The row that a word belongs to; None if it is unallocated, or not of this space."""
    return next((each for each in _candidates(word >> _TOP) if each.has(word)), None)


@cache
def _candidates(top: int) -> tuple[SimdEncoding, ...]:
    word, high = top << _TOP, -1 << _TOP
    return tuple(each for each in simd_encodings() if not (word ^ each.encoding.match) & each.encoding.mask & high)


@cache
def simd_encodings() -> tuple[SimdEncoding, ...]:
    """All rows."""
    return tuple(_parsed(*row) for name in _TABLES for row in _table(name))


def _table(name: str) -> Rows:
    table: Rows = import_module(f"pytest_kvm_sea.arm64.{name}").TABLE
    return table


def _parsed(name: str, pattern: str, summary: str, *lines: str) -> SimdEncoding:
    given = [line for line in lines if not line.startswith("!")]
    taken = [rule for line in lines if line.startswith("!") for rule in _rules(line[1:])]
    encoding = Encoding(name, pattern, summary, tuple(taken))
    allocated = [encoding.rule(rule) for line in given for rule in _rules(line)] or [(0, 0)]
    return SimdEncoding(encoding, tuple((mask | encoding.mask, match | encoding.match) for mask, match in allocated))


def _rules(line: str) -> Iterator[str]:
    """Every combination of the alternatives, as `Encoding` has them."""
    names, values = zip(*(part.split("=") for part in line.split()), strict=True)
    for choice in product(*(value.split("|") for value in values)):
        yield " ".join(f"{name}={bits}" for name, bits in zip(names, choice, strict=True))
