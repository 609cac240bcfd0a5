# SPDX-License-Identifier: GPL-2.0-only
"""Compiled regions against the closures: random control flow, faults, the same state in the end."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from pytest_kvm_sea.arm64.encodings import ENCODINGS, encode
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu import cpu as cpu_module
from pytest_kvm_sea.cpu.bus import Access, Page, Stage2Fault
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.traps import Trap

VECTORS, CODE, DATA, READ_ONLY, SIZE = 0x8000, 0x10000, 0x20000, 0x23000, 0x24000
_STRAIGHT = (
    "ADDSUB_IMM",
    "ADDSUB_SHIFTED",
    "ADDSUB_EXTENDED",
    "ADDSUB_CARRY",
    "LOGICAL_IMM",
    "LOGICAL_SHIFTED",
    "MOVE_WIDE",
    "BITFIELD",
    "EXTR",
    "CCMP_REG",
    "CCMP_IMM",
    "CSEL",
    "MADD",
    "MADDL",
    "MULH",
    "DIV",
    "SHIFT_VARIABLE",
    "ONE_SOURCE",
    "CRC32",
    "ADR",
)
_TRANSFERS = ("LDST_UNSCALED", "LDST_PRE", "LDST_POST", "LDST_UIMM", "LDST_REG", "LDST_PAIR", "LDR_LITERAL")
_FORWARD = ("B_COND", "CBZ", "TBZ")
_OFFSET = {"B": "imm26", "B_COND": "imm19", "CBZ": "imm19", "TBZ": "imm14"}


class Ram:
    """Memory that ends after the data: what lies behind it has no stage 2. One page of the data cannot be written."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))

    def page(self, ipa: int, access: Access) -> Page:
        if ipa >= SIZE:
            raise Stage2Fault(0x07)
        if ipa >> 12 == READ_ONLY >> 12 and access is Access.WRITE:
            raise Stage2Fault(0x0F)
        return Page(self.view[ipa & ~0xFFF : (ipa & ~0xFFF) + 4096], stable=True)

    def check(self, ipa: int, size: int, access: Access) -> None:
        raise AssertionError("the pages are stable")


def _fields(rng: random.Random, name: str) -> dict[str, int]:
    encoding = ENCODINGS[name]
    while True:
        word = rng.getrandbits(32) & ~encoding.mask | encoding.match | encoding.should_be
        if encoding.has(word):
            return encoding.decode(word)


def _straight(rng: random.Random) -> int:
    name = rng.choice(_STRAIGHT)
    fields = _fields(rng, name)
    for register in ("Rd", "Rn", "Rm", "Ra"):
        if register in fields:
            fields[register] = rng.randrange(8)
    if rng.randrange(12) == 0:
        fields["Rn" if "Rn" in fields else "Rd"] = 31
    return ENCODINGS[name].encode(**fields)


def _transfer(rng: random.Random) -> int:
    name = rng.choice(_TRANSFERS)
    fields = _fields(rng, name)
    first, second = rng.sample(range(8), 2)
    values = {"Rt": first, "Rt2": second, "Rn": rng.choice((20, 21, 22, 31)), "Rm": 23, "imm12": rng.randrange(64)}
    values["imm19"] = rng.randrange(64)
    fields.update({key: value for key, value in values.items() if key in fields})
    if name == "LDST_REG":
        fields["option"] = 3
    return ENCODINGS[name].encode(**fields)


def _nearby(rng: random.Random) -> int:
    """A load or store not far from others, or something that moves the address of those that follow."""
    base, other = rng.choices((20, 21, 22, 31), k=2)
    kind = rng.randrange(12)
    if kind < 2:
        moved = {"Rd": rng.choice((base, other)), "Rn": base, "imm12": rng.choice((4, 8, 64)), "op": kind}
        return encode("ADDSUB_IMM", **_fields(rng, "ADDSUB_IMM") | moved | {"sf": 1, "sh": 0, "S": 0})
    name = rng.choice(("LDST_UIMM", "LDST_UNSCALED", "LDST_PAIR", "LDST_PRE", "LDST_POST", "LDST_REG"))
    fields = _fields(rng, name)
    first, second = rng.sample(range(8), 2)
    values = {"Rt": first, "Rt2": second, "Rn": base, "Rm": rng.choice((1, 23)), "option": 3}
    values |= {"imm12": rng.randrange(4), "imm9": rng.randrange(-16, 16), "imm7": rng.randrange(-3, 4)}
    fields.update({key: value for key, value in values.items() if key in fields})
    return ENCODINGS[name].encode(**fields)


