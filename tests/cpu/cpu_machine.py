# SPDX-License-Identifier: GPL-2.0-only
"""A processor with memory around it, for tests: vectors that report themselves, page tables, faults on demand."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from pytest_kvm_sea.arm64.assembler import X1, Assembler, Cond
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu import cpu as cpu_module
from pytest_kvm_sea.cpu.bus import Access, ExternalAbort, Page, Stage2Fault
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.traps import Trap

VECTORS, CODE, DATA, TABLES, SIZE = 0x8000, 0x10000, 0x20000, 0x80000, 0x100000
HVC_CLASS = 0x16
EL0T, EL1T, EL1H = 0x0, 0x4, 0x5


class Ram:
    """One MiB, and a list of what goes wrong in it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))
        self.poison: dict[int, ExternalAbort] = {}
        """IPA of a byte -> what an access to it raises."""
        self.page_faults: dict[int, Exception] = {}
        """Page number -> what asking for it raises."""
        self.asked: list[tuple[int, Access]] = []

    def page(self, ipa: int, access: Access) -> Page:
        self.asked.append((ipa, access))
        fault = self.page_faults.get(ipa >> 12)
        if fault is not None:
            raise fault
        if ipa >= SIZE:
            raise Stage2Fault(0x07)
        base = ipa & ~0xFFF
        stable = not any(base <= address < base + 4096 for address in self.poison)
        return Page(self.view[base : base + 4096], stable=stable)

    def check(self, ipa: int, size: int, access: Access) -> None:
        for address, abort in self.poison.items():
            if ipa <= address < ipa + size:
                raise abort


class Machine:
    """A processor in EL1h at `CODE` with the MMU off."""

    def __init__(self, build: Callable[[Assembler], None] | None = None, features: Features | None = None) -> None:
        self.ram = Ram()
        self.cpu = Cpu(self.ram, features or Features())
        self.cpu.pc = CODE
        self.cpu.sp_el1 = DATA + 0x800
        self.cpu.sysregs[sysreg("vbar_el1")] = VECTORS
        for index in range(16):
            self.poke(VECTORS + 0x80 * index, hvc(index))
        if build is not None:
            self.code(build)
        self._tables = TABLES + 0x1000

    def code(self, build: Callable[[Assembler], None], at: int = CODE) -> None:
        """Assemble to this address; HVC #0xff follows."""
        asm = Assembler()
        build(asm)
        asm.hvc(0xFF)
        code = bytes(asm.assemble(base=at))
        self.ram.view[at : at + len(code)] = code

    def poke(self, address: int, word: int) -> None:
        struct.pack_into("<I", self.ram.view, address, word)

    def peek(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.ram.view[address : address + size], "little")

    def fill(self, address: int, data: bytes) -> None:
        self.ram.view[address : address + len(data)] = data

    def __getitem__(self, name: str) -> int:
        return self.cpu.sysregs[sysreg(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self.cpu.sysregs[sysreg(name)] = value

    @property
    def pending(self) -> int | None:
        """The syndrome of the pending SError."""
        return self.cpu.vserror

    def run(self, limit: int = 10_000) -> Trap:
        trap = self.cpu.run(limit)
        assert trap is not None, f"no trap within {limit} instructions, PC {self.cpu.pc:#x}"
        return trap

    def finish(self) -> None:
        """Run to the HVC at the end of the code."""
        trap = self.run(10_000_000)
        assert trap.esr == hvc_esr(0xFF), f"{trap} at {self.cpu.pc:#x}, ESR_EL1 {self['esr_el1']:#x}"

    def vector(self) -> int:
        """Run into an exception to EL1: the offset of its vector."""
        trap = self.run()
        assert trap.esr >> 26 == HVC_CLASS, f"{trap} at {self.cpu.pc:#x}"
        assert trap.esr & 0xFFFF < 16, "the code ended without an exception"
        return (trap.esr & 0xFFFF) * 0x80

    # Page tables: four levels from TABLES, 48-bit halves that share them

    def enable_mmu(self, tcr: int = 16 | 16 << 16 | 2 << 30 | 5 << 32, sctlr: int = 0) -> None:
        """Stage 1 on; code, vectors and data mapped to themselves, accessible to EL1 only."""
        self["tcr_el1"] = tcr
        self["ttbr0_el1"] = self["ttbr1_el1"] = TABLES
        self["sctlr_el1"] = self["sctlr_el1"] | 1 | sctlr
        for page in (VECTORS, CODE, DATA):
            self.map(page, page)
        self.cpu.invalidate_tlb()

    def map(self, va: int, ipa: int, attributes: int = 0, level: int = 3, *, kind: int | None = None) -> None:
        """A leaf at this level; ``attributes`` are added to AF, ``kind`` are bits 1:0 where not the usual ones."""
        table = TABLES
        for above in range(level):
            entry = table + (va >> 39 - 9 * above & 0x1FF) * 8
            descriptor = self.peek(entry)
            if not descriptor & 1:
                descriptor = self._tables | 3
                self._tables += 0x1000
                struct.pack_into("<Q", self.ram.view, entry, descriptor)
            table = descriptor & 0x0000_FFFF_FFFF_F000
        bits = (3 if level == 3 else 1) if kind is None else kind
        descriptor = (ipa | 1 << 10 | bits) ^ attributes
        struct.pack_into("<Q", self.ram.view, table + (va >> 39 - 9 * level & 0x1FF) * 8, descriptor)

    def entry(self, va: int, level: int) -> int:
        """The address of the descriptor for this address at this level."""
        table = TABLES
        for above in range(level):
            table = self.peek(table + (va >> 39 - 9 * above & 0x1FF) * 8) & 0x0000_FFFF_FFFF_F000
        return table + (va >> 39 - 9 * level & 0x1FF) * 8

    def set_bits(self, address: int, bits: int) -> None:
        struct.pack_into("<Q", self.ram.view, address, self.peek(address) | bits)


def several(*builders: Callable[[Assembler], None]) -> Callable[[Assembler], None]:
    """One after the other."""

    def build(asm: Assembler) -> None:
        for each in builders:
            each(asm)

    return build


def hvc(immediate: int) -> int:
    return 0xD4000002 | immediate << 5


def hvc_esr(immediate: int) -> int:
    return HVC_CLASS << 26 | 1 << 25 | immediate


ROUNDS = 40


def compiled_and_reference(
    body: Callable[[Assembler], None], start: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Machine, Machine]:
    """Two machines that have run a loop around ``body``: one that compiles it, one that executes it step by step.

    X0 is ``start``, X1 counts the rounds down; there is random data from `DATA` on.
    """

    def build(asm: Assembler) -> None:
        asm.label("loop")
        body(asm)
        asm.subs(X1, X1, 1)
        asm.b_cond(Cond.NE, "loop")

    # Late enough for all blocks of the body to be known
    monkeypatch.setattr(cpu_module, "HOT", 8)
    compiled, reference = Machine(build), Machine(build)
    for machine in (compiled, reference):
        machine.cpu.x[0], machine.cpu.x[1] = start, ROUNDS
        machine.fill(DATA, random.Random(start).randbytes(0x3000))
    compiled.finish()
    while reference.cpu.step() is None:
        pass
    return compiled, reference
