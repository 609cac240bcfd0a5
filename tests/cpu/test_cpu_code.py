# SPDX-License-Identifier: GPL-2.0-only
"""Which code is executed: code that changes, code shared between processors, random code; limits and kicks."""

from __future__ import annotations

import gc
import random
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from pytest_kvm_sea.arm64.assembler import W4, X0, X1, X2, X3, X4, XZR, Assembler, Cond, Post, Pre
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.cpu import blocks, closures
from pytest_kvm_sea.cpu import cpu as cpu_module
from pytest_kvm_sea.cpu.bus import ExternalAbort
from tests.cpu.cpu_machine import CODE, DATA, EL0T, EL1H, SIZE, Machine, hvc, several


def _increment(asm: Assembler) -> None:
    asm.add(X0, X0, 1)


def _word(build: Callable[[Assembler], None]) -> int:
    asm = Assembler()
    build(asm)
    return int.from_bytes(asm.assemble(base=CODE), "little")


def test_code_written_by_someone_else_between_two_runs_is_executed() -> None:
    machine = Machine(lambda a: a.mov(X0, 1))
    machine.finish()
    machine.cpu.pc = CODE
    machine.poke(CODE, _word(lambda a: a.mov(X0, 2)))
    machine.finish()
    assert machine.cpu.x[0] == 2


def test_a_hot_region_written_by_someone_else_is_not_executed_again() -> None:
    def loop(step: int) -> Machine:
        def build(asm: Assembler) -> None:
            asm.mov(X1, 1000)
            asm.label("loop")
            asm.add(X0, X0, step)
            asm.subs(X1, X1, 1)
            asm.b_cond(Cond.NE, "loop")

        return Machine(build)

    for step in (1, 2, 1):
        machine = loop(step)
        machine.finish()
        assert machine.cpu.x[0] == 1000 * step
    machine.cpu.pc = CODE
    machine.cpu.x[0] = 0
    machine.poke(CODE + 4, _word(lambda a: a.add(X0, X0, 5)))
    machine.finish()
    assert machine.cpu.x[0] == 5000


@pytest.mark.parametrize("maintenance", ["ic ivau", "ic iallu", "isb", "tlbi vmalle1"])
def test_code_that_the_guest_writes_is_executed_after_maintenance(maintenance: str) -> None:
    target = CODE + 0x200

    def build(asm: Assembler) -> None:
        asm.blr(X1)
        asm.str(W4, X1)
        if maintenance == "isb":
            asm.isb()
        else:
            asm.system(maintenance, X1 if maintenance == "ic ivau" else XZR)
        asm.blr(X1)

    machine = Machine(build)
    machine.code(several(lambda a: a.mov(X0, 1), Assembler.ret), at=target)
    machine.cpu.x[1] = target
    machine.cpu.x[4] = _word(lambda a: a.mov(X0, 2))
    machine.finish()
    assert machine.cpu.x[0] == 2


def test_a_second_processor_finds_the_translations_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(asm: Assembler) -> None:
        asm.adr(X0, "here")
        asm.label("here")
        asm.mul(X1, X0, X0)

    Machine(build).finish()

    def refuse(*_: object) -> object:
        raise AssertionError("translated again")

    monkeypatch.setattr(closures, "_emit", refuse)
    monkeypatch.setattr(blocks, "_translate", refuse)
    second = Machine(build)
    second.finish()
    assert second.cpu.x[1] == (CODE + 4) ** 2


def test_the_same_words_elsewhere_use_their_own_address() -> None:
    def build(asm: Assembler) -> None:
        asm.adr(X0, "here")
        asm.label("here")
        asm.adrp(X1, "here")

    for at in (CODE, CODE + 0x1008):
        machine = Machine()
        machine.code(build, at=at)
        machine.cpu.pc = at
        machine.finish()
        assert machine.cpu.x[:2] == [at + 4, at & ~0xFFF]


def test_code_continues_over_the_end_of_a_page() -> None:
    machine = Machine()
    start = CODE + 0x1000 - 8
    machine.code(several(*[_increment] * 100), at=start)
    machine.cpu.pc = start
    machine.finish()
    assert (machine.cpu.x[0], machine.cpu.instructions) == (100, 101)


def test_code_on_a_page_with_poison_is_checked_word_by_word() -> None:
    machine = Machine(several(*[_increment] * 20))
    machine.ram.poison[CODE + 40] = ExternalAbort()
    trap = machine.run()
    assert (trap.far, machine.cpu.x[0], machine.cpu.instructions) == (CODE + 40, 10, 10)
    machine.ram.poison = {CODE + 0x800: ExternalAbort()}
    machine.finish()
    assert machine.cpu.x[0] == 20


# Limits


def _endless(asm: Assembler) -> None:
    asm.label("loop")
    asm.add(X0, X0, 1)
    asm.b("loop")


@pytest.mark.parametrize("hot", [2, 1 << 60])
def test_run_stops_at_the_limit(hot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_module, "HOT", hot)
    machine = Machine(_endless)
    for limit in (1, 10, 1000, 50_000):
        before = machine.cpu.instructions
        assert machine.cpu.run(limit) is None
        assert limit <= machine.cpu.instructions - before < limit + blocks.MAX_INSTRUCTIONS
        assert machine.cpu.x[0] == (machine.cpu.instructions + 1) // 2