def _mixed(rng: random.Random) -> int:
    return _transfer(rng) if rng.randrange(4) == 0 else _straight(rng)


def _mostly_nearby(rng: random.Random) -> int:
    return _nearby(rng) if rng.randrange(4) else _straight(rng)


def program(rng: random.Random, instruction: Callable[[random.Random], int]) -> list[int]:
    """Blocks of a few instructions, each ending in a branch to some block; the last one is HVC."""
    blocks = [[instruction(rng) for _ in range(rng.randrange(7))] for _ in range(rng.randrange(3, 10))]
    starts, at = [], 0
    for block in blocks:
        starts.append(at)
        at += len(block) + 1
    words: list[int] = []
    for block in blocks:
        words += block
        kind = rng.randrange(10)
        offset = rng.choice([*starts, at]) - len(words)
        if kind == 0:
            words.append(encode("BR", opc=2, Rn=30))
        elif kind <= 2:
            words.append(encode("B", op=kind - 1, imm26=offset))
        else:
            name = rng.choice(_FORWARD)
            fields = _fields(rng, name)
            fields[_OFFSET[name]] = offset
            if "Rt" in fields:
                fields["Rt"] = rng.randrange(8)
            words.append(ENCODINGS[name].encode(**fields))
    return [*words, encode("HVC", imm16=0)]


def _machine(rng: random.Random, words: list[int]) -> tuple[Cpu, Ram]:
    ram = Ram()
    ram.view[CODE : CODE + 4 * len(words)] = struct.pack(f"<{len(words)}I", *words)
    for vector in range(VECTORS, VECTORS + 0x800, 0x80):
        struct.pack_into("<I", ram.view, vector, encode("HVC", imm16=1))
    ram.view[DATA:SIZE] = rng.randbytes(SIZE - DATA)
    cpu = Cpu(ram, Features())
    cpu.pc = CODE
    cpu.sysregs[sysreg("vbar_el1")] = VECTORS
    cpu.pstate = 0x5 | rng.randrange(16) << 28
    cpu.x[:] = [rng.getrandbits(rng.choice((4, 32, 64))) for _ in range(31)]
    for number in (20, 21, 22):
        # Near the end of a page, or its start; a long enough walk upwards ends outside
        cpu.x[number] = DATA + rng.randrange(1, 4) * 0x1000 + rng.choice((rng.randrange(-0x100, 0), rng.randrange(24)))
    cpu.x[23] = rng.randrange(-64, 64) & (1 << 64) - 1
    cpu.x[30] = CODE
    cpu.sp_el1 = DATA + 0x800 + rng.choice((0, 0, 0, 8))
    return cpu, ram


def _state(cpu: Cpu, ram: Ram, trap: Trap | None) -> tuple[object, ...]:
    return cpu.x, cpu.sp_el1, hex(cpu.pc), hex(cpu.pstate), cpu.sysregs, cpu.instructions, trap, bytes(ram.view[DATA:])


@pytest.mark.parametrize("instruction", [_mixed, _mostly_nearby])
@pytest.mark.parametrize("seed", range(40))
def test_regions_do_what_closures_do(
    seed: int, instruction: Callable[[random.Random], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_module, "HOT", 2)
    rng = random.Random(seed)
    words = program(rng, instruction)
    machine_seed = rng.random()
    cpu, ram = _machine(random.Random(machine_seed), words)
    reference, reference_ram = _machine(random.Random(machine_seed), words)
    trap = None
    while trap is None and cpu.instructions < 400:
        trap = cpu.run(rng.randrange(1, 60))
    expected = None
    while expected is None and reference.instructions < cpu.instructions:
        expected = reference.step()
    if trap is not None and expected is None:
        expected = reference.step()
    assert _state(cpu, ram, trap) == _state(reference, reference_ram, expected)
