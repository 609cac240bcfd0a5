# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: PLR0917 - operands stand in the order of the assembly language
"""Where assembled code goes: bytes, labels, and what is filled in once addresses are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pytest_kvm_sea.arm64 import encodings
from pytest_kvm_sea.arm64.operands import Label, Reg, Target

WORD = 4

# The same few hundred words make up most of the code; a hit costs a fifth of an encoding.
_encode = lru_cache(maxsize=16384)(encodings.encode)


@dataclass(frozen=True, slots=True)
class _Reach:
    """The relative field of an encoding class: where its parts lie, low bits first, and what one unit is in bytes."""

    parts: tuple[tuple[str, int, int], ...]
    """Field name, shift, width."""
    scale: int

    @property
    def width(self) -> int:
        return sum(width for _, _, width in self.parts)


def _reach(name: str, scale: int, *fields: str) -> _Reach:
    return _Reach(tuple((field, *encodings.ENCODINGS[name].fields[field]) for field in fields), scale)


_REACHES = {
    "b": ("B", _reach("B", 4, "imm26")),
    "b.cond": ("B_COND", _reach("B_COND", 4, "imm19")),
    "cbz": ("CBZ", _reach("CBZ", 4, "imm19")),
    "tbz": ("TBZ", _reach("TBZ", 4, "imm14")),
    "ldr": ("LDR_LITERAL", _reach("LDR_LITERAL", 4, "imm19")),
    "prfm": ("PRFM_LITERAL", _reach("PRFM_LITERAL", 4, "imm19")),
    "adr": ("ADR", _reach("ADR", 1, "immlo", "immhi")),
    "adrp": ("ADR", _reach("ADR", 4096, "immlo", "immhi")),
}
"""Kinds of relative operands: encoding class and field."""
_QUAD = "quad"


@dataclass(slots=True)
class _Fixup:
    """A word, or a 64-bit datum, that needs the address of its target."""

    offset: int
    kind: str
    mnemonic: str
    word: int
    """The instruction for distance 0."""
    target: Target
    addend: int


class Emitter:
    """Code and data in the making. Offsets count from its start; addresses come with `assemble`."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._labels: dict[Target, int] = {}
        self._fixups: list[_Fixup] = []
        self._alignment = WORD

    def __len__(self) -> int:
        return len(self._code)

    @property
    def alignment(self) -> int:
        """What the base address must be a multiple of."""
        return self._alignment

    def label(self, target: Target) -> None:
        """Put a label, or a symbol, here. Raises ValueError if it is already somewhere."""
        if target in self._labels:
            raise ValueError(f"label {str(target)!r} is already at offset {self._labels[target]:#x}")
        self._labels[target] = len(self._code)

    def move_label(self, target: Label) -> None:
        """Put a label here that was elsewhere."""
        self._labels[target] = len(self._code)

    def offset_of(self, target: Target) -> int:
        """Where a label is. Raises KeyError where it is not in this code."""
        return self._labels[target]

    @property
    def symbols(self) -> dict[str, int]:
        """The offsets of all labels that are names."""
        return {target: offset for target, offset in self._labels.items() if isinstance(target, str)}

    def align(self, boundary: int) -> None:
        """Fill up with zeros to a multiple of ``boundary``, a power of two."""
        if boundary <= 0 or boundary & boundary - 1:
            raise ValueError(f"align: boundary is {boundary}; it takes a power of two")
        self._alignment = max(self._alignment, boundary)
        self._code += bytes(-len(self._code) % boundary)

    def raw(self, data: bytes) -> None:
        """Data as it is."""
        self._code += data

    def word(self, *values: int) -> None:
        """32-bit data, or instructions as numbers; signed or unsigned."""
        for value in values:
            self._code += check("word", "value", value, -(1 << 31), (1 << 32) - 1).to_bytes(5, "little", signed=True)[
                :4
            ]

    def quad(self, value: int | Target, addend: int = 0) -> None:
        """A 64-bit datum: a number, or the address of a label plus ``addend``."""
        if isinstance(value, int):
            self._code += check("quad", "value", value, -(1 << 63), (1 << 64) - 1).to_bytes(9, "little", signed=True)[
                :8
            ]
            return
        self._fixups.append(_Fixup(len(self._code), _QUAD, "quad", 0, value, addend))
        self._code += bytes(8)

    def include(self, other: Emitter) -> None:
        """Append other code, with its labels. Raises ValueError where a label is in both."""
        self.align(other._alignment)
        start = len(self._code)
        for target, offset in other._labels.items():
            if target in self._labels:
                raise ValueError(f"label {str(target)!r} is already at offset {self._labels[target]:#x}")
            self._labels[target] = start + offset
        self._fixups += [
            _Fixup(start + fixup.offset, fixup.kind, fixup.mnemonic, fixup.word, fixup.target, fixup.addend)
            for fixup in other._fixups
        ]
        self._code += other._code

    def resolve(self) -> None:
        """Fill in what needs no base address: distances within this code. Worth it for code that is included often."""
        remaining: list[_Fixup] = []
        for fixup in self._fixups:
            offset = self._labels.get(fixup.target)
            if offset is None or fixup.kind in {_QUAD, "adrp"}:
                remaining.append(fixup)
            else:
                word = _relative(fixup, fixup.offset, offset + fixup.addend)
                self._code[fixup.offset : fixup.offset + WORD] = word.to_bytes(WORD, "little")
        self._fixups = remaining

    def assemble(self, base: int, symbols: Mapping[Target, int] | None = None) -> bytes:
        """The bytes for this base address; ``symbols`` gives the addresses of labels that are not in this code.

        Raises ValueError for a misaligned base, a label that is nowhere, and one that is out of reach.
        """
        if base % self._alignment:
            raise ValueError(f"base is {base:#x}; this code needs a multiple of {self._alignment:#x}")
        code = bytearray(self._code)
        for fixup in self._fixups:
            address = self._address(fixup, base, symbols or {}) + fixup.addend
            place = base + fixup.offset
            if fixup.kind == _QUAD:
                code[fixup.offset : fixup.offset + 8] = (address & (1 << 64) - 1).to_bytes(8, "little")
            else:
                code[fixup.offset : fixup.offset + WORD] = _relative(fixup, place, address).to_bytes(WORD, "little")
        return bytes(code)

    def _address(self, fixup: _Fixup, base: int, symbols: Mapping[Target, int]) -> int:
        offset = self._labels.get(fixup.target)
        if offset is not None:
            return base + offset
        address = symbols.get(fixup.target)
        if address is None:
            raise ValueError(f"{fixup.mnemonic} at offset {fixup.offset:#x}: there is no label {str(fixup.target)!r}")
        return address

    def _emit(self, name: str, **fields: int) -> None:
        self._code += _encode(name, **fields).to_bytes(WORD, "little")

    def _emit_relative(self, kind: str, mnemonic: str, target: Target, addend: int = 0, **fields: int) -> None:
        name, reach = _REACHES[kind]
        for part, _, _ in reach.parts:
            fields[part] = 0
        self._fixups.append(_Fixup(len(self._code), kind, mnemonic, _encode(name, **fields), target, addend))
        self._code += bytes(WORD)


