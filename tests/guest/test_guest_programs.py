# SPDX-License-Identifier: GPL-2.0-only
"""Guest programs, built and run on the simulated processor over flat memory with a stage 1 of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.disassembler import disassemble
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.bus import Access, Page, Stage2Fault
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.guest.access import ACCESS_BASE, ACCESSES, AccessKind
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.errors import GuestMemoryError
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.ucall import Ucall, UcallCommand, parse_ucall
from pytest_kvm_sea.guest.values import Operand, Value
from pytest_kvm_sea.guest.vectors import ExRegs, Vector

MASK = (1 << 64) - 1
MEMORY = 0x40_0000
TABLES = 0x30_0000
SCRATCH = 0x20_0000
"""A page that EL1 and EL0 may read, write and execute with; nothing of a program lies there."""
UNMAPPED = 0x28_0000
EC_SVC, EC_DABT_CURRENT, EC_BRK, EC_UNKNOWN = 0x15, 0x25, 0x3C, 0x00
U64 = st.one_of(
    st.integers(0, MASK),
    st.sampled_from(
        [0, 1, 2, 63, 64, 0xFFF, 0x1000, 0xFFF000, 1 << 31, 1 << 32, 1 << 63, MASK, MASK - 1, 0x5555555555555555]
    ),
)


class Machine:
    """A processor with 4 MiB of memory, identity-mapped, as the VMM would map a program."""

    def __init__(self, program: GuestProgram) -> None:
        self.program = program
        self.memory = bytearray(MEMORY)
        self.cpu = Cpu(self, Features())
        self._next_table = TABLES
        self._root = self._table()
        for segment in program.segments:
            self.memory[segment.gva : segment.gva + len(segment.data)] = segment.data
            for page in range(segment.gva, segment.end, descriptors.PAGE_SIZE):
                self._map(page, user=segment.user, writable=segment.writable, executable=segment.executable)
        self._map(program.ucall_mmio, user=True, writable=True, executable=False)
        self._map(SCRATCH, user=True, writable=True, executable=False)
        cpu = self.cpu
        cpu.sysregs[sysreg("sctlr_el1")] = 0x00C5_107D
        cpu.sysregs[sysreg("tcr_el1")] = 0x42_0080_3510
        cpu.sysregs[sysreg("mair_el1")] = descriptors.MAIR_EL1
        cpu.sysregs[sysreg("ttbr0_el1")] = self._root
        cpu.sysregs[sysreg("cpacr_el1")] = 3 << 20
        cpu.sysregs[sysreg("vbar_el1")] = program.vectors
        cpu.pc, cpu.sp = program.entry, program.stack_top
        cpu.invalidate_tlb()

    def run(self, limit: int = 100_000) -> Ucall:
        """Until the next ucall."""
        trap = self.cpu.run(limit)
        assert trap is not None, f"still running at {self.program.locate(self.cpu.pc)}"
        assert trap.ipa == self.program.ucall_mmio, self.program.locate(self.cpu.pc)
        # A data abort with a syndrome (Arm ARM D24.2.40): ISV, an 8-byte write, and the register
        assert trap.esr >> 26 == 0x24
        assert trap.esr >> 22 & 7 == 0b111
        assert trap.esr >> 6 & 1 == 1
        address = self.cpu.x[trap.esr >> 16 & 31]
        self.cpu.pc += 4
        return parse_ucall(address, self)

    def run_all(self) -> list[Ucall]:
        """All ucalls up to the last one: DONE, ABORT or UNHANDLED."""
        ucalls = [self.run()]
        while ucalls[-1].cmd in {UcallCommand.PRINTF, UcallCommand.SYNC}:
            ucalls.append(self.run())
        return ucalls

    def text(self) -> str:
        """What a guest prints that ends well."""
        ucalls = self.run_all()
        assert ucalls[-1].cmd is UcallCommand.DONE, ucalls[-1]
        return "".join(ucall.text for ucall in ucalls)

    def read(self, gva: int, size: int, /) -> bytes:
        if not 0 <= gva <= gva + size <= MEMORY:
            raise GuestMemoryError(f"no memory at {gva:#x}")
        return bytes(self.memory[gva : gva + size])

    def page(self, ipa: int, access: Access) -> Page:
        at = ipa & -descriptors.PAGE_SIZE
        if at == self.program.ucall_mmio or at >= MEMORY:
            raise Stage2Fault(0x07)
        return Page(memoryview(self.memory)[at : at + descriptors.PAGE_SIZE], stable=True)

    def check(self, ipa: int, size: int, access: Access) -> None:
        raise AssertionError("every page is stable")

    def _table(self) -> int:
        self._next_table += descriptors.PAGE_SIZE
        return self._next_table - descriptors.PAGE_SIZE

    def _map(self, address: int, *, user: bool, writable: bool, executable: bool) -> None:
        table = self._root
        for level in range(descriptors.LAST_LEVEL):
            entry = table + 8 * descriptors.index(address, level)
            descriptor = int.from_bytes(self.memory[entry : entry + 8], "little")
            if not descriptor:
                descriptor = descriptors.table(self._table())
                self.memory[entry : entry + 8] = descriptor.to_bytes(8, "little")
            table = descriptor & descriptors.ADDRESS_MASK
        leaf = descriptors.page(address, user=user, writable=writable, executable=executable)
        entry = table + 8 * descriptors.index(address, descriptors.LAST_LEVEL)
        self.memory[entry : entry + 8] = leaf.to_bytes(8, "little")


def printed(code: Callable[[Guest], None], **options: Any) -> str:
    """What a guest prints whose code this is; done() is added."""

    def guest_code(g: Guest) -> None:
        code(g)
        g.done()

    return Machine(GuestProgram.build(guest_code, **options)).text()


# Arithmetic against Python

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<<": lambda a, b: a << (b & 63),
    ">>": lambda a, b: a >> (b & 63),
    "field": lambda a, b: (a >> 26) & 0x3F,
    "neg": lambda a, b: -a,
    "not": lambda a, b: ~b,
}
Tree = int | str | tuple[str, Any, Any]


def trees() -> st.SearchStrategy[Tree]:
    leaves = st.one_of(st.sampled_from(["a", "b", "c"]), U64)
    return st.recursive(
        leaves, lambda inner: st.tuples(st.sampled_from(sorted(OPERATORS)), inner, inner), max_leaves=12
    )


def compute(tree: Tree, names: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return names[tree]
    operator, left, right = tree
    return int(OPERATORS[operator](compute(left, names), compute(right, names))) & MASK


def formula(tree: Tree, names: dict[str, Value]) -> Operand:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return names[tree]
    operator, left, right = tree
    result: Operand = OPERATORS[operator](formula(left, names), formula(right, names))
    # Python computes with numbers of any size where both sides are known; a guest does not.
    return result if isinstance(result, Value) else int(result) & MASK


@settings(max_examples=60, deadline=None)
@given(trees(), U64, U64, U64, st.booleans())
@example(("-", 0, "a"), 5, 0, 0, False)
@example(("==", ("&", "a", 0x5555), 0), 0xAAAA, 0, 0, False)
@example(("<", ("+", "a", MASK), ("-", "b", 0xFFF000)), 0, 0, 0, True)
def test_formulas_compute_as_python_modulo_2_to_the_64(tree: Tree, a: int, b: int, c: int, on_stack: bool) -> None:
    numbers = {"a": a, "b": b, "c": c}

    def guest_code(g: Guest) -> None:
        if on_stack:
            [g.let(number) for number in range(10)]
        names = {name: g.load_global(name) for name in numbers}
        result = formula(tree, names)
        branch = g.variable(0)
        with g.if_(result):
            branch.set(1)
        with g.else_():
            branch.set(2)
        g.printf("%lx %lx %d", result, g.let(result), branch)

    expected = compute(tree, numbers)
    assert printed(guest_code, globals=numbers) == f"{expected:x} {expected:x} {1 if expected else 2}"


@settings(max_examples=40, deadline=None)
@given(U64, st.integers(-300, 5000))
def test_a_constant_is_what_it_was(number: int, offset: int) -> None:
    def guest_code(g: Guest) -> None:
        g.store_global("number", number)
        g.printf("%lu %lu %lu", number, g.load_global("number"), g.load_global("number") + offset)

    expected = f"{number} {number} {(number + offset) & MASK}"
    assert printed(guest_code, globals={"number": 1}) == expected


@settings(max_examples=40, deadline=None)
@given(U64, st.integers(0, 63), st.integers(1, 64))
@example(MASK, 60, 4)
@example(MASK, 60, 5)
def test_bit_fields(number: int, lsb: int, width: int) -> None:
    ones = (1 << width) - 1

    def guest_code(g: Guest) -> None:
        g.printf("%lx", (g.load_global("number") >> lsb) & ones)

    assert printed(guest_code, globals={"number": number}) == f"{number >> lsb & ones:x}"


def test_a_formula_may_be_long_on_either_side() -> None:
    """What needs more scratch registers is computed first."""

    def guest_code(g: Guest) -> None:
        left: Operand = g.let(1)
        right: Operand = g.let(1)
        for number in range(2, 40):
            left = left * 3 - number
            right = number - 3 * right
        g.printf("%lx %lx", left, right)

        tree: list[Operand] = [g.let(number) for number in range(64)]
        one = tree[1]
        while len(tree) > 1:
            tree = [a + b for a, b in zip(tree[::2], tree[1::2], strict=True)]
        g.assert_eq(one + 2015, tree[0])
        g.assert_eq(tree[0], one + 2015)

    left = right = 1
    for number in range(2, 40):
        left = left * 3 - number & MASK
        right = number - 3 * right & MASK
    assert printed(guest_code) == f"{left:x} {right:x}"


def test_blocks_give_their_registers_back() -> None:
    """Code that keeps few values at a time needs no stack, however long it is."""

    def guest_code(g: Guest) -> None:
        one = g.load_global("one")
        for number in range(20):
            with g.if_(one):
                kept = [g.let(number + i) for i in range(4)]
                g.assert_eq(kept[0] + kept[3], 2 * number + 3)

    def many(g: Guest) -> None:
        for _ in range(20):
            g.load_global("one")

    def stack(code: Callable[[Guest], None]) -> bool:
        program = GuestProgram.build(code, globals={"one": 1})
        start = program.entry - program.segments[0].gva
        return any("sp" in line.text for line in disassemble(program.segments[0].data[start:], program.entry))

    assert not stack(guest_code)
    assert stack(many)


# Memory


@settings(max_examples=30, deadline=None)
@given(U64, st.integers(0, 4000), st.booleans())
def test_memory_of_all_sizes(number: int, offset: int, constant: bool) -> None:
    def guest_code(g: Guest) -> None:
        base: Operand = SCRATCH if constant else g.let(SCRATCH)
        address = base + offset
        g.write_u64(address, number)
        g.printf("%lx %lx %lx %lx ", g.read_u64(address), g.read_u32(address), g.read_u16(address), g.read_u8(address))
        g.printf("%ld %ld %ld ", g.read_s32(address), g.read_s16(address), g.read_s8(address))
        g.write_u8(address, 0x11)
        g.write_u16(address + 2, 0x2222)
        g.write_u32(address + 4, 0x44444444)
        g.printf("%lx ", g.read_u64(address))
        g.write_pair(address, number, 7)
        first, second = g.read_pair(address)
        g.printf("%lx %lx", first, second)

    def signed(bits: int) -> int:
        low = number & (1 << bits) - 1
        return low - (1 << bits) if low >> bits - 1 else low

    mixed = 0x4444444422220011 | number & 0xFF00
    expected = f"{number:x} {number & 0xFFFFFFFF:x} {number & 0xFFFF:x} {number & 0xFF:x} "
    expected += f"{signed(32)} {signed(16)} {signed(8)} {mixed:x} {number:x} 7"
    assert printed(guest_code) == expected


@pytest.mark.parametrize("kind", ACCESSES.values(), ids=ACCESSES)
def test_access_kinds(kind: AccessKind) -> None:
    """Each kind accesses what it says; its base, its symbol and its size are what the table says."""
    number = 0xF1E2_D3C4_B5A6_9788
    address = kind.address_near(SCRATCH + 0x105)

    def guest_code(g: Guest) -> None:
        result = g.access(kind, address, 0x0102_0304_0506_0708)
        g.printf("%lx ", result)
        g.done()

    machine = Machine(GuestProgram.build(guest_code))
    before = bytes(range(1, 33))
    machine.memory[address : address + 32] = number.to_bytes(8, "little") + before[8:]
    old = bytes(machine.memory[address : address + 32])
    while machine.cpu.pc != machine.program.symbols["access"]:
        machine.cpu.step()
    start = address - 8 if kind.pre_index else address
    assert machine.cpu.x[ACCESS_BASE.number] == start
    machine.cpu.step()
    if kind.is_fetch:
        assert (machine.cpu.pc, machine.cpu.x[30]) == (address, machine.program.symbols["access"] + 4)
        return
    assert machine.cpu.x[ACCESS_BASE.number] == start + (8 if kind.writeback else 0)
    new = bytes(machine.memory[address : address + 32])
    if kind.is_write:
        stored = (0x0102_0304_0506_0708).to_bytes(8, "little") * 2
        assert new == stored[: kind.size] + old[kind.size :]
        return
    assert new == old
    loaded = number & (1 << 8 * min(kind.size, 8)) - 1
    if kind.signed_bits and loaded >> 8 * kind.size - 1:
        loaded = (loaded - (1 << 8 * kind.size)) & (1 << kind.signed_bits) - 1
    assert machine.run().text.startswith(f"{loaded:x} ")


def test_the_table_of_accesses_is_consistent() -> None:
    for kind in ACCESSES.values():
        (line,) = disassemble(_emitted(kind), 0)
        assert line.text.split()[0] == kind.mnemonic
        assert (kind.mnemonic.startswith("st")) == kind.is_write
        has_syndrome = not (kind.writeback or kind.is_fetch or kind.mnemonic in {"ldp", "stp"})
        assert kind.isv == has_syndrome
        assert kind.writeback == (line.text.endswith("!") or "], #" in line.text)
        for address in (0x1000, 0x1FFF, 0x85234BAD):
            near = kind.address_near(address)
            assert near <= address + kind.misalignment
            assert near // 4096 == (near + kind.size - 1) // 4096
            assert (near % kind.size == 0) == (not kind.misalignment)


def _emitted(kind: AccessKind) -> bytes:
    def guest_code(g: Guest) -> None:
        g.access(kind, 0)

    program = GuestProgram.build(guest_code)
    at = program.symbols["access"] - program.segments[0].gva
    return program.segments[0].data[at : at + 4]


# Control flow


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_loops(times: int, skip: int, stop: int) -> None:
    def guest_code(g: Guest) -> None:
        limit = g.load_global("times")
        i = g.variable()
        total = g.variable(0)
        with g.while_(i < limit):
            i.set(i + 1)
            with g.if_(i == skip):
                g.continue_()
            with g.if_(i == stop):
                g.break_()
            with g.loop(3):
                total.set(total + i)
            with g.loop(limit):
                total.set(total + 100)
        g.printf("%lu %lu", i, total)

    i = total = 0
    while i < times:
        i += 1
        if i == skip:
            continue
        if i == stop:
            break
        total += 3 * i + 100 * times
    assert printed(guest_code, globals={"times": times}) == f"{i} {total}"


def test_an_endless_loop_is_left_by_break() -> None:
    def guest_code(g: Guest) -> None:
        i = g.variable(0)
        with g.loop():
            i.set(i + 1)
            with g.if_(i == 5):
                g.printf("five")
            with g.else_(), g.if_(i >= 7):
                g.break_()
        g.printf(" %lu", i)

    assert printed(guest_code) == "five 7"


def test_a_condition_that_reads_each_time() -> None:
    def guest_code(g: Guest) -> None:
        g.write_u64(SCRATCH, 3)
        with g.while_(lambda: g.read_u64(SCRATCH) != 0):
            g.printf("%lu ", g.read_u64(SCRATCH))
            g.write_u64(SCRATCH, g.read_u64(SCRATCH) - 1)

    assert printed(guest_code) == "3 2 1 "


def test_constant_conditions_emit_one_side() -> None:
    def guest_code(g: Guest) -> None:
        with g.if_(1):
            g.printf("yes")
        with g.else_():
            g.fail("no")
        with g.if_(0):
            g.fail("no")
        with g.while_(0):
            g.fail("no")

    assert printed(guest_code) == "yes"


def test_calls_take_arguments_and_give_results() -> None:
    def square(g: Guest, number: Value) -> Operand:
        [g.let(number + i) for i in range(12)]
        return number * number

    def nothing(g: Guest) -> None:
        g.call(square, 4)

    def fibonacci(g: Guest, n: Value) -> Operand:
        result = g.variable(n)
        with g.if_(n > 1):
            result.set(g.call(fibonacci, n - 1) + g.call(fibonacci, n - 2))
        return result

    def guest_code(g: Guest) -> None:
        kept = [g.let(1000 + i) for i in range(14)]
        total = g.call(square, 3) + g.call(square, kept[13])
        g.printf("%lu %lu %lu ", total, g.call(nothing), g.call(fibonacci, 10))
        for value in kept:
            g.printf("%lu ", value)

    expected = f"{9 + 1013**2} 0 55 " + "".join(f"{1000 + i} " for i in range(14))
    assert printed(guest_code) == expected


# Exceptions


@settings(max_examples=15, deadline=None)
@given(st.lists(U64, min_size=31, max_size=31), st.integers(0, 15), U64)
def test_a_handler_changes_nothing_but_what_it_sets(numbers: list[int], flags: int, new: int) -> None:
    """Registers, flags and stack pointer survive an exception; what the handler sets arrives; ELR is written back."""

    def guest_code(g: Guest) -> None:
        g.label_here("start")
        g.brk()
        g.label_here("after")
        g.done()

    def handler(g: Guest, regs: ExRegs) -> None:
        values = [g.let(i) for i in range(15)]
        g.printf("%lx %lx %lx %lx", regs.x(0), regs.x(30), regs.pc, regs.sp)
        g.assert_eq(regs.pc, g.symbol("start"))
        for i, value in enumerate(values):
            g.assert_eq(value, i)
        regs.set_x(7, new)
        regs.pc += 4
        regs.pstate ^= 0xF0000000

    machine = Machine(GuestProgram.build(guest_code, handlers={(Vector.SYNC_CURRENT, EC_BRK): handler}))
    cpu, symbols = machine.cpu, machine.program.symbols
    cpu.x[:] = numbers
    cpu.pstate = cpu.pstate & 0x0FFFFFFF | flags << 28
    assert machine.run().text == f"{numbers[0]:x} {numbers[30]:x} {symbols['start']:x} {machine.program.stack_top:x}"
    while cpu.pc != symbols["after"]:
        cpu.step()
    assert cpu.x == [new if i == 7 else number for i, number in enumerate(numbers)]
    assert cpu.nzcv == flags ^ 0xF
    assert (cpu.sp, cpu.el, cpu.spsel) == (machine.program.stack_top, 1, 1)
    assert machine.run().cmd is UcallCommand.DONE


def test_each_class_has_its_handler() -> None:
    def skip(name: str) -> Callable[[Guest, ExRegs], None]:
        def handler(g: Guest, regs: ExRegs) -> None:
            g.printf("%s ", name)
            regs.pc += 4

        return handler

    def svc(g: Guest, regs: ExRegs) -> None:
        # ELR is behind an SVC already.
        g.printf("svc%lu(%lu) ", g.read_sysreg("esr_el1") & 0xFFFF, regs.x(0))
        regs.set_x(0, regs.x(0) + regs.x(1))

    def guest_code(g: Guest) -> None:
        g.brk(1)
        g.read_u64(UNMAPPED)
        g.word(0)
        g.printf("%lu", g.svc(7, 30, 12))

    handlers = {
        (Vector.SYNC_CURRENT, EC_BRK): skip("brk"),
        (Vector.SYNC_CURRENT, EC_DABT_CURRENT): skip("dabt"),
        (Vector.SYNC_CURRENT, EC_SVC): svc,
        Vector.SYNC_CURRENT: skip("other"),
    }
    assert printed(guest_code, handlers=handlers) == "brk dabt other svc7(30) 42"


def test_an_serror_arrives_when_it_is_unmasked() -> None:
    def guest_code(g: Guest) -> None:
        g.daifset(4)
        g.sync(1)
        g.printf("pending %lu ", g.read_sysreg("isr_el1") >> 8 & 1)
        g.daifclr(4)
        g.isb()
        g.printf("on")
        g.done()

    def serror(g: Guest, regs: ExRegs) -> None:
        g.printf("serror %#lx ", g.read_sysreg("esr_el1") & 0x1FFFFFF)

    machine = Machine(GuestProgram.build(guest_code, handlers={(Vector.ERROR_CURRENT, 0): serror}))
    assert machine.run().stage == 1
    machine.cpu.vserror = 0x1D1ED
    assert machine.text() == "pending 1 serror 0x1d1ed on"


UNHANDLED: dict[str, tuple[Callable[[Guest], object], int]] = {
    "brk": (lambda g: g.brk(), EC_BRK),
    "undefined": (lambda g: g.word(0), EC_UNKNOWN),
    "no memory": (lambda g: g.read_u64(UNMAPPED), EC_DABT_CURRENT),
}


@pytest.mark.parametrize(("cause", "ec"), UNHANDLED.values(), ids=UNHANDLED)
def test_an_unhandled_exception_says_so_and_is_taken_again(cause: Callable[[Guest], object], ec: int) -> None:
    def guest_code(g: Guest) -> None:
        cause(g)

    machine = Machine(GuestProgram.build(guest_code))
    for _ in range(3):
        ucall = machine.run()
        assert (ucall.cmd, ucall.vector, ucall.ec, ucall.valid_ec) == (UcallCommand.UNHANDLED, 4, ec, True)


def test_an_unhandled_serror_has_no_class() -> None:
    def guest_code(g: Guest) -> None:
        g.daifclr(4)
        g.done()

    machine = Machine(GuestProgram.build(guest_code))
    machine.cpu.vserror = 0
    ucall = machine.run()
    assert (ucall.vector, ucall.ec, ucall.valid_ec) == (Vector.ERROR_CURRENT, 0, False)
    assert machine.run().cmd is UcallCommand.DONE


def test_the_user_function_runs_at_el0_and_calls_el1() -> None:
    def user(g: Guest) -> None:
        values = [g.let(i) for i in range(20)]
        g.printf("user %lu %lu ", g.read_sysreg("tpidr_el0"), values[19])
        g.printf("svc %lu ", g.svc(3, 5))
        g.read_sysreg("currentel")

    def svc(g: Guest, regs: ExRegs) -> None:
        g.printf("from %lu sp %#lx %lx ", regs.pstate & 0xF, g.read_sysreg("sp_el0"), regs.sp)
        regs.set_x(0, regs.x(0) * 2)

    def undefined(g: Guest, regs: ExRegs) -> None:
        g.printf("EL0 cannot")
        g.done()

    def guest_code(g: Guest) -> None:
        g.write_sysreg("tpidr_el0", 77)
        g.enter_el0()

    handlers = {(Vector.SYNC_LOWER_64, EC_SVC): svc, (Vector.SYNC_LOWER_64, EC_UNKNOWN): undefined}
    program = GuestProgram.build(guest_code, handlers=handlers, user=user)
    machine = Machine(program)
    assert program.user_stack_top is not None
    # Twenty values do not fit into registers: ten of them live on the stack.
    user_sp = program.user_stack_top - 80
    text = machine.text()
    match = re.fullmatch(r"user 77 19 from 0 sp 0x(\w+) (\w+) svc 10 EL0 cannot", text)
    assert match is not None, text
    assert program.user_stack_top - 256 < int(match[1], 16) <= user_sp
    assert int(match[2], 16) == program.stack_top


@pytest.mark.parametrize("segment", ["code", "stack"])
def test_el0_cannot_write_what_it_must_not(segment: str) -> None:
    targets: dict[str, int] = {}

    def user(g: Guest) -> None:
        g.write_u64(g.load_global("target"), 1)
        g.fail("EL0 wrote to %s", segment)

    def guest_code(g: Guest) -> None:
        g.enter_el0()

    program = GuestProgram.build(guest_code, user=user, globals={"target": 0})
    targets.update({part.name: part.gva for part in program.segments})
    machine = Machine(program)
    at = program.symbols["target"]
    machine.memory[at : at + 8] = targets[segment].to_bytes(8, "little")
    ucall = machine.run()
    assert (ucall.cmd, ucall.vector, ucall.ec) == (UcallCommand.UNHANDLED, Vector.SYNC_LOWER_64, 0x24)


# Assertions


def failed(code: Callable[[Guest], None], **options: Any) -> Ucall:
    def guest_code(g: Guest) -> None:
        code(g)
        g.done()

    machine = Machine(GuestProgram.build(guest_code, **options))
    ucall = machine.run()
    assert ucall.cmd is UcallCommand.ABORT
    # As in C, a guest that is run again goes on behind the assertion.
    assert machine.run().cmd is UcallCommand.DONE
    return ucall


def test_an_assertion_says_what_was_compared() -> None:
    def guest_code(g: Guest) -> None:
        esr = g.load_global("esr")
        g.assert_eq((esr >> 26) & 0x3F, 0x25)
        g.assert_eq(
            esr,
            0x25 << 26  # the class
            | 0x10,
        )

    ucall = failed(guest_code, globals={"esr": 0x25 << 26 | 0x11})
    assert ucall.expression == "esr == 37 << 26 | 16"
    assert ucall.text == "0x94000011 != 0x94000010 (esr != 37 << 26 | 16)"
    assert ucall.file == "test_guest_programs.py"
    code = guest_code.__code__
    assert code.co_firstlineno + 3 <= ucall.line <= code.co_firstlineno + 5


def test_assertions_of_all_kinds() -> None:
    def unequal(g: Guest) -> None:
        g.assert_ne(g.load_global("one"), 0x01)

    def truth(g: Guest) -> None:
        g.assert_true(g.load_global("one") & 2)

    def message(g: Guest) -> None:
        g.assert_true(0, "one is %lu, 100%% of %s", g.load_global("one") + 4, "it")

    def failure(g: Guest) -> None:
        g.fail("%s", "really")

    one = {"one": 1}
    assert failed(truth, globals=one).text == 'g.load_global("one") & 2'
    assert failed(message, globals=one).text == "one is 5, 100% of it"
    assert failed(message, globals=one).expression == "0"
    ucall = failed(failure)
    assert (ucall.expression, ucall.text) == ("Unconditional guest failure", "really")
    assert failed(unequal, globals=one).text == '0x1 == 0x1 (g.load_global("one") == 0x01)'


def test_assertions_that_hold_are_silent() -> None:
    def guest_code(g: Guest) -> None:
        one = g.load_global("one")
        g.assert_eq(one, 1)
        g.assert_eq(1, one)
        g.assert_eq(one + one, 2 * one)
        g.assert_ne(one, 0)
        g.assert_ne(0, one)
        g.assert_true(one)
        g.assert_true((one & 2) == 0)
        g.assert_true(one < 2)
        g.assert_eq(3, 3)

    assert printed(guest_code, globals={"one": 1}) == ""


def test_an_assertion_inside_a_block_that_has_ended_prints_its_own_values() -> None:
    def guest_code(g: Guest) -> None:
        with g.if_(g.load_global("one")):
            inner = g.load_global("one")
            g.assert_true(inner == 2, "inner is %lu", inner)
        [g.let(99) for _ in range(12)]

    assert failed(guest_code, globals={"one": 1}).text == "inner is 1"


def test_a_guest_that_ends_without_done_is_told() -> None:
    def guest_code(g: Guest) -> None:
        g.sync(g.load_global("stage"))

    machine = Machine(GuestProgram.build(guest_code, globals={"stage": 5}))
    assert machine.run().stage == 5
    for _ in range(2):
        assert machine.run().text == "guest_code has come to its end; a guest ends with done() or fail()"


def test_the_host_can_change_globals_between_runs() -> None:
    def guest_code(g: Guest) -> None:
        g.sync(0)
        g.printf("%#lx", g.load_global("far_invalid"))
        g.store_global("far_invalid", g.load_global("far_invalid") + 1)
        g.done()

    machine = Machine(GuestProgram.build(guest_code, globals={"other": 3, "far_invalid": -2}))
    machine.run()
    at = machine.program.symbols["far_invalid"]
    assert machine.read(at, 8) == (MASK - 1).to_bytes(8, "little")
    machine.memory[at : at + 8] = (0xBAD).to_bytes(8, "little")
    assert machine.text() == "0xbad"
    assert machine.read(at, 8) == (0xBAE).to_bytes(8, "little")


# What a program knows about itself


def test_locate_names_function_offset_and_line() -> None:
    def helper(g: Guest) -> None:
        g.nop()

    def guest_code(g: Guest) -> None:
        g.nop()
        g.label_here("here")
        g.isb()
        g.call(helper)

    program = GuestProgram.build(guest_code)
    line = guest_code.__code__.co_firstlineno
    at = program.symbols["here"]
    assert program.locate(at) == f"guest_code+0x4 (test_guest_programs.py:{line + 3}: g.isb())"
    assert program.locate(at + 4).startswith(f"guest_code+0x8 (test_guest_programs.py:{line + 4}: g.call(helper))")
    helper_line = helper.__code__.co_firstlineno + 1
    assert program.locate(program.symbols["helper"] + 8) == (
        f"helper+0x8 (test_guest_programs.py:{helper_line}: g.nop())"
    )
    assert program.locate(program.vectors + 0x208) == "[vector SYNC_CURRENT]+0x8"
    assert program.locate(0x85234BAD) == "0x85234bad (outside of the guest's code)"
    assert program.locate(program.span.start - 4).endswith("(outside of the guest's code)")


@given(st.sampled_from([0, 0x10000, 0x1000, 0x80000000, 0xFFFF_0000_0000]), st.booleans())
def test_layout(base: int, with_user: bool) -> None:
    def guest_code(g: Guest) -> None:
        g.printf("%s", "x" * 3000)
        g.printf("%s", "y" * 3000)

    program = GuestProgram.build(
        guest_code, user=guest_code if with_user else None, base=GuestVA(base), ucall_mmio=GuestVA(base + 0x100000)
    )
    names = ["code", "data", "stack", "user stack"][: 4 if with_user else 3]
    assert [segment.name for segment in program.segments] == names
    assert program.vectors == base
    assert program.vectors % 2048 == 0
    end = base
    for segment in program.segments:
        assert segment.gva % 4096 == segment.size % 4096 == 0
        assert end <= segment.gva
        assert len(segment.data) <= segment.size
        assert not (segment.writable and segment.executable)
        end = segment.end
    assert program.span == range(base, end)
    assert all(program.segments[index].end < program.segments[index + 1].gva for index in range(1, len(names) - 1))
    assert program.stack_top % 16 == 0
    assert {segment.name for segment in program.segments if segment.user} == (
        {"code", "data", "user stack"} if with_user else {"code"}
    )
    assert program.segments[0].gva <= program.entry < program.segments[0].end


def test_the_same_code_gives_the_same_image() -> None:
    def guest_code(g: Guest) -> None:
        g.assert_eq(g.read_u64(0x1000), 1)

    assert GuestProgram.build(guest_code) == GuestProgram.build(guest_code)


def test_code_stays_short() -> None:
    """What runs once costs more to translate than to run."""

    def guest_code(g: Guest) -> None:
        g.label_here("load")
        data = g.read_u64(0x85234BAD)
        g.label_here("print")
        g.printf("%#lx %#lx", data, 0x85234BAD)
        g.label_here("check")
        g.assert_eq((data >> 26) & 0x3F, 0x25)
        g.label_here("end")

    program = GuestProgram.build(guest_code)
    texts = [line.text for line in disassemble(program.segments[0].data, program.segments[0].gva)]

    def between(start: str, end: str) -> list[str]:
        first, last = (program.symbols[name] - program.segments[0].gva for name in (start, end))
        return [text.split()[0] for text in texts[first // 4 : last // 4]]

    assert between("load", "print") == ["mov", "movk", "ldr"]
    assert between("print", "check") == ["adr", "str", "mov", "movk", "str"]
    assert between("check", "end") == ["ubfx", "cmp", "b.ne"]


@pytest.mark.parametrize(("outer", "inner", "expected"), [(1, 1, "both"), (1, 0, "outer"), (0, 1, "neither")])
def test_an_else_belongs_to_the_if_before_it_whatever_was_inside(outer: int, inner: int, expected: str) -> None:
    def guest_code(g: Guest) -> None:
        with g.if_(g.load_global("outer")):
            with g.if_(g.load_global("inner")):
                g.printf("both")
            with g.else_():
                g.printf("outer")
        with g.else_():
            g.printf("neither")

    assert printed(guest_code, globals={"outer": outer, "inner": inner}) == expected
