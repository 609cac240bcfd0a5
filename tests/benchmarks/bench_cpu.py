# SPDX-License-Identifier: GPL-2.0-only
"""How fast the processor is: ``python tests/benchmarks/bench_cpu.py``. Medians; the MMU is on, with 4 KiB pages.

Loops are measured warm (their regions compiled) in millions of instructions a second. Cold code is 120 instructions of
straight code, run once: never seen before in this process, and seen before.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pytest_kvm_sea.arm64.assembler import (
    SP,
    W1,
    W2,
    W3,
    W4,
    W5,
    W6,
    X0,
    X1,
    X2,
    X3,
    X9,
    X19,
    X20,
    X29,
    X30,
    Assembler,
    Cond,
    Offset,
    Post,
    Pre,
    Reg,
    Shift,
)
from pytest_kvm_sea.cpu import cpu as cpu_module
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from tests.cpu.cpu_machine import CODE, DATA, Machine

_REPEATS = 7
_SOURCE, _TARGET = DATA, DATA + 0x4000
_MAPPED = 0x10000
_Build = Callable[[Assembler], None]


def memcpy(asm: Assembler) -> None:
    """8 bytes a turn."""
    asm.mov(X9, 40)
    asm.label("again")
    asm.mov(X0, _SOURCE)
    asm.mov(X1, _TARGET)
    asm.mov(X2, 0x4000)
    asm.label("loop")
    asm.ldr(X3, Post(X0, 8))
    asm.str(X3, Post(X1, 8))
    asm.subs(X2, X2, 8)
    asm.b_cond(Cond.NE, "loop")
    asm.subs(X9, X9, 1)
    asm.b_cond(Cond.NE, "again")


def xorshift(asm: Assembler) -> None:
    asm.mov(X0, 88172645463325252)
    asm.mov(W1, 0)
    asm.mov(W2, 60000)
    asm.label("loop")
    asm.eor(X0, X0, X0, Shift.LSL, 13)
    asm.eor(X0, X0, X0, Shift.LSR, 7)
    asm.eor(X0, X0, X0, Shift.LSL, 17)
    asm.add(W1, W1, 1)
    asm.cmp(W1, W2)
    asm.b_cond(Cond.LT, "loop")


def crc(asm: Assembler) -> None:
    """Bit by bit."""
    asm.mov(X0, _SOURCE)
    asm.mov(W1, 0x2000)
    asm.mov(W2, 0xFFFFFFFF)
    asm.mov(W3, 0xEDB88320)
    asm.label("byte")
    asm.ldrb(W4, Post(X0, 1))
    asm.eor(W2, W2, W4)
    asm.mov(W5, 8)
    asm.label("bit")
    asm.and_(W6, W2, 1)
    asm.neg(W6, W6)
    asm.and_(W6, W6, W3)
    asm.eor(W2, W6, W2, Shift.LSR, 1)
    asm.subs(W5, W5, 1)
    asm.b_cond(Cond.NE, "bit")
    asm.subs(W1, W1, 1)
    asm.b_cond(Cond.NE, "byte")


def fib(asm: Assembler) -> None:
    """Recursive."""
    asm.mov(X0, 20)
    asm.bl("fib")
    asm.b("end")
    asm.label("fib")
    asm.cmp(X0, 2)
    asm.b_cond(Cond.LO, "out")
    asm.stp(X29, X30, Pre(SP, -32))
    asm.stp(X19, X20, Offset(SP, 16))
    asm.mov(X19, X0)
    asm.sub(X0, X0, 1)
    asm.bl("fib")
    asm.mov(X20, X0)
    asm.sub(X0, X19, 2)
    asm.bl("fib")
    asm.add(X0, X0, X20)
    asm.ldp(X19, X20, Offset(SP, 16))
    asm.ldp(X29, X30, Post(SP, 32))
    asm.label("out")
    asm.ret()
    asm.label("end")


_Straight = Callable[[Assembler, random.Random, Reg, Reg, Reg], None]
_STRAIGHT: tuple[_Straight, ...] = (
    lambda asm, rng, d, a, b: asm.add(d, a, rng.randrange(4096)),
    lambda asm, rng, d, a, b: asm.sub(d, a, b),
    lambda asm, rng, d, a, b: asm.movz(d, rng.randrange(0x10000), 16),
    lambda asm, rng, d, a, b: asm.movk(d, rng.randrange(0x10000), 32),
    lambda asm, rng, d, a, b: asm.ldr(d, Offset(SP, 8 * rng.randrange(20))),
    lambda asm, rng, d, a, b: asm.str(d, Offset(SP, 8 * rng.randrange(20))),
    lambda asm, rng, d, a, b: asm.stp(a, b, Offset(SP, 16)),
    lambda asm, rng, d, a, b: asm.and_(d, a, b),
    lambda asm, rng, d, a, b: asm.cmp(a, b),
    lambda asm, rng, d, a, b: asm.cset(d, Cond.EQ),
    lambda asm, rng, d, a, b: asm.mul(d, a, b),
    lambda asm, rng, d, a, b: asm.lsl(d, a, rng.randrange(1, 60)),
)
_REGISTERS = (X0, X1, X2, X3, X9, X19, X20, X29)


def straight(seed: int) -> _Build:
    """120 instructions without a loop."""
    rng = random.Random(seed)

    def build(asm: Assembler) -> None:
        for _ in range(120):
            rng.choice(_STRAIGHT)(asm, rng, *rng.choices(_REGISTERS, k=3))

    return build


def machine(build: _Build) -> Machine:
    made = Machine(build)
    made.enable_mmu()
    for page in range(DATA, DATA + _MAPPED, 0x1000):
        made.map(page, page)
    made.map(CODE + 0x1000, CODE + 0x1000)
    return made


def seconds(build: _Build) -> tuple[float, int]:
    """Time of one run, and how many instructions it had."""
    made = machine(build)
    start = time.perf_counter()
    made.finish()
    return time.perf_counter() - start, made.cpu.instructions


def main() -> None:
    print("cold code, 120 instructions, ms: ", end="")
    print(f"first {seconds(straight(0))[0] * 1e3:.2f} (fills the tables of this process)", end=" · ")
    new = statistics.median(seconds(straight(seed))[0] for seed in range(1, 20)) * 1e3
    seen = statistics.median(seconds(straight(seed))[0] for seed in range(1, 20)) * 1e3
    print(f"new {new:.3f} · seen before {seen:.3f}")
    ram = machine(lambda asm: asm.nop()).ram
    start = time.perf_counter()
    for _ in range(1000):
        Cpu(ram, Features())
    print(f"a Cpu, µs: {(time.perf_counter() - start) * 1e3:.1f}")
    hot = cpu_module.HOT
    for build in (memcpy, xorshift, crc, fib):
        cpu_module.HOT = 1 << 60
        closures = seconds(build)
        cpu_module.HOT = hot
        first = seconds(build)
        runs = [seconds(build) for _ in range(_REPEATS)]
        rate = statistics.median(count / took for took, count in runs) / 1e6
        print(
            f"{build.__name__:10} {runs[0][1]:8} instructions: {rate:6.1f} MIPS"
            f" (first run {first[1] / first[0] / 1e6:.1f}, closures only {closures[1] / closures[0] / 1e6:.1f})"
        )


if __name__ == "__main__":
    main()