def test_a_kick_from_another_thread_ends_the_run() -> None:
    machine = Machine(_endless)

    def kick() -> None:
        machine.cpu.kicked = True

    timer = threading.Timer(0.02, kick)
    timer.start()
    assert machine.cpu.run(1 << 40) is None
    timer.join()
    count = machine.cpu.instructions
    assert machine.cpu.run(1000) is None
    assert machine.cpu.instructions == count, "kicked stays until whoever set it clears it"
    machine.cpu.kicked = False
    machine.cpu.run(1000)
    assert machine.cpu.instructions > count


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Others have callbacks in the garbage collector; what is raised in one is lost, and told as an error."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_an_exception_from_a_signal_handler_leaves_a_state_that_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it hits, in closures or in a region: the program ends as if nothing had happened."""
    turns = 30_000

    def build(asm: Assembler) -> None:
        asm.mov(X1, DATA)
        asm.mov(X2, turns)
        asm.label("loop")
        asm.add(X0, X0, 3)
        asm.str(X0, Post(X1, 8))
        asm.ldr(X3, Pre(X1, -8))
        asm.add(X4, X4, X3)
        asm.subs(X2, X2, 1)
        asm.b_cond(Cond.NE, "loop")

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        # Not in this function: a program that has just ended would be run on behind its end.
        if frame is not None and frame.f_code.co_filename != __file__:
            raise Interrupted

    for hot in (100, 1 << 60):
        monkeypatch.setattr(cpu_module, "HOT", hot)
        machine = Machine(build)
        before = signal.signal(signal.SIGALRM, interrupt)
        interrupts = 0
        try:
            while True:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005)
                    trap = machine.cpu.run(1 << 40)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except Interrupted:
                    interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert trap is not None
        assert trap.esr & 0xFFFF == 0xFF
        assert interrupts
        x = machine.cpu.x
        assert (x[0], x[1], x[3]) == (3 * turns, DATA, 3 * turns)
        assert x[4] == 3 * turns * (turns + 1) // 2


def test_processors_in_several_threads_do_not_disturb_each_other() -> None:
    """They share every translation."""
    failures: list[int] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(10):
            shift, count = rng.randrange(1, 60), rng.randrange(100, 400)

            def build(asm: Assembler, shift: int = shift, count: int = count) -> None:
                asm.mov(X1, count)
                asm.label("loop")
                asm.add(X0, X0, shift)
                asm.ror(X0, X0, shift)
                asm.subs(X1, X1, 1)
                asm.b_cond(Cond.NE, "loop")

            machine = Machine(build)
            machine.finish()
            value = 0
            for _ in range(count):
                value = value + shift & (1 << 64) - 1
                value = (value >> shift | value << 64 - shift) & (1 << 64) - 1
            if machine.cpu.x[0] != value:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_step_executes_one_instruction() -> None:
    machine = Machine(several(lambda a: a.mov(X0, 3), lambda a: a.add(X1, X0, 1), lambda a: a.svc(0)))
    for pc in (CODE + 4, CODE + 8, machine["vbar_el1"] + 0x200):
        assert machine.cpu.step() is None
        assert machine.cpu.pc == pc
    assert machine.cpu.step() is not None
    assert (machine.cpu.x[:2], machine.cpu.instructions) == ([3, 4], 4)


# Anything at all


@pytest.mark.parametrize("mode", [EL0T, EL1H])
@pytest.mark.parametrize("seed", range(3))
def test_random_words_never_raise_a_python_exception(mode: int, seed: int) -> None:
    """Half of them uniform, half of them of some known class; each runs with random registers."""
    rng = random.Random(seed << 8 | mode)
    machine = Machine()
    encodings = list(ENCODINGS.values())
    saved = dict(machine.cpu.sysregs)
    for number in range(400):
        word = rng.getrandbits(32)
        if number & 1:
            encoding = rng.choice(encodings)
            word = word & ~encoding.mask | encoding.match
        machine.cpu.reset()
        machine.cpu.sysregs.update(saved)
        machine.cpu.pstate = mode | rng.randrange(16) << 28
        machine.cpu.x[:] = [rng.choice((rng.getrandbits(64), rng.randrange(SIZE), DATA)) for _ in range(31)]
        machine.cpu.pc = CODE
        machine.poke(CODE, word)
        machine.poke(CODE + 4, hvc(0xFF) if mode else 0)
        for _ in range(3):
            machine.cpu.step()
        assert 0 <= machine.cpu.pc < 1 << 64
        assert all(0 <= value < 1 << 64 for value in (*machine.cpu.x, machine.cpu.sp)), hex(word)
        assert machine.cpu.pstate >= 0


def test_narrow_signed_minimum_and_maximum() -> None:
    """Unicorn gets these wrong, so the oracle leaves them out."""
    for name, old, operand, new in (
        ("ldsmax", 0x80, 0x01, 0x01),
        ("ldsmin", 0x80, 0x01, 0x80),
        ("ldsmax", 0x7F, 0xFF, 0x7F),
        ("ldsmin", 0x7F, 0xFF, 0xFF),
        ("ldumax", 0x80, 0x01, 0x80),
        ("ldumin", 0x80, 0x01, 0x01),
    ):
        for size in (1, 2, 4, 8):
            opc = {"ldsmax": 4, "ldsmin": 5, "ldumax": 6, "ldumin": 7}[name]
            machine = Machine()
            fields = {"A": 0, "R": 0, "Rs": 2, "opc": opc, "Rn": 0, "Rt": 3}
            machine.poke(CODE, ENCODINGS["ATOMIC"].encode(size=size.bit_length() - 1, **fields))
            shift = size * 8 - 8
            machine.fill(DATA, (old << shift).to_bytes(8, "little"))
            machine.cpu.x[:4] = [DATA, 0, operand << shift, 0]
            machine.cpu.step()
            assert machine.peek(DATA, size) == new << shift, (name, size)
            assert machine.cpu.x[3] == old << shift
