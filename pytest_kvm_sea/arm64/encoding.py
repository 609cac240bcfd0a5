# SPDX-License-Identifier: GPL-2.0-only
"""One class of instruction words: its pattern, and what is not allocated of it.

A pattern is written from bit 31 down to bit 0:

========== =========================================================================================================
``0110``   bits that must have these values
``(111)``  bits that should have these values: written so, ignored when decoding
``name``   a field of one bit
``name:5`` a field of five bits
``imm:9s`` the same, a signed number in two's complement
========== =========================================================================================================

`Encoding.unallocated` lists what the pattern matches although the architecture has no such instruction; each entry is a
set of fields with their bits, ``x`` for any: ``"sf=0 imm6=1xxxxx"``. Such words are UNDEFINED unless another entry has
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

WORD_BITS = 32

_TOKEN = re.compile(r"(?P<bits>[01]+)|\((?P<should>[01]+)\)|(?P<name>[A-Za-z]\w*)(?::(?P<width>\d+)(?P<signed>s?))?")


@dataclass(frozen=True, slots=True)
class Encoding:
    """One encoding class: which words it has, and where its fields lie."""

    name: str
    pattern: str
    summary: str
    unallocated_rules: tuple[str, ...] = ()
    mask: int = field(init=False, default=0)
    """Bits that are fixed; ``word & mask == match`` for every word of this class."""
    match: int = field(init=False, default=0)
    should_be: int = field(init=False, default=0)
    """Bits that should be one but are ignored by the decoder."""
    fields: dict[str, tuple[int, int]] = field(init=False, default_factory=dict)
    """name -> (shift, width)."""
    signed: frozenset[str] = field(init=False, default=frozenset())
    """Names of the fields that are signed numbers."""
    unallocated: tuple[tuple[int, int], ...] = field(init=False, default=())
    """(mask, match) of the words that are not allocated."""

    def __post_init__(self) -> None:
        shift, mask, match, should_be, signed = WORD_BITS, 0, 0, 0, set()
        for token in self.pattern.split():
            found = _TOKEN.fullmatch(token)
            if found is None:
                raise ValueError(f"{self.name}: {token!r} is not part of a pattern")
            bits = found["bits"] or found["should"]
            width = len(bits) if bits else int(found["width"] or 1)
            shift -= width
            if found["bits"]:
                mask |= (1 << width) - 1 << shift
                match |= int(bits, 2) << shift
            elif found["should"]:
                should_be |= int(bits, 2) << shift
            else:
                self.fields[found["name"]] = (shift, width)
                if found["signed"]:
                    signed.add(found["name"])
        if shift != 0:
            raise ValueError(f"{self.name}: the pattern has {WORD_BITS - shift} bits, not {WORD_BITS}")
        put = object.__setattr__
        put(self, "mask", mask)
        put(self, "match", match)
        put(self, "should_be", should_be)
        put(self, "signed", frozenset(signed))
        put(self, "unallocated", tuple(self.rule(rule) for rule in self.unallocated_rules))

    def rule(self, rule: str) -> tuple[int, int]:
        """(mask, match) of a set of fields with their bits."""
        mask = match = 0
        for part in rule.split():
            name, _, bits = part.partition("=")
            shift, width = self.fields[name]
            if len(bits) != width:
                raise ValueError(f"{self.name}: {part!r} does not give {width} bits")
            mask |= int(bits.replace("0", "1").replace("x", "0"), 2) << shift
            match |= int(bits.replace("x", "0"), 2) << shift
        return mask, match

    def has(self, word: int) -> bool:
        """Whether this word is an allocated instruction of this class."""
        if word & self.mask != self.match:
            return False
        return all(word & mask != match for mask, match in self.unallocated)

    def decode(self, word: int) -> dict[str, int]:
        """The fields of a word of this class; signed ones as signed numbers."""
        values = {}
        for name, (shift, width) in self.fields.items():
            value = word >> shift & (1 << width) - 1
            if name in self.signed and value >> width - 1:
                value -= 1 << width
            values[name] = value
        return values

    def encode(self, **values: int) -> int:
        """The word with these fields. Raises ValueError where one is missing, unknown, out of range or unallocated."""
        if values.keys() != self.fields.keys():
            missing = ", ".join(self.fields.keys() - values.keys()) or "none"
            unknown = ", ".join(values.keys() - self.fields.keys()) or "none"
            raise ValueError(
                f"{self.name}: fields missing: {missing}; unknown: {unknown}; it has {', '.join(self.fields)}"
            )
        word = self.match | self.should_be
        for name, value in values.items():
            shift, width = self.fields[name]
            low, high = (-1 << width - 1, (1 << width - 1) - 1) if name in self.signed else (0, (1 << width) - 1)
            if not low <= value <= high:
                raise ValueError(f"{self.name}: field {name} is {value}; it takes {low} to {high}")
            word |= (value & (1 << width) - 1) << shift
        for rule, (mask, match) in zip(self.unallocated_rules, self.unallocated, strict=True):
            if word & mask == match:
                raise ValueError(f"{self.name}: {rule} is not an instruction (unallocated)")
        return word
