# SPDX-License-Identifier: GPL-2.0-only
"""`GuestProgram.from_elf`: what it makes of executables, and what it says of files that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_kvm_sea.guest.elf import Elf, Load, Symbol, SymbolKind, parse_elf
from pytest_kvm_sea.guest.elf_image import USER, ElfImage, make_image
from pytest_kvm_sea.guest.errors import GuestElfError
from pytest_kvm_sea.guest.layout import DEFAULT_UCALL_MMIO, PAGE, TABLES_BASE
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vm import Vm

FIXTURES = Path(__file__).parents[2] / "fixtures/elf"
NAMES = ("exceptions", "exceptions-zig", "inject_iabt", "sea_to_user")
GOOD = (FIXTURES / "exceptions.elf").read_bytes()
HEADER, PROGRAM_HEADER, SECTION_HEADER, SYMBOL = 64, 56, 64, 24
E_TYPE, E_MACHINE, E_ENTRY, E_PHOFF, E_SHOFF, E_PHENTSIZE, E_PHNUM, E_SHENTSIZE, E_SHNUM = (
    16,
    18,
    24,
    32,
    40,
    54,
    56,
    58,
    60,
)
HINT = "pytest_kvm_sea.guest.cc"


def patched(*changes: tuple[int, str, int]) -> bytes:
    """The good file with fields changed: offset, struct format, value."""
    data = bytearray(GOOD)
    for at, kind, value in changes:
        struct.pack_into(f"<{kind}", data, at, value)
    return bytes(data)


def field(at: int, kind: str) -> int:
    return int(struct.unpack_from(f"<{kind}", GOOD, at)[0])


def symbol_table() -> int:
    """Where the section header of the symbol table is."""
    headers = range(field(E_SHOFF, "Q"), field(E_SHOFF, "Q") + SECTION_HEADER * field(E_SHNUM, "H"), SECTION_HEADER)
    (found,) = (at for at in headers if field(at + 4, "I") == 2)
    return found


def symbol(name: str) -> int:
    """Where the symbol of this name is in the file."""
    table = symbol_table()
    names = field(field(E_SHOFF, "Q") + SECTION_HEADER * field(table + 40, "I") + 24, "Q")
    start, size = field(table + 24, "Q"), field(table + 32, "Q")
    for at in range(start, start + size, SYMBOL):
        if GOOD[names + field(at, "I") :].startswith(name.encode() + b"\0"):
            return at
    raise AssertionError(name)


FIRST_LOAD = HEADER
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no ELF file (it begins with nothing)"),
    "text": (b"#!/bin/sh\n", "is no ELF file (it begins with 23 21 2f 62)"),
    "short": (GOOD[:63], "ends after 63 of the 64 bytes of an ELF header"),
    "32-bit": (patched((4, "B", 1), (E_MACHINE, "H", 40)), "32-bit, little-endian, machine 40"),
    "big-endian": (patched((5, "B", 2)), "64-bit, big-endian"),
    "x86": (patched((E_MACHINE, "H", 62)), "machine 62); a guest is 64-bit little-endian AArch64 (machine 183)"),
    "object": (patched((E_TYPE, "H", 1)), "no executable but an object file that is not linked yet"),
    "pie": (patched((E_TYPE, "H", 3)), "position-independent or a shared library; link with -static -no-pie"),
    "core": (patched((E_TYPE, "H", 4)), "no executable but a core dump"),
    "type": (patched((E_TYPE, "H", 0xFE00)), "no executable but of type 65024"),
    "no program headers": (patched((E_PHNUM, "H", 0)), "has nothing to load"),
    "many program headers": (
        patched((E_PHNUM, "H", 65), (E_PHOFF, "Q", 0)),
        "has 65 program headers; a guest has at most 64",
    ),
    "program headers outside": (patched((E_PHOFF, "Q", len(GOOD))), "is damaged: the program headers should be at"),
    "program header size": (patched((E_PHENTSIZE, "H", 32)), "has program headers of 32 bytes each; they have 56"),
    "dynamic": (patched((FIRST_LOAD, "I", 2)), "is linked dynamically; link with -static"),
    "interpreter": (patched((FIRST_LOAD, "I", 3)), "asks for a dynamic linker; link with -static"),
    "thread-local": (patched((FIRST_LOAD, "I", 7)), "has thread-local variables"),
    "segment outside the file": (
        patched((FIRST_LOAD + 8, "Q", 1 << 63)),
        "is damaged: the segment for 0x10000 should be at",
    ),
    "more in the file": (patched((FIRST_LOAD + 40, "Q", 1)), "has 0x1 bytes in memory and 0x"),
    "segment wraps": (patched((FIRST_LOAD + 16, "Q", (1 << 64) - 8)), "is damaged: the segment at 0xfffffffffffffff8"),
    "segment too high": (
        patched((FIRST_LOAD + 16, "Q", TABLES_BASE - PAGE + 1), (FIRST_LOAD + 40, "Q", 0x2000)),
        f"outside of the room that a VM gives a program, [0, {TABLES_BASE:#x})",
    ),
    "segment too large": (patched((FIRST_LOAD + 40, "Q", 1 << 40)), "has a segment [0x10000, 0x10000010000) outside"),
    "overlap": (patched((FIRST_LOAD + PROGRAM_HEADER + 16, "Q", 0x10FF0)), "has two segments in the page at 0x10000"),
    "entry outside": (patched((E_ENTRY, "Q", 0x8000)), "has its entry at 0x8000"),
    "entry misaligned": (patched((E_ENTRY, "Q", 0x10002)), "has its entry at 0x10002"),
    "entry in data": (patched((E_ENTRY, "Q", field(symbol("byte") + 8, "Q") & ~3)), "not in executable memory"),
    "no sections": (patched((E_SHNUM, "H", 0)), "has no symbols; do not strip it, and link without -s"),
    "sections outside": (patched((E_SHOFF, "Q", (1 << 64) - 1)), "is damaged: the section headers should be at"),
    "section size": (patched((E_SHENTSIZE, "H", 40)), "has section headers of 40 bytes each; they have 64"),
    "stripped": (patched((symbol_table() + 4, "I", 1)), "has no symbols; do not strip it, and link without -s"),
    "symbol size": (patched((symbol_table() + 56, "Q", 16)), "is damaged: a symbol table of 0x"),
    "symbols outside": (patched((symbol_table() + 24, "Q", len(GOOD))), "is damaged: the symbols should be at"),
    "names of symbols": (patched((symbol_table() + 40, "I", 0)), "the names of its symbols should be in section 0"),
    "no such section": (patched((symbol_table() + 40, "I", 999)), "the names of its symbols should be in section 999"),
    "name outside": (patched((symbol("guest_code"), "I", 1 << 31)), "the name of a symbol should be at 0x80000000"),
    "no vectors": (patched((symbol("kvm_sea_vectors") + 6, "H", 0)), "has no symbol kvm_sea_vectors; it comes from"),
    "no stack": (patched((symbol("kvm_sea_stack_top") + 6, "H", 0)), "has no symbol kvm_sea_stack_top"),
    "no ucalls": (patched((symbol("kvm_sea_ucall_mmio") + 6, "H", 0)), "has no symbol kvm_sea_ucall_mmio"),
    "vectors misaligned": (patched((symbol("kvm_sea_vectors") + 8, "Q", 0x10400)), "has kvm_sea_vectors at 0x10400"),
    "stack in code": (patched((symbol("kvm_sea_stack_top") + 8, "Q", 0x10100)), "has kvm_sea_stack_top at 0x10100"),
    "stack misaligned": (
        patched((symbol("kvm_sea_stack_top") + 8, "Q", field(symbol("kvm_sea_stack_top") + 8, "Q") - 8)),
        "has kvm_sea_stack_top at 0x",
    ),
    "stack at 0": (patched((symbol("kvm_sea_stack_top") + 8, "Q", 0)), "has kvm_sea_stack_top at 0x0"),
    "EL0's stack": (patched((symbol("kvm_sea_user_stack_top") + 8, "Q", 1)), "has kvm_sea_user_stack_top at 0x1"),
    "ucalls to memory": (
        patched((symbol("kvm_sea_ucall_mmio") + 8, "Q", 0x20000)),
        "has kvm_sea_ucall_mmio at 0x20000",
    ),
    "ucalls inside a page": (patched((symbol("kvm_sea_ucall_mmio") + 8, "Q", 0x291008)), "has kvm_sea_ucall_mmio at"),
    "ucalls too high": (patched((symbol("kvm_sea_ucall_mmio") + 8, "Q", 1 << 33)), "below 0x100000000"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    data, text = BAD[case]
    path = tmp_path / "bad.elf"
    path.write_bytes(data)
    with pytest.raises(GuestElfError) as caught:
        GuestProgram.from_elf(path)
    message = str(caught.value)
    assert text in message
    assert message.startswith(f"{path} ")
    assert "\n" not in message


@pytest.mark.parametrize("case", ["text", "object", "dynamic", "stripped", "no vectors", "overlap", "entry outside"])
def test_how_to_build_it_right_is_said(case: str) -> None:
    with pytest.raises(GuestElfError, match=HINT):
        make_image(parse_elf(BAD[case][0]))


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        GuestProgram.from_elf(tmp_path / "none.elf")


OFFSETS = st.one_of(
    st.integers(0, HEADER - 1),
    st.integers(HEADER, HEADER + 6 * PROGRAM_HEADER - 1),
    st.integers(field(symbol_table() + 24, "Q"), len(GOOD) - 1),
    st.integers(0, len(GOOD) - 1),
)
BYTES = st.one_of(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]), st.integers(0, 255))


@given(st.lists(st.tuples(OFFSETS, BYTES), max_size=6), st.just(0) | st.integers(0, len(GOOD)))
@example([(E_SHNUM, 0xFF), (E_SHNUM + 1, 0xFF)], 0)
@example([(E_PHNUM, 0xFF), (E_PHNUM + 1, 0xFF)], 0)
def test_any_damage_gives_that_error_or_a_program(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    try:
        image = make_image(parse_elf(bytes(data[: len(data) - cut])))
    except GuestElfError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it need not be raised
    else:
        check_loadable(image)


def check_loadable(image: ElfImage) -> None:
    """What Vm.load and Vm.add_vcpu take for granted."""
    assert image.segments
    end = 0
    for segment in image.segments:
        assert segment.gva % PAGE == segment.size % PAGE == 0
        assert end <= segment.gva
        assert len(segment.data) <= segment.size
        end = segment.end
    assert end <= TABLES_BASE
    assert image.ucall_mmio % PAGE == 0


CONSTANT, DATA_SEGMENTS = ["r-xu", "r--u"], {"exceptions": ["rw--", "rw-u"], "inject_iabt": [], "sea_to_user": ["rw--"]}


@pytest.mark.parametrize("name", NAMES)
def test_permissions(name: str) -> None:
    """Code and constants for all, data for EL1 but where it is marked, a stack for each."""
    program = GuestProgram.from_elf(FIXTURES / f"{name}.elf")
    data = DATA_SEGMENTS[name.partition("-")[0]]
    assert [part.name for part in program.segments] == [f"load {part}" for part in (*CONSTANT, *data, "rw--", "rw-u")]
    for part in program.segments:
        assert (part.writable, part.executable, part.user) == tuple(letter in part.name[5:] for letter in "wxu")
    stack, user_stack = program.segments[-2:]
    assert (stack.end, user_stack.end) == (program.stack_top, program.user_stack_top)
    # A page is left out below each stack.
    assert program.segments[-3].end < stack.gva
    assert stack.end < user_stack.gva


def test_what_the_vmm_sets_up() -> None:
    program = GuestProgram.from_elf(str(FIXTURES / "exceptions.elf"))
    assert program.ucall_mmio == DEFAULT_UCALL_MMIO
    assert program.entry == program.symbols["_start"]
    assert program.vectors == program.symbols["kvm_sea_vectors"]
    assert program.locate(program.entry + 8) == "_start+0x8"
    assert program.locate(program.symbols["on_svc"]) == "on_svc+0x0"
    assert program.locate(program.symbols["byte"]) == f"{program.symbols['byte']:#x} (outside of the guest's code)"
    sizes = {"byte": 1, "half": 2, "word": 4, "doubleword": 8, "flag": 1, "table": 24, "guest_code": 8}
    assert {name: program.size_of(name) for name in sizes} == sizes


@pytest.mark.parametrize("name", NAMES)
def test_they_can_be_loaded(name: str) -> None:
    program = GuestProgram.from_elf(FIXTURES / f"{name}.elf")
    host = SimHost(load_platform("ampereone"))
    with Vm(host) as vm:
        vm.load(program)
        for segment in program.segments:
            assert vm.read(segment.gva, segment.size) == segment.data.ljust(segment.size, b"\0")
    host.close()


def test_code_before_the_first_function(tmp_path: Path) -> None:
    """No function is made up for it."""
    path = tmp_path / "guest.elf"
    path.write_bytes(patched((symbol("kvm_sea_vectors") + 4, "B", 0x10)))
    program = GuestProgram.from_elf(path)
    assert program.locate(program.vectors) == f"{program.vectors:#x} (outside of the guest's code)"
    assert program.locate(program.entry) == "_start+0x0"


START = (
    Symbol("kvm_sea_vectors", 0x1_0800, 0, SymbolKind.NOTYPE, is_local=False),
    Symbol("kvm_sea_stack_top", 0x2_2000, 0, SymbolKind.NOTYPE, is_local=False),
    Symbol("kvm_sea_ucall_mmio", 0x29_1000, 0, SymbolKind.NOTYPE, is_local=False),
)
CODE, DATA = Load(0x1_0000, b"code", 0x1000, 5), Load(0x2_0000, b"", 0x2000, 6)


def image_of(*symbols: Symbol, loads: tuple[Load, ...] = (CODE, DATA), entry: int = 0x1_0000) -> ElfImage:
    return make_image(Elf(entry, loads, (*START, *symbols)))


def test_names_of_several_files() -> None:
    """A global one hides those of single files; static ones that share a name are told by none."""

    def variable(name: str, address: int, *, is_local: bool) -> Symbol:
        return Symbol(name, address, 4, SymbolKind.OBJECT, is_local)

    image = image_of(
        variable("count", 0x2_0000, is_local=True),
        variable("count", 0x2_0004, is_local=True),
        variable("state", 0x2_0008, is_local=True),
        variable("state", 0x2_000C, is_local=False),
        variable("alone", 0x2_0010, is_local=True),
    )
    assert {name: at for name, at in image.symbols.items() if "kvm_sea" not in name} == {
        "state": 0x2_000C,
        "alone": 0x2_0010,
    }
    assert image.sizes == {"state": 4, "alone": 4}


def test_functions_of_several_names() -> None:
    image = image_of(
        Symbol("inner", 0x1_0100, 8, SymbolKind.FUNCTION, is_local=True),
        Symbol("outer", 0x1_0100, 8, SymbolKind.FUNCTION, is_local=False),
        Symbol("elsewhere", 0x2_0100, 8, SymbolKind.FUNCTION, is_local=False),
        Symbol("first", 0x1_0010, 8, SymbolKind.FUNCTION, is_local=True),
    )
    assert image.functions == ((0x1_0010, "first"), (0x1_0100, "outer"))


def test_a_segment_that_begins_inside_a_page() -> None:
    image = image_of(loads=(CODE, Load(0x2_0010, b"data", 0x1FF0, 6 | USER)))
    data = image.segments[1]
    assert (data.gva, data.size, data.data, data.user) == (0x2_0000, 0x2000, bytes(16) + b"data", True)


def test_segments_are_ordered() -> None:
    assert [part.gva for part in image_of(loads=(DATA, CODE)).segments] == [0x1_0000, 0x2_0000]
