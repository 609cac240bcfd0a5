# SPDX-License-Identifier: GPL-2.0-only
"""Executables for AArch64 as ELF has them (System V gABI, chapters 4 and 5; ELF for the Arm 64-bit Architecture).

What a guest needs of them: the segments to load, and the symbols. Every offset and size is checked against the file.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvm_sea.guest.errors import GuestElfError

HINT = "build it with the flags that `python -m pytest_kvm_sea.guest.cc` prints"

_MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_MOST_PROGRAM_HEADERS = 64
_ADDRESSES = 1 << 64

_CLASS_64, _LITTLE_ENDIAN, _AARCH64 = 2, 1, 183
_EXECUTABLE, _LOAD = 2, 1
_SYMTAB, _STRTAB = 2, 3
_UNDEFINED = 0
_TYPES = {
    0: "of no type",
    1: "an object file that is not linked yet",
    3: "position-independent or a shared library; link with -static -no-pie",
    4: "a core dump",
}
_REFUSED = {
    2: "is linked dynamically; link with -static",
    3: "asks for a dynamic linker; link with -static",
    7: "has thread-local variables, which a guest cannot have; use plain ones",
}
"""Types of segments that nobody here acts upon."""


class SymbolKind(enum.IntEnum):
    """The types of symbols that have a meaning here."""

    NOTYPE = 0
    OBJECT = 1
    FUNCTION = 2


@dataclass(frozen=True, slots=True)
class Load:
    """A part of the file that is loaded. ``size`` is at least that of the data; the rest is zero."""

    address: int
    data: bytes
    size: int
    flags: int
    """p_flags: 1 executable, 2 writable, 4 readable, and bits of the operating system."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol that has a place; size 0 where it has none."""

    name: str
    address: int
    size: int
    kind: SymbolKind
    is_local: bool


@dataclass(frozen=True, slots=True)
class Elf:
    """What is left of the file."""

    entry: int
    loads: tuple[Load, ...]
    symbols: tuple[Symbol, ...]


def parse_elf(data: bytes) -> Elf:
    """Read a statically linked executable for AArch64. Raises GuestElfError that says in one line what is wrong."""
    if data[:4] != _MAGIC:
        raise GuestElfError(f"is no ELF file (it begins with {data[:4].hex(' ') or 'nothing'}); {HINT}")
    if len(data) < _HEADER.size:
        raise GuestElfError(f"ends after {len(data)} of the {_HEADER.size} bytes of an ELF header")
    ident, kind, machine, _, entry, ph_at, sh_at, _, _, ph_size, ph_count, sh_size, sh_count, _ = _HEADER.unpack_from(
        data
    )
    if ident[4] != _CLASS_64 or ident[5] != _LITTLE_ENDIAN or machine != _AARCH64:
        bits = {1: "32-bit", _CLASS_64: "64-bit"}.get(ident[4], f"class {ident[4]}")
        order = {_LITTLE_ENDIAN: "little-endian", 2: "big-endian"}.get(ident[5], f"byte order {ident[5]}")
        raise GuestElfError(
            f"is ELF for another machine ({bits}, {order}, machine {machine}); a guest is 64-bit little-endian AArch64 "
            f"(machine {_AARCH64}): use a cross compiler"
        )
    if kind != _EXECUTABLE:
        raise GuestElfError(f"is no executable but {_TYPES.get(kind, f'of type {kind}')}; {HINT}")
    return Elf(
        entry,
        tuple(_loads(data, _table(data, "program headers", _PROGRAM_HEADER, (ph_at, ph_size, ph_count)))),
        tuple(_symbols(data, _table(data, "section headers", _SECTION_HEADER, (sh_at, sh_size, sh_count)))),
    )


def _table(data: bytes, what: str, entry: struct.Struct, place: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """A table of headers, unpacked; its place is its offset, the size of an entry, and how many there are."""
    at, size, count = place
    if not count:
        return []
    if size != entry.size:
        raise GuestElfError(f"has {what} of {size} bytes each; they have {entry.size}")
    return list(entry.iter_unpack(_part(data, f"the {what}", at, size * count)))


def _part(data: bytes, what: str, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise GuestElfError(
            f"is damaged: {what} should be at {at:#x}, {size:#x} bytes, and the file has {len(data):#x}"
        )
    return data[at : at + size]


def _loads(data: bytes, headers: list[tuple[int, ...]]) -> Iterator[Load]:
    if len(headers) > _MOST_PROGRAM_HEADERS:
        raise GuestElfError(f"has {len(headers)} program headers; a guest has at most {_MOST_PROGRAM_HEADERS}")
    for kind, flags, offset, address, _, file_size, size, _ in headers:
        if kind in _REFUSED:
            raise GuestElfError(f"{_REFUSED[kind]}; {HINT}")
        if kind != _LOAD or not size:
            continue
        if file_size > size or address + size > _ADDRESSES:
            raise GuestElfError(
                f"is damaged: the segment at {address:#x} has {size:#x} bytes in memory and {file_size:#x} in the file"
            )
        yield Load(address, _part(data, f"the segment for {address:#x}", offset, file_size), size, flags)


def _symbols(data: bytes, sections: list[tuple[int, ...]]) -> Iterator[Symbol]:
    table = next((section for section in sections if section[1] == _SYMTAB), None)
    if table is None:
        raise GuestElfError(f"has no symbols; do not strip it, and link without -s: {HINT}")
    _, _, _, _, at, size, link, _, _, entry_size = table
    if entry_size != _SYMBOL.size or size % entry_size:
        raise GuestElfError(f"is damaged: a symbol table of {size:#x} bytes with entries of {entry_size}")
    if link >= len(sections) or sections[link][1] != _STRTAB:
        raise GuestElfError(f"is damaged: the names of its symbols should be in section {link}, which has none")
    names = _part(data, "the names of the symbols", sections[link][4], sections[link][5])
    for name_at, info, _, section, address, symbol_size in _SYMBOL.iter_unpack(_part(data, "the symbols", at, size)):
        if info & 0xF > SymbolKind.FUNCTION or section == _UNDEFINED:
            continue
        name = _name(names, name_at)
        # $x and $d only say what is code and what is data.
        if name and not name.startswith("$"):
            yield Symbol(name, address, symbol_size, SymbolKind(info & 0xF), is_local=not info >> 4)


def _name(names: bytes, at: int) -> str:
    end = names.find(b"\0", at)
    if end < 0 or at > len(names):
        raise GuestElfError(f"is damaged: the name of a symbol should be at {at:#x} of {len(names):#x} bytes of names")
    return names[at:end].decode("utf-8", "backslashreplace")
