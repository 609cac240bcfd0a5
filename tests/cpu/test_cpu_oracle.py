# SPDX-License-Identifier: GPL-2.0-only
"""User-level instructions against another implementation, Unicorn: random operands, the same number for every class."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.cpu.bus import Access, Page
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features

CODE, DATA, DATA_SIZE = 0x10000, 0x20000, 0x4000
CASES = 60
_INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFFFF,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 63,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


class Ram:
    """One MiB of stable memory."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(1 << 20))

    def page(self, ipa: int, access: Access) -> Page:
        return Page(self.view[ipa & ~0xFFF : (ipa & ~0xFFF) + 4096], stable=True)

    def check(self, ipa: int, size: int, access: Access) -> None:
        raise AssertionError("the pages are stable")


class Machine(NamedTuple):
    """What is compared."""

    x: tuple[int, ...]
    sp: int
    nzcv: int
    pc: int
    data: bytes


@pytest.fixture(scope="module")
def oracle() -> Any:
    try:
        import unicorn  # noqa: PLC0415
        from unicorn import arm64_const  # noqa: PLC0415
    except ImportError:
        pytest.skip("[unicorn] the oracle for user-level instructions is not installed; pip install unicorn")
    return Oracle(unicorn, arm64_const)


class Oracle:
    """Unicorn with the same memory map."""

    def __init__(self, unicorn: ModuleType, names: ModuleType) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.error, self.fetch_unmapped = unicorn.UcError, unicorn.UC_ERR_FETCH_UNMAPPED
        self.uc.ctl_set_cpu_model(names.UC_CPU_ARM64_MAX)
        self.uc.mem_map(0, 1 << 20)
        self.registers = [
            *(getattr(names, f"UC_ARM64_REG_X{number}") for number in range(31)),
            names.UC_ARM64_REG_SP,
            names.UC_ARM64_REG_NZCV,
            names.UC_ARM64_REG_PC,
        ]

    def run(self, code: bytes, before: Machine) -> Machine:
        uc = self.uc
        uc.mem_write(CODE, code)
        uc.mem_write(DATA, before.data)
        uc.ctl_remove_cache(CODE, CODE + 4096)
        for register, value in zip(self.registers, (*before.x, before.sp, before.nzcv << 28, CODE), strict=True):
            uc.reg_write(register, value)
        try:
            uc.emu_start(CODE, 1 << 40, count=len(code) // 4)
        except self.error as error:
            if error.errno != self.fetch_unmapped:  # The target of a branch need not be mapped
                raise
        values = [uc.reg_read(register) for register in self.registers]
        return Machine(
            tuple(values[:31]), values[31], values[32] >> 28, values[33], bytes(uc.mem_read(DATA, DATA_SIZE))
        )


def simulate(code: bytes, before: Machine) -> Machine:
    ram = Ram()
    ram.view[CODE : CODE + len(code)] = code
    ram.view[DATA : DATA + DATA_SIZE] = before.data
    cpu = Cpu(ram, Features())
    cpu.pstate = before.nzcv << 28
    cpu.x[:] = before.x
    cpu.sp_el0 = before.sp
    cpu.pc = CODE
    for _ in range(len(code) // 4):
        assert cpu.step() is None
    return Machine(tuple(cpu.x), cpu.sp_el0, cpu.nzcv, cpu.pc, bytes(ram.view[DATA : DATA + DATA_SIZE]))


def _operand(rng: random.Random) -> int:
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(_INTERESTING)
    return rng.getrandbits(64 if kind == 1 else rng.randrange(1, 65))


def _fields(rng: random.Random, name: str) -> dict[str, int]:
    """Random fields of an allocated instruction of this class."""
    encoding = ENCODINGS[name]
    while True:
        word = rng.getrandbits(32) & ~encoding.mask | encoding.match | encoding.should_be
        if encoding.has(word):
            return encoding.decode(word)


_PLAIN = [
    "ADR",
    "ADDSUB_IMM",
    "LOGICAL_IMM",
    "MOVE_WIDE",
    "BITFIELD",
    "EXTR",
    "LOGICAL_SHIFTED",
    "ADDSUB_SHIFTED",
    "ADDSUB_EXTENDED",
    "ADDSUB_CARRY",
    "CCMP_REG",
    "CCMP_IMM",
    "CSEL",
    "MADD",
    "MADDL",
    "MULH",
    "DIV",
    "SHIFT_VARIABLE",
    "CRC32",
    "ONE_SOURCE",
    "B_COND",
    "B",
    "CBZ",
    "TBZ",
    "BR",
    "HINT",
    "DMB",
    "DSB",
    "CLREX",
]
_MEMORY = [
    "LDST_UIMM",
    "LDST_UNSCALED",
    "LDST_POST",
    "LDST_UNPRIVILEGED",
    "LDST_PRE",
    "LDST_REG",
    "LDR_LITERAL",
    "LDST_PAIR",
    "ORDERED",
    "LDAPR",
    "LDAPR_UNSCALED",
    "ATOMIC",
    "SWP",
    "CAS",
    "CASP",
    "PRFM_UIMM",
    "PRFM_UNSCALED",
    "PRFM_REG",
    "PRFM_LITERAL",
    "EXCLUSIVE",
    "EXCLUSIVE_PAIR",
]
_REGISTERS = ("Rd", "Rn", "Rm", "Ra", "Rt", "Rt2", "Rs")


def _distinct(rng: random.Random, fields: dict[str, int]) -> None:
    """Other registers than the base, and different from one another: overlaps are CONSTRAINED UNPREDICTABLE."""
    numbers = rng.sample(range(0, 30, 2), len(_REGISTERS))
    for name, number in zip(_REGISTERS, numbers, strict=True):
        if name in fields:
            fields[name] = number
    if rng.randrange(6) == 0:
        fields["Rn"] = 31
    if rng.randrange(8) == 0 and "Rt" in fields and "Rs" not in fields:
        fields["Rt"] = 31


def _plain_case(rng: random.Random, name: str) -> tuple[list[int], dict[int, int]]:
    fields = _fields(rng, name)
    if name == "HINT":
        # NOP, YIELD, SEV, SEVL, BTI; the others wait, or are authentication, which Unicorn has
        fields = dict(zip(("CRm", "op2"), rng.choice(((0, 0), (0, 1), (0, 4), (0, 5), (4, 0), (4, 6))), strict=True))
    values = {}
    if name == "BR":
        values[fields["Rn"]] = rng.getrandbits(38) << 2
    return [ENCODINGS[name].encode(**fields)], values


def _memory_case(rng: random.Random, name: str) -> tuple[list[int], dict[int, int]]:
    fields = _fields(rng, name)
    if "Rn" in fields:
        _distinct(rng, fields)
    base = DATA + 0x1000 + rng.randrange(0x1000)
    if (
        name not in {"LDST_POST", "LDST_PRE", "LDST_UNSCALED", "LDST_UIMM", "LDST_REG", "LDST_PAIR"}
        or fields["Rn"] == 31
    ):
        base &= ~15
    values = {}
    match name:
        case "LDST_UIMM":
            fields["imm12"] &= 0xFF
        case "LDST_REG" | "PRFM_REG":
            size = fields.get("size", 3) if fields["S"] else 0
            offset = rng.randrange(-0x100, 0x100)
            values[fields["Rm"]] = offset & (1 << 64) - 1 if fields["option"] >= 6 else (offset & 0xFF) + 8
            if fields["option"] in {2, 6}:
                values[fields["Rm"]] = values[fields["Rm"]] & 0xFFFFFFFF | rng.getrandbits(32) << 32
            del size
        case "LDR_LITERAL":
            fields["imm19"] = rng.randrange(0, 0x800)
        case "LDAPR_UNSCALED":
            fields["imm9"] &= ~15
        case "ATOMIC" if fields["opc"] in {4, 5} and fields["size"] < 3:
            # Unicorn compares narrow operands as unsigned: test_cpu_atomics has these
            fields["opc"] ^= 2
        case _:
            pass
    if "Rn" in fields:
        values[fields["Rn"]] = base
    words = [ENCODINGS[name].encode(**fields)]
    if name.startswith("EXCLUSIVE"):
        # A load, and a store that the monitor lets through or not
        load, store = dict(fields, L=1, Rs=31), dict(fields, L=0, Rt=fields["Rs"] + 1)
        words = [ENCODINGS[name].encode(**load)] * rng.randrange(2) + [ENCODINGS[name].encode(**store)]
    return words, values


def _check(oracle: Oracle, name: str, case: Callable[..., tuple[list[int], Mapping[int, int]]]) -> None:
    rng = random.Random(name)
    data = rng.randbytes(DATA_SIZE)
    for _ in range(CASES):
        words, values = case(rng, name)
        x = [_operand(rng) for _ in range(31)]
        sp = DATA + 0x1000 + rng.randrange(0x100) * 16
        for number, value in values.items():
            if number == 31:
                sp = value
            else:
                x[number] = value
        before = Machine(tuple(x), sp, rng.randrange(16), CODE, data)
        code = struct.pack(f"<{len(words)}I", *words)
        expected, got = oracle.run(code, before), simulate(code, before)
        assert got._replace(data=b"") == expected._replace(data=b""), f"{name} {[f'{word:08x}' for word in words]}"
        assert got.data == expected.data, f"{name} {[f'{word:08x}' for word in words]}: memory"


@pytest.mark.parametrize("name", _PLAIN)
def test_registers_like_unicorn(oracle: Oracle, name: str) -> None:
    _check(oracle, name, _plain_case)


@pytest.mark.parametrize("name", _MEMORY)
def test_memory_like_unicorn(oracle: Oracle, name: str) -> None:
    _check(oracle, name, _memory_case)
