# SPDX-License-Identifier: GPL-2.0-only
"""`GuestProgram`: guest code, built and laid out, ready to be loaded into a VM."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64.operands import Target
from pytest_kvm_sea.guest.base import STACK_TOP, USER_STACK_TOP
from pytest_kvm_sea.guest.codegen import DATA
from pytest_kvm_sea.guest.elf import parse_elf
from pytest_kvm_sea.guest.elf_image import make_image
from pytest_kvm_sea.guest.errors import GuestBuildError, GuestElfError
from pytest_kvm_sea.guest.layout import DEFAULT_BASE, DEFAULT_UCALL_MMIO, PAGE, Segment, pages
from pytest_kvm_sea.guest.linker import Function, Handler, Handlers, Image, Linker
from pytest_kvm_sea.guest.source import file_name, line_text
from pytest_kvm_sea.guest.vectors import Vector

DEFAULT_STACK = 2 * PAGE
_NO_HANDLERS: Handlers = MappingProxyType[Vector, Handler]({})
_NO_GLOBALS: Mapping[str, int] = MappingProxyType({})
_GLOBAL_SIZE = 8


@dataclass(frozen=True, slots=True)
class GuestProgram:
    """A program for one vCPU.

    Whoever loads it maps the segments, and sets PC to `entry`, SP_EL1 to `stack_top` and VBAR_EL1 to `vectors`. The
    page at `ucall_mmio` is mapped (for EL0 too) to a guest physical address that no memslot has.
    """

    segments: tuple[Segment, ...]
    entry: GuestVA
    vectors: GuestVA
    stack_top: GuestVA
    user_stack_top: GuestVA | None
    symbols: Mapping[str, GuestVA]
    """Addresses of functions, globals and labels."""
    ucall_mmio: GuestVA
    _sizes: Mapping[str, int] = field(repr=False, default_factory=dict)
    _functions: tuple[tuple[int, str], ...] = field(repr=False, default=())
    _lines: tuple[tuple[int, str, int], ...] = field(repr=False, default=())

    @property
    def span(self) -> range:
        """The guest virtual addresses from the first segment to the last; there may be gaps."""
        return range(self.segments[0].gva, self.segments[-1].end)

    @classmethod
    def build(
        cls,
        main: Function,
        *,
        handlers: Handlers = _NO_HANDLERS,
        user: Function | None = None,
        globals: Mapping[str, int] = _NO_GLOBALS,  # noqa: A002 - that is what they are called in C
        base: GuestVA = DEFAULT_BASE,
        ucall_mmio: GuestVA = DEFAULT_UCALL_MMIO,
        stack_size: int = DEFAULT_STACK,
    ) -> GuestProgram:
        """Build a program from guest functions.

        main: runs at EL1.
        handlers: exception handlers by vector and exception class, or by vector.
        user: runs at EL0 once ``enter_el0`` is reached.
        globals: 64-bit numbers with their initial values; their addresses are in `symbols`.

        Raises GuestBuildError where guest code is wrong, and ValueError for operands that no instruction takes.
        """
        _check_layout(base, stack_size)
        linker = Linker(globals, ucall_mmio, has_user=user is not None)
        entry = linker.main(main)
        if user is not None:
            linker.main(user, is_user=True)
        image = linker.image(handlers)
        return cls._place(linker, image, entry, base, stack_size)

    @classmethod
    def from_elf(cls, path: str | Path) -> GuestProgram:
        """Load a guest in C or assembly: a statically linked ELF executable for AArch64 (docs/guests-in-c.md).

        Its functions and variables are in `symbols`, but for static ones whose name several of its files use.

        Raises GuestElfError that says in one line what is wrong with the file and how to build it, and OSError where it
        cannot be read.
        """
        try:
            image = make_image(parse_elf(Path(path).read_bytes()))
        except GuestElfError as error:
            raise GuestElfError(f"{path} {error}") from None
        return cls(
            segments=image.segments,
            entry=image.entry,
            vectors=image.vectors,
            stack_top=image.stack_top,
            user_stack_top=image.user_stack_top,
            symbols=MappingProxyType(image.symbols),
            ucall_mmio=image.ucall_mmio,
            _sizes=MappingProxyType(image.sizes),
            _functions=image.functions,
        )

    def size_of(self, name: str) -> int:
        """The size of a variable, bytes: 8 for all that is not a variable in C."""
        return self._sizes.get(name, _GLOBAL_SIZE)

    @classmethod
    def _place(cls, linker: Linker, image: Image, entry: str, base: GuestVA, stack_size: int) -> GuestProgram:
        code_size = pages(len(image.code))
        data_at = GuestVA(base + code_size)
        data = Segment(
            "data",
            data_at,
            linker.data.link(data_at),
            pages(len(linker.data)),
            writable=True,
            executable=False,
            user=linker.has_user,
        )
        # A page is left out below each stack: one that overflows faults.
        stacks = [_stack("stack", data.end + PAGE, stack_size, user=False)]
        places: dict[Target, int] = {DATA: data_at, STACK_TOP: stacks[0].end}
        if linker.has_user:
            stacks.append(_stack("user stack", stacks[0].end + PAGE, stack_size, user=True))
            places[USER_STACK_TOP] = stacks[1].end
        # EL0 may always read and execute the code. It may not write: what EL0 can write EL1 never executes.
        code = Segment(
            "code", base, image.code.assemble(base, places), code_size, writable=False, executable=True, user=True
        )
        symbols = {name: GuestVA(base + at) for name, at in image.code.symbols.items() if not name.startswith("[")}
        symbols |= {name: GuestVA(data_at + at) for name, at in linker.globals.items()}
        return cls(
            segments=(code, data, *stacks),
            entry=symbols[entry],
            vectors=base,
            stack_top=stacks[0].end,
            user_stack_top=stacks[1].end if linker.has_user else None,
            symbols=MappingProxyType(symbols),
            ucall_mmio=GuestVA(linker.ucall_mmio),
            _functions=tuple((base + at, name) for at, name in image.functions),
            _lines=tuple((base + at, file, line) for at, file, line in image.lines),
        )

    def locate(self, pc: int) -> str:
        """Where an address of the code is: function, offset, and the line of Python that emitted the instruction."""
        code = any(part.executable and part.gva <= pc < part.gva + len(part.data) for part in self.segments)
        index = bisect_right(self._functions, pc, key=lambda function: function[0]) - 1
        if not code or index < 0:
            return f"{pc:#x} (outside of the guest's code)"
        start, name = self._functions[index]
        text = f"{name}+{pc - start:#x}"
        line = bisect_right(self._lines, pc, key=lambda entry: entry[0]) - 1
        if line < 0 or self._lines[line][0] < start:
            return text
        _, path, number = self._lines[line]
        written = line_text(path, number)
        return f"{text} ({file_name(path)}:{number}{': ' + written if written else ''})"


def _stack(name: str, at: int, size: int, *, user: bool) -> Segment:
    return Segment(name, GuestVA(at), b"", size, writable=True, executable=False, user=user)


def _check_layout(base: int, stack_size: int) -> None:
    if base % PAGE or base < 0:
        raise GuestBuildError(f"base is {base:#x}; it takes a multiple of {PAGE:#x}")
    if stack_size % PAGE or stack_size <= 0:
        raise GuestBuildError(f"stack_size is {stack_size:#x}; it takes a positive multiple of {PAGE:#x}")
