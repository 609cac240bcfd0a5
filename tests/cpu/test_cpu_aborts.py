# SPDX-License-Identifier: GPL-2.0-only
"""What is taken to EL2 and what is not: syndromes of aborts (Arm ARM, D24.2.40), and the state they leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_kvm_sea.arm64.assembler import SP, W1, W2, X0, X1, X2, X3, XZR, Assembler, Indexed, Offset, Post, Pre
from pytest_kvm_sea.cpu.bus import Access, ExternalAbort, Stage2Fault
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.memory import GARBAGE_FAR
from tests.cpu.cpu_machine import CODE, DATA, SIZE, TABLES, VECTORS, Machine, several

DABT, IABT, IL = 0x24 << 26, 0x20 << 26, 1 << 25
ISV, SSE, SF, AR, FNV, EA, CM, S1PTW, WNR = 1 << 24, 1 << 21, 1 << 15, 1 << 14, 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
OUTSIDE = SIZE + 0x1238
_Build = Callable[[Assembler], None]


def _iss(size: int, register: int, rest: int) -> int:
    return ISV | size << 22 | register << 16 | rest


_STAGE2: list[tuple[str, _Build, int]] = [
    ("ldrb", lambda a: a.ldrb(W1, X0), _iss(0, 1, 0)),
    ("ldrh", lambda a: a.ldrh(W1, X0), _iss(1, 1, 0)),
    ("ldr w", lambda a: a.ldr(W2, X0), _iss(2, 2, 0)),
    ("ldr x", lambda a: a.ldr(X2, X0), _iss(3, 2, SF)),
    ("ldr xzr", lambda a: a.ldr(XZR, X0), _iss(3, 31, SF)),
    ("ldrsb w", lambda a: a.ldrsb(W1, X0), _iss(0, 1, SSE)),
    ("ldrsb x", lambda a: a.ldrsb(X1, X0), _iss(0, 1, SSE | SF)),
    ("ldrsh x", lambda a: a.ldrsh(X1, X0), _iss(1, 1, SSE | SF)),
    ("ldrsw", lambda a: a.ldrsw(X1, X0), _iss(2, 1, SSE | SF)),
    ("strb", lambda a: a.strb(W1, X0), _iss(0, 1, WNR)),
    ("str x", lambda a: a.str(X1, X0), _iss(3, 1, SF | WNR)),
    ("offset", lambda a: a.ldr(X1, Offset(X0, 0)), _iss(3, 1, SF)),
    ("register", lambda a: a.ldr(X1, Indexed(X0, X3)), _iss(3, 1, SF)),
    ("ldtr", lambda a: a.ldtr(X1, X0), _iss(3, 1, SF)),
    ("ldar", lambda a: a.ldar(W1, X0), _iss(2, 1, AR)),
    ("stlr", lambda a: a.stlr(X1, X0), _iss(3, 1, SF | AR | WNR)),
    ("post", lambda a: a.ldr(X1, Post(X0, 8)), 0),
    ("pre", lambda a: a.str(X1, Pre(X0, 0)), WNR),
    ("ldp", lambda a: a.ldp(X1, X2, X0), 0),
    ("stp", lambda a: a.stp(X1, X2, X0), WNR),
    ("ldxr", lambda a: a.ldxr(X1, X0), 0),
    ("stxr", lambda a: a.stxr(W2, X1, X0), WNR),
    ("ldadd", lambda a: a.atomic("ldadd", X1, X2, X0), 0),
    ("dc civac", lambda a: a.system("dc civac", X0), CM | WNR),
    ("dc zva", lambda a: a.system("dc zva", X0), WNR),
]


@pytest.mark.parametrize(("build", "iss"), [case[1:] for case in _STAGE2], ids=[case[0] for case in _STAGE2])
@pytest.mark.parametrize("mode", [0, 5])
def test_stage_2_faults_say_what_the_access_was(build: _Build, iss: int, mode: int) -> None:
    machine = Machine(build)
    machine["sctlr_el1"] |= 1 << 26 | 1 << 14
    machine.cpu.pstate = mode
    machine.cpu.x[0] = OUTSIDE
    registers = list(machine.cpu.x)
    trap = machine.run()
    assert hex(trap.esr) == hex(DABT | IL | iss | 0x07)
    assert (trap.far, trap.ipa) == (OUTSIDE, OUTSIDE)
    assert (machine.cpu.pc, machine.cpu.x, machine.cpu.instructions) == (CODE, registers, 0)
    assert machine.cpu.pstate == mode


def test_an_instruction_fetch_that_stage_2_refuses() -> None:
    machine = Machine(lambda asm: asm.br(X0))
    machine.cpu.x[0] = OUTSIDE
    trap = machine.run()
    assert (trap.esr, trap.far, trap.ipa) == (IABT | IL | 0x07, OUTSIDE, OUTSIDE)
    assert (machine.cpu.pc, machine.cpu.instructions) == (OUTSIDE, 1)


_EXTERNAL = [
    # abort, ISS of a load
    (ExternalAbort(), 0x10),
    (ExternalAbort(external=True), EA | 0x10),
    (ExternalAbort(severity=2), 2 << 11 | 0x10),
    (ExternalAbort(severity=3, external=True), 3 << 11 | EA | 0x10),
    (ExternalAbort(parity=True, severity=3), 0x18),
]


@pytest.mark.parametrize(("abort", "iss"), _EXTERNAL)
@pytest.mark.parametrize("sea_far", [True, False])
def test_external_aborts_of_loads_and_stores(abort: ExternalAbort, iss: int, *, sea_far: bool) -> None:
    for build, direction in ((lambda a: a.ldr(X1, X0), 0), (lambda a: a.str(X1, X0), WNR)):
        machine = Machine(build, Features(sea_far=sea_far))
        machine.ram.poison[DATA + 0x123] = abort
        machine.cpu.x[0] = DATA + 0x120
        trap = machine.run()
        assert hex(trap.esr) == hex(DABT | IL | iss | direction | (0 if sea_far else FNV))
        assert (trap.far, trap.ipa) == (DATA + 0x120 if sea_far else GARBAGE_FAR, None)
        assert (machine.cpu.pc, machine.peek(DATA + 0x120)) == (CODE, 0)


def test_external_abort_of_a_fetch_has_no_set() -> None:
    machine = Machine(several(Assembler.nop, Assembler.nop))
    machine.ram.poison[CODE + 4] = ExternalAbort(severity=3, external=True)
    trap = machine.run()
    assert hex(trap.esr) == hex(IABT | IL | EA | 0x10)
    assert (trap.far, machine.cpu.pc, machine.cpu.instructions) == (CODE + 4, CODE + 4, 1)


@pytest.mark.parametrize(
    ("sea_far", "vector", "ease"), [(True, 0x200, False), (False, 0x200, False), (True, 0x380, True)]
)
def test_without_tea_external_aborts_are_the_guests(vector: int, *, sea_far: bool, ease: bool) -> None:
    machine = Machine(lambda asm: asm.str(X1, X0), Features(sea_far=sea_far, ease=ease))
    machine.cpu.hcr_tea = False
    machine["sctlr2_el1"] = 1 << 5
    machine.ram.poison[DATA] = ExternalAbort(severity=3, external=True)
    machine.cpu.x[0] = DATA
    assert machine.vector() == vector
    assert machine["esr_el1"] == 0x25 << 26 | IL | 3 << 11 | (0 if sea_far else FNV) | EA | WNR | 0x10
    assert machine["far_el1"] == (DATA if sea_far else GARBAGE_FAR)
    assert machine["elr_el1"] == CODE


_VA = 0x0000_1234_5678_9000


def _walking(build: _Build) -> Machine:
    machine = Machine(build)
    machine.enable_mmu()
    machine.map(_VA, DATA)
    machine.cpu.x[0] = _VA + 8
    return machine


_ACCESSES: list[tuple[str, _Build, int]] = [
    ("load", lambda a: a.ldr(X1, X0), DABT),
    ("store", lambda a: a.str(X1, X0), DABT | WNR),
    ("fetch", lambda a: a.br(X0), IABT),
]
_BY_ACCESS = pytest.mark.parametrize(("build", "kind"), [case[1:] for case in _ACCESSES], ids=[c[0] for c in _ACCESSES])


@_BY_ACCESS
@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("parity", [False, True])
def test_external_abort_on_a_stage_1_walk(build: _Build, kind: int, level: int, *, parity: bool) -> None:
    machine = _walking(build)
    machine.ram.poison[machine.entry(_VA, level)] = ExternalAbort(parity=parity, severity=3)
    trap = machine.run()
    assert hex(trap.esr) == hex(kind | IL | (0x1C if parity else 0x14) + level)
    assert (trap.far, trap.ipa) == (_VA + 8, None)


@_BY_ACCESS
@pytest.mark.parametrize("level", [0, 2, 3])
def test_external_abort_on_stage_2s_own_walk(build: _Build, kind: int, level: int) -> None:
    """For the access itself, then for the fetch of a stage-1 descriptor."""
    machine = _walking(build)
    machine.cpu.hcr_tea = False
    machine.ram.page_faults[DATA >> 12] = ExternalAbort(walk_level=level)
    trap = machine.run()
    assert hex(trap.esr) == hex(kind | IL | 0x14 + level)
    assert (trap.far, trap.ipa) == (_VA + 8, DATA + 8)

    machine = _walking(build)
    descriptor = machine.entry(_VA, 2)
    machine.ram.page_faults[descriptor >> 12] = ExternalAbort(walk_level=level)
    trap = machine.run()
    assert hex(trap.esr) == hex(kind | IL | S1PTW | 0x14 + level)
    assert (trap.far, trap.ipa) == (_VA + 8, descriptor)


@_BY_ACCESS
def test_stage_2_fault_on_a_stage_1_walk(build: _Build, kind: int) -> None:
    machine = _walking(build)
    descriptor = machine.entry(_VA, 3)
    machine.ram.page_faults[descriptor >> 12] = Stage2Fault(0x06)
    trap = machine.run()
    assert hex(trap.esr) == hex(kind | IL | S1PTW | 0x06)
    assert (trap.far, trap.ipa) == (_VA + 8, descriptor)


# Accesses that cross into another page

_CROSSING: list[tuple[str, _Build, int]] = [
    ("ldr", lambda a: a.ldr(X1, X0), 8),
    ("ldrh", lambda a: a.ldrh(W1, X0), 2),
    ("ldp", lambda a: a.ldp(X1, X2, X0), 16),
    ("ldp pre", lambda a: a.ldp(X1, X2, Pre(X0, 0)), 16),
    ("str", lambda a: a.str(X1, X0), 8),
    ("stp", lambda a: a.stp(X1, X2, X0), 16),
    ("stp post", lambda a: a.stp(X1, X2, Post(X0, 16)), 16),
]


@pytest.mark.parametrize(("build", "size"), [case[1:] for case in _CROSSING], ids=[c[0] for c in _CROSSING])
def test_the_first_part_that_faults_is_reported_and_nothing_is_done(build: _Build, size: int) -> None:
    second = DATA + 0x1000
    for poisoned, far in (([second], second), ([second - 1, second], second - size // 2)):
        machine = Machine(build)
        machine.fill(DATA, bytes(range(256)) * 32)
        machine.cpu.x[:4] = [second - size // 2, 0x1111, 0x2222, 0]
        before, memory = list(machine.cpu.x), bytes(machine.ram.view)
        for address in poisoned:
            machine.ram.poison[address] = ExternalAbort()
        trap = machine.run()
        assert (trap.esr & 0x3F, hex(trap.far)) == (0x10, hex(far))
        assert (machine.cpu.pc, machine.cpu.x, bytes(machine.ram.view)) == (CODE, before, memory)


@pytest.mark.parametrize(("build", "size"), [case[1:] for case in _CROSSING], ids=[c[0] for c in _CROSSING])
def test_crossing_reads_and_writes_every_byte(build: _Build, size: int) -> None:
    start = DATA + 0x1000 - size // 2
    machine = Machine(build)
    data = bytes(range(1, size + 1))
    machine.fill(start, data)
    machine.cpu.x[:3] = [start, 0x1122334455667788, 0x99AABBCCDDEEFF00]
    machine.finish()
    first = machine.cpu.x[1].to_bytes(8, "little")
    both = first + machine.cpu.x[2].to_bytes(8, "little")
    assert bytes(machine.ram.view[start : start + size]) == both[:size]


@pytest.mark.parametrize("poisoned", [0, 63])
def test_zeroing_a_block_meets_the_poison_in_it(poisoned: int) -> None:
    machine = Machine(lambda a: a.system("dc zva", X0))
    machine.fill(DATA, b"x" * 256)
    machine.cpu.x[0] = DATA + 64 + 0x28
    machine.ram.poison[DATA + 64 + poisoned] = ExternalAbort()
    trap = machine.run()
    assert (trap.esr, trap.far) == (DABT | IL | WNR | 0x10, DATA + 64 + 0x28)
    machine.ram.poison = {DATA + 63: ExternalAbort(), DATA + 128: ExternalAbort()}
    machine.finish()
    assert bytes(machine.ram.view[DATA : DATA + 192]) == b"x" * 64 + bytes(64) + b"x" * 64


def test_an_atomic_on_a_page_that_can_only_be_read_reports_a_write() -> None:
    machine = Machine(lambda a: a.atomic("swp", X1, X2, X0))
    machine.enable_mmu()
    machine.map(_VA, DATA, 1 << 7)
    machine.cpu.x[0] = _VA
    assert machine.vector() == 0x200
    assert machine["esr_el1"] == 0x25 << 26 | IL | WNR | 0x0F


def test_poison_beside_the_access_does_not_matter() -> None:
    machine = Machine(several(lambda a: a.ldr(X1, X0), lambda a: a.ldr(X2, Offset(X0, 16))))
    machine.ram.poison[DATA + 8] = machine.ram.poison[DATA + 15] = ExternalAbort()
    machine.cpu.x[0] = DATA
    machine.finish()


def test_poison_is_asked_for_at_every_access_and_healing_is_seen() -> None:
    machine = Machine(several(lambda a: a.ldr(X1, X0), lambda a: a.ldr(X2, X0)))
    machine.ram.poison[DATA + 100] = ExternalAbort()
    machine.cpu.x[0] = DATA
    machine.finish()
    assert machine.ram.asked.count((DATA, Access.READ)) == 2
    machine.ram.poison[DATA] = ExternalAbort()
    machine.cpu.pc = CODE
    assert machine.run().esr & 0x3F == 0x10
    machine.ram.poison.clear()
    machine.cpu.invalidate_tlb()
    machine.finish()


def test_a_stable_page_is_asked_for_once() -> None:
    def build(asm: Assembler) -> None:
        for _ in range(5):
            asm.ldr(X1, X0)
            asm.str(X1, X0)

    machine = Machine(build)
    machine.cpu.x[0] = DATA
    machine.finish()
    assert [access for ipa, access in machine.ram.asked if ipa == DATA] == [Access.READ, Access.WRITE]


# Alignment

_ALIGNED: list[tuple[str, _Build, int]] = [
    ("ldxr", lambda a: a.ldxr(X1, X0), 0),
    ("ldar", lambda a: a.ldar(W1, X0), 0),
    ("stlr", lambda a: a.stlr(X1, X0), WNR),
    ("stxr", lambda a: a.stxr(W2, X1, X0), WNR),
    ("ldadd", lambda a: a.atomic("ldadd", W1, W2, X0), 0),
]


@pytest.mark.parametrize(("build", "direction"), [c[1:] for c in _ALIGNED], ids=[c[0] for c in _ALIGNED])
def test_exclusives_and_acquires_must_be_aligned(build: _Build, direction: int) -> None:
    machine = Machine(build)
    machine.cpu.x[0] = DATA + 2
    assert machine.vector() == 0x200
    assert (machine["esr_el1"], machine["far_el1"]) == (0x25 << 26 | IL | direction | 0x21, DATA + 2)


def test_strict_alignment_is_optional() -> None:
    machine = Machine(lambda asm: asm.ldr(X1, X0))
    machine.cpu.x[0] = DATA + 4
    machine.finish()
    machine["sctlr_el1"] |= 2
    machine.cpu.pc = CODE
    assert machine.vector() == 0x200
    assert machine["esr_el1"] == 0x25 << 26 | IL | 0x21


@pytest.mark.parametrize(("mode", "bit", "vector"), [(5, 3, 0x200), (4, 3, 0x000), (0, 4, 0x400)])
def test_stack_pointer_alignment(mode: int, bit: int, vector: int) -> None:
    machine = Machine(several(lambda a: a.ldr(X1, SP), lambda a: a.brk(1)))
    for enabled, esr in ((0, 0x3C << 26 | IL | 1), (1, 0x26 << 26 | IL)):
        machine.cpu.pc, machine.cpu.pstate = CODE, mode
        machine.cpu.sp_el0 = machine.cpu.sp_el1 = DATA + 8
        machine["sctlr_el1"] = machine["sctlr_el1"] & ~(1 << bit) | enabled << bit
        assert machine.vector() == vector
        assert machine["esr_el1"] == esr


def test_program_counter_alignment() -> None:
    machine = Machine(lambda asm: asm.br(X0))
    machine.cpu.x[0] = CODE + 2
    assert machine.vector() == 0x200
    assert (machine["esr_el1"], machine["far_el1"], machine["elr_el1"]) == (0x22 << 26 | IL, CODE + 2, CODE + 2)


def test_hot_loops_fault_as_precisely_as_cold_code() -> None:
    """A region runs into the end of memory in the middle of a loop."""

    def build(asm: Assembler) -> None:
        asm.label("loop")
        asm.add(X2, X2, 1)
        asm.str(X2, Post(X0, 8))
        asm.b("loop")

    machine = Machine(build)
    machine.cpu.x[0] = TABLES
    trap = machine.run(1_000_000)
    stores = (SIZE - TABLES) // 8
    assert (trap.far, trap.esr) == (SIZE, DABT | IL | WNR | 0x07)
    assert (machine.cpu.pc, machine.cpu.x[0], machine.cpu.x[2]) == (CODE + 4, SIZE, stores + 1)
    assert machine.cpu.instructions == stores * 3 + 1
    assert machine.peek(SIZE - 8) == stores
    assert VECTORS not in {ipa & ~0xFFF for ipa, _ in machine.ram.asked}


@pytest.mark.parametrize("who", ["nobody", "itself", "another"])
def test_the_monitor_notices_a_store(who: str) -> None:
    """Of another processor it must, or atomics by exclusives would lose updates; of its own it may."""

    def build(asm: Assembler) -> None:
        asm.ldxr(X1, X0)
        if who == "itself":
            asm.str(X3, X0)
        if who == "another":
            asm.hvc(1)
        asm.stxr(W2, X3, X0)

    machine = Machine(build)
    machine.cpu.x[0], machine.cpu.x[3] = DATA, 0x5EA
    if who == "another":
        assert machine.run().esr & 0xFFFF == 1
        machine.fill(DATA, b"\x01")
    machine.finish()
    assert machine.cpu.x[2] == (0 if who == "nobody" else 1)
    assert machine.peek(DATA) == (1 if who == "another" else 0x5EA)