def _relative(fixup: _Fixup, place: int, address: int) -> int:
    """The word with the distance from ``place`` to ``address``."""
    _, reach = _REACHES[fixup.kind]
    is_page = fixup.kind == "adrp"
    distance = (address & -4096) - (place & -4096) if is_page else address - place
    units = distance // reach.scale
    limit = 1 << reach.width - 1
    if distance % reach.scale or not -limit <= units < limit:
        raise ValueError(
            f"{fixup.mnemonic} to {str(fixup.target)!r}: the distance is {distance:#x}; it takes "
            f"{-limit * reach.scale:#x} to {(limit - 1) * reach.scale:#x} in multiples of {reach.scale}"
        )
    word = fixup.word
    for _, shift, width in reach.parts:
        word |= (units & (1 << width) - 1) << shift
        units >>= width
    return word


def check(mnemonic: str, operand: str, value: int, low: int, high: int, multiple: int = 1) -> int:
    """``value`` if it lies within the range and is a multiple; otherwise ValueError that names the operand."""
    if not low <= value <= high or value % multiple:
        unit = f", a multiple of {multiple}" if multiple > 1 else ""
        raise ValueError(f"{mnemonic}: {operand} is {value}; it takes {low} to {high}{unit}")
    return value


def zr(mnemonic: str, operand: str, reg: Reg) -> int:
    """The number of a register where 31 is the zero register."""
    if reg.is_sp:
        raise ValueError(f"{mnemonic}: {operand} is {reg}; it takes x0 to x30 or xzr, or their 32-bit halves")
    return reg.number


def sp(mnemonic: str, operand: str, reg: Reg) -> int:
    """The number of a register where 31 is the stack pointer."""
    if reg.number == 31 and not reg.is_sp:
        raise ValueError(f"{mnemonic}: {operand} is {reg}; it takes x0 to x30 or sp, or their 32-bit halves")
    return reg.number


def same_width(mnemonic: str, *regs: Reg) -> int:
    """The size bit that these registers have in common."""
    if len({reg.bits for reg in regs}) != 1:
        raise ValueError(f"{mnemonic}: registers of different width: {', '.join(map(str, regs))}")
    return regs[0].sf


def only64(mnemonic: str, operand: str, reg: Reg) -> Reg:
    """The register if it has 64 bits."""
    if reg.bits != 64:
        raise ValueError(f"{mnemonic}: {operand} is {reg}; it takes a 64-bit register")
    return reg
