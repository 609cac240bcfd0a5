# SPDX-License-Identifier: GPL-2.0-only
"""An executable as a guest: its segments with their permissions, and what the VMM has to know of it.

The permissions are those of the program headers; one bit that ELF leaves to the operating system says that EL0 has
access, too. The rest are symbols, which include/kvm_sea_guest.S defines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.guest.elf import HINT, Elf, Load, Symbol, SymbolKind
from pytest_kvm_sea.guest.errors import GuestElfError
from pytest_kvm_sea.guest.layout import LOW_MEMORY_SIZE, PAGE, TABLES_BASE, Segment, pages

EXECUTABLE, WRITABLE, USER = 1, 2, 0x10_0000
"""p_flags. The last one is the first of the bits for the operating system (PF_MASKOS)."""
VECTORS, STACK_TOP, USER_STACK_TOP, UCALL_MMIO = (
    "kvm_sea_vectors",
    "kvm_sea_stack_top",
    "kvm_sea_user_stack_top",
    "kvm_sea_ucall_mmio",
)
_VECTORS_SIZE = 0x800
_INSTRUCTION = 4
_STACK_ALIGNMENT = 16
_UCALL_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True)
class ElfImage:
    """What a GuestProgram is made of."""

    segments: tuple[Segment, ...]
    entry: GuestVA
    vectors: GuestVA
    stack_top: GuestVA
    user_stack_top: GuestVA | None
    ucall_mmio: GuestVA
    symbols: dict[str, GuestVA]
    sizes: dict[str, int]
    """Bytes of the variables among the symbols."""
    functions: tuple[tuple[int, str], ...]


def make_image(elf: Elf) -> ElfImage:
    """Check an executable and lay it out. Raises GuestElfError for what no VM can load or start."""
    segments = _segments(elf.loads)
    named = _unambiguous(elf.symbols)
    image = ElfImage(
        segments=segments,
        entry=GuestVA(elf.entry),
        vectors=_needed(named, VECTORS),
        stack_top=_needed(named, STACK_TOP),
        user_stack_top=GuestVA(named[USER_STACK_TOP].address) if USER_STACK_TOP in named else None,
        ucall_mmio=_needed(named, UCALL_MMIO),
        symbols={name: GuestVA(symbol.address) for name, symbol in named.items()},
        sizes={name: symbol.size for name, symbol in named.items() if symbol.kind is SymbolKind.OBJECT},
        functions=_functions(elf.symbols, segments),
    )
    _check_start(image)
    return image


def _segments(loads: Iterable[Load]) -> tuple[Segment, ...]:
    segments = tuple(_segment(load) for load in sorted(loads, key=lambda load: load.address))
    if not segments:
        raise GuestElfError(f"has nothing to load; {HINT}")
    for below, above in pairwise(segments):
        if below.end > above.gva:
            raise GuestElfError(
                f"has two segments in the page at {above.gva:#x}; permissions are those of whole pages: {HINT}"
            )
    return segments


def _segment(load: Load) -> Segment:
    if load.address + load.size > TABLES_BASE:
        raise GuestElfError(
            f"has a segment [{load.address:#x}, {load.address + load.size:#x}) outside of the room that a VM gives a "
            f"program, [0, {TABLES_BASE:#x}); make it smaller, or {HINT}"
        )
    lead = load.address % PAGE
    flags = load.flags
    letters = "".join(
        letter if flags & bit else "-" for letter, bit in (("w", WRITABLE), ("x", EXECUTABLE), ("u", USER))
    )
    return Segment(
        f"load r{letters}",
        GuestVA(load.address - lead),
        bytes(lead) + load.data,
        pages(lead + load.size),
        writable=bool(flags & WRITABLE),
        executable=bool(flags & EXECUTABLE),
        user=bool(flags & USER),
    )


def _unambiguous(symbols: Iterable[Symbol]) -> dict[str, Symbol]:
    """Symbols by name: a global one before those of single files, and of those only what no other file has, too."""
    everywhere = {symbol.name: symbol for symbol in symbols if not symbol.is_local}
    local = [symbol for symbol in symbols if symbol.is_local]
    count = Counter(symbol.name for symbol in local)
    return {symbol.name: symbol for symbol in local if count[symbol.name] == 1} | everywhere


def _needed(symbols: dict[str, Symbol], name: str) -> GuestVA:
    if name not in symbols:
        raise GuestElfError(f"has no symbol {name}; it comes from kvm_sea_guest.S: {HINT}")
    return GuestVA(symbols[name].address)


def _functions(symbols: Iterable[Symbol], segments: Iterable[Segment]) -> tuple[tuple[int, str], ...]:
    """Address and name of each function, by address; of several names a global one."""
    ordered = sorted(symbols, key=lambda symbol: not symbol.is_local)
    names = {symbol.address: symbol.name for symbol in ordered if symbol.kind is SymbolKind.FUNCTION}
    return tuple(sorted((at, name) for at, name in names.items() if _inside(segments, at, 1, EXECUTABLE)))


def _inside(segments: Iterable[Segment], at: int, size: int, permission: int) -> bool:
    return any(
        segment.gva <= at
        and at + size <= segment.end
        and (segment.executable if permission == EXECUTABLE else segment.writable)
        for segment in segments
    )


def _check_start(image: ElfImage) -> None:
    """Everything that the VMM sets up leads to something."""
    for what, address, size, alignment in (
        ("its entry", image.entry, _INSTRUCTION, _INSTRUCTION),
        (VECTORS, image.vectors, _VECTORS_SIZE, _VECTORS_SIZE),
    ):
        if address % alignment or not _inside(image.segments, address, size, EXECUTABLE):
            raise GuestElfError(f"has {what} at {address:#x}, which is not in executable memory or misaligned; {HINT}")
    for name, top in ((STACK_TOP, image.stack_top), (USER_STACK_TOP, image.user_stack_top)):
        if top is None:
            continue
        if top % _STACK_ALIGNMENT or not _inside(image.segments, top - _STACK_ALIGNMENT, _STACK_ALIGNMENT, WRITABLE):
            raise GuestElfError(f"has {name} at {top:#x}, which is not above writable memory or misaligned; {HINT}")
    if image.ucall_mmio % PAGE or not LOW_MEMORY_SIZE <= image.ucall_mmio < _UCALL_LIMIT:
        raise GuestElfError(
            f"has {UCALL_MMIO} at {image.ucall_mmio:#x}; a page without memory is a multiple of {PAGE:#x} from "
            f"{LOW_MEMORY_SIZE:#x} on, below {_UCALL_LIMIT:#x}"
        )
