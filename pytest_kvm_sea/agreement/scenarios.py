# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kvm_sea.agreement.machine import CODE, DATA, Code
from pytest_kvm_sea.agreement.scenario import Scenario
from pytest_kvm_sea.agreement.steps import (
    DABT,
    HAS_ESR,
    SERROR,
    Answer,
    Complete,
    EnableCap,
    Events,
    GetReg,
    Look,
    RawReg,
    Read,
    Run,
    SetReg,
    Slot,
    Unmap,
    abort,
    serror,
)
from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import SP, XZR, Offset, Post, Pre, W, X
from pytest_kvm_sea.uapi import kvm

MMIO = 0x800_0000
SLOT = 0x1000_0000
READONLY = kvm.KVM_MEM_READONLY
VALUE = 0x8877_6655_4433_2211
ANSWER = 0xF1E2_D3C4_B5A6_9788
EL1H, EL1T, EL0T = 0x5, 0x4, 0x0
MASKED, ONLY_A = 0x3C0, 0x100
MODES = {"EL1h": EL1H, "EL1t": EL1T, "EL0": EL0T}
START = {"x0": VALUE, "x1": MMIO, "x2": 0x1122_3344_5566_7788, "x3": 0}


def at(pstate: int, **more: int) -> dict[str, int]:
    return START | {"pstate": pstate} | more


LOADS: dict[str, Code] = {
    "ldrb": lambda a: a.ldrb(W[0], X[1]),
    "ldrh": lambda a: a.ldrh(W[0], X[1]),
    "ldr w": lambda a: a.ldr(W[0], X[1]),
    "ldr x": lambda a: a.ldr(X[0], X[1]),
    "ldrsb w": lambda a: a.ldrsb(W[0], X[1]),
    "ldrsb x": lambda a: a.ldrsb(X[0], X[1]),
    "ldrsh w": lambda a: a.ldrsh(W[0], X[1]),
    "ldrsh x": lambda a: a.ldrsh(X[0], X[1]),
    "ldrsw": lambda a: a.ldrsw(X[0], X[1]),
    "ldr xzr": lambda a: a.ldr(XZR, X[1]),
    "ldur": lambda a: a.ldr(X[0], Offset(X[1], -8)),
    "ldr offset": lambda a: a.ldr(X[0], Offset(X[1], 0x7FF8)),
    "ldar": lambda a: a.ldar(X[0], X[1]),
}
STORES: dict[str, Code] = {
    "strb": lambda a: a.strb(W[0], X[1]),
    "strh": lambda a: a.strh(W[0], X[1]),
    "str w": lambda a: a.str(W[0], X[1]),
    "str x": lambda a: a.str(X[0], X[1]),
    "str xzr": lambda a: a.str(XZR, X[1]),
    "stur": lambda a: a.str(X[0], Offset(X[1], 1 - 9)),
    "stlr": lambda a: a.stlr(X[0], X[1]),
}
WITHOUT_SYNDROME: dict[str, Code] = {
    "ldr post": lambda a: a.ldr(X[0], Post(X[1], 8)),
    "str post": lambda a: a.str(X[0], Post(X[1], 8)),
    "ldr pre": lambda a: a.ldr(X[0], Pre(X[1], 8)),
    "strb pre": lambda a: a.strb(W[0], Pre(X[1], 1)),
    "ldp": lambda a: a.ldp(X[0], X[2], X[1]),
    "stp": lambda a: a.stp(X[0], X[2], X[1]),
    "ldp w": lambda a: a.ldp(W[0], W[2], X[1]),
    "stp pre": lambda a: a.stp(X[0], X[2], Pre(X[1], 16)),
}


def mmio() -> Iterator[Scenario]:
    """Accesses that no memslot answers."""
    for name, code in LOADS.items():
        yield Scenario(f"mmio {name}", (Run(), Look(), Answer(ANSWER), Complete(), Look()), code, at(EL1H | MASKED))
    for name, code in STORES.items():
        yield Scenario(f"mmio {name}", (Run(), Look(), Complete(), Complete(), Look()), code, at(EL1H | MASKED))
    for name, code in WITHOUT_SYNDROME.items():
        yield Scenario(f"nisv refused, {name}", (Run(), Look()), code, at(EL1H | MASKED))
        yield Scenario(
            f"nisv to user, {name}",
            (EnableCap(kvm.KVM_CAP_ARM_NISV_TO_USER), Run(), Look(), abort(), Look(), Run()),
            code,
            at(EL1H | MASKED),
        )


def aborts() -> Iterator[Scenario]:
    """External data aborts by KVM_SET_VCPU_EVENTS."""
    for mode, pstate in MODES.items():
        for name in ("ldr x", "str x"):
            code = (LOADS | STORES)[name]
            yield Scenario(
                f"abort at mmio {name}, {mode}",
                (Run(), abort(), Look(), Run(), Look()),
                code,
                at(pstate | MASKED if pstate else pstate),
            )
        yield Scenario(f"abort, never run, {mode}", (abort(), Look(), Run(), Look()), registers=at(pstate))
    yield Scenario("abort twice", (abort(), abort(), Look(), Run()), registers=at(EL1H | MASKED))
    yield Scenario("abort, flags kept", (abort(), Look()), registers=at(EL1H | 0xF << 28))
    yield Scenario(
        "abort after an mmio that is complete",
        (Run(), Answer(7), Complete(), abort(), Look(), Run()),
        LOADS["ldr x"],
        at(EL1H | MASKED),
    )
    yield Scenario("abort of value 2", (Events({DABT: 2}), Look()), registers=at(EL1H | MASKED))


def unmask(asm: Assembler) -> None:
    asm.msr_imm("daifclr", 4)
    asm.isb()


def read_isr(asm: Assembler) -> None:
    asm.mrs(X[0], "isr_el1")
    asm.msr_imm("daifclr", 4)
    asm.mrs(X[0], "isr_el1")
    asm.isb()


SYNDROMES = {"no syndrome": None, "syndrome 0": 0, "syndrome 0x1234": 0x1234, "all ones": 0x1FF_FFFF}


def serrors() -> Iterator[Scenario]:
    """SErrors by KVM_SET_VCPU_EVENTS."""
    for mode, pstate in MODES.items():
        for name, esr in SYNDROMES.items():
            yield Scenario(f"serror open, {name}, {mode}", (serror(esr), Look(), Run()), registers=at(pstate))
            yield Scenario(f"serror masked, {name}, {mode}", (serror(esr), Look()), registers=at(pstate | ONLY_A))
    for name, esr in SYNDROMES.items():
        yield Scenario(f"serror masked, then taken, {name}", (serror(esr), Run(), Look()), unmask, at(EL1H | MASKED))
    yield Scenario("serror in isr_el1", (serror(), Run(), Look()), read_isr, at(EL1H | MASKED))
    yield Scenario(
        "serror overwritten and not cancelled",
        (serror(0x1234), Look(), serror(0x99), Look(), Events(), Look(), serror(), Look()),
        registers=at(EL1H | ONLY_A),
    )
    yield Scenario(
        "serror waits over an mmio",
        (Run(), serror(0x77), Look(), Answer(1), Complete(), Look()),
        LOADS["ldr x"],
        at(EL1H | MASKED),
    )
    yield Scenario(
        "serror enters over an mmio",
        (Run(), serror(0x77), Look(), Answer(1), Complete(), Look()),
        LOADS["ldr x"],
        at(EL1H),
    )


def both() -> Iterator[Scenario]:
    """Abort and SError at once, and what is refused."""
    for name, pstate in {"open": EL1H, "masked": EL1H | ONLY_A, "EL0": EL0T}.items():
        yield Scenario(f"abort and serror, {name}", (Events({SERROR: 1, DABT: 1}), Look(), Run()), registers=at(pstate))
    for offset in (*range(3, 8), *range(16, 64, 4), 63):
        yield Scenario(f"events byte {offset}", (Events({offset: 1}), Events({SERROR: 1, DABT: 1, offset: 1}), Look()))
    for bit in (24, 25, 31, 32, 63):
        yield Scenario(
            f"syndrome bit {bit}",
            (
                Events({HAS_ESR: 1}, 1 << bit),
                Events({SERROR: 1}, 1 << bit),
                Look(),
                Events({SERROR: 1, HAS_ESR: 1, DABT: 1}, 1 << bit),
                Look(),
            ),
            registers=at(EL1H | ONLY_A),
        )
    yield Scenario("events of value 255", (Events({SERROR: 255, HAS_ESR: 255}, 0x55), Look()), registers=at(0x105))


def fetch_elsewhere(asm: Assembler) -> None:
    # By RET, because a BR would show in PSTATE.BTYPE.
    asm.ret(X[1])


def branch_elsewhere(asm: Assembler) -> None:
    asm.br(X[1])


def maintain(asm: Assembler) -> None:
    asm.system("dc civac", X[1])
    asm.mov(X[3], 1)


def call(asm: Assembler) -> None:
    asm.hvc(0)
    asm.mov(X[3], 1)


def secure_call(asm: Assembler) -> None:
    asm.smc(0)
    asm.mov(X[3], 1)


def secure_call_5(asm: Assembler) -> None:
    asm.smc(5)
    asm.mov(X[3], 1)


PSCI = {"version": 0x8400_0000, "unknown": 0x8400_00FF, "off": 0x8400_0008, "reset": 0x8400_0009}


def other_aborts() -> Iterator[Scenario]:
    """Aborts that KVM makes by itself, and calls to it."""
    for mode, pstate in MODES.items():
        yield Scenario(f"fetch without memory, {mode}", (Run(), Look()), fetch_elsewhere, at(pstate))
    yield Scenario("branch without memory", (Run(), Look()), branch_elsewhere, at(EL1H))
    yield Scenario("cache maintenance without memory", (Run(), Look()), maintain, at(EL1H))
    yield Scenario("fetch beyond the VM's addresses", (Run(), Look()), fetch_elsewhere, at(EL1H, x1=1 << 40))
    for name, code in {"load": LOADS["ldr x"], "store": STORES["str x"]}.items():
        yield Scenario(f"{name} beyond the VM's addresses", (Run(), Look()), code, at(EL1H, x1=(1 << 40) + 8))
        yield Scenario(
            f"{name} in a read-only slot",
            (Slot(7, SLOT, 0x1_0000, READONLY), Run(), Look(), Complete(), Look()),
            code,
            at(EL1H, x1=SLOT + 8),
        )
        yield Scenario(
            f"{name} in memory that is gone",
            (Slot(7, SLOT, 0x1_0000), Unmap(), Run()),
            code,
            at(EL1H, x1=SLOT + 8),
        )
        yield Scenario(
            f"{name} in a slot that was deleted",
            (Slot(7, SLOT, 0x1_0000), Slot(7, SLOT, 0), Run(), Look()),
            code,
            at(EL1H, x1=SLOT + 8),
        )
    yield Scenario(
        "read-only slot, no syndrome",
        (Slot(7, SLOT, 0x1_0000, READONLY), Run(), Look()),
        WITHOUT_SYNDROME["stp"],
        at(EL1H, x1=SLOT),
    )
    for name, number in PSCI.items():
        yield Scenario(f"psci {name} by hvc", (Run(), GetReg("x0"), GetReg("pc")), call_once, at(EL1H, x0=number))
    yield Scenario("smc with an immediate", (Run(), GetReg("x0")), smc_once, at(EL1H, x0=PSCI["version"]))
    yield Scenario("smc", (Run(), GetReg("x3")), secure_once, at(EL1H, x0=PSCI["unknown"]))


def tell(asm: Assembler) -> None:
    """An exit that says that the guest got here."""
    asm.mov(X[9], MMIO)
    asm.strb(W[27], X[9])


def call_once(asm: Assembler) -> None:
    call(asm)
    tell(asm)


def smc_once(asm: Assembler) -> None:
    secure_call_5(asm)
    tell(asm)


def secure_once(asm: Assembler) -> None:
    secure_call(asm)
    tell(asm)


EXCEPTIONS: dict[str, Code] = {
    "svc": lambda a: a.svc(0x1234),
    "brk": lambda a: a.brk(0xABCD),
    "udf": lambda a: a.udf(0),
    "hlt": lambda a: a.hlt(1),
    "hvc at EL0": lambda a: a.hvc(0),
    "msr at EL0": lambda a: a.msr("esr_el1", X[0]),
    "mrs of an unknown register": lambda a: a.word(0xD53B_F0E0),
    "unallocated": lambda a: a.word(0x0000_0001),
    "eret at EL0": lambda a: a.eret(),
    "daifset at EL0": lambda a: a.msr_imm("daifset", 2),
    "sp misaligned": lambda a: a.ldr(X[0], Offset(SP, 0)),
    "pc misaligned": lambda a: a.br(X[2]),
    "exclusive misaligned": lambda a: a.ldxr(X[0], X[3]),
}


def exceptions() -> Iterator[Scenario]:
    """What the guest brings upon itself: no KVM in it, but the syndromes have to be the processor's."""
    for mode in ("EL1h", "EL0"):
        for name, code in EXCEPTIONS.items():
            if "EL0" in name and mode != "EL0":
                continue
            yield Scenario(
                f"{name}, {mode}",
                (Run(), Look()),
                code,
                at(MODES[mode], x2=CODE + 2, x3=DATA + 4, sp_el1=DATA + 8, sp_el0=DATA + 8),
            )


def slots() -> Iterator[Scenario]:
    """KVM_SET_USER_MEMORY_REGION."""
    size = 0x1_0000
    tables: dict[str, tuple[Slot, ...]] = {
        "overlap": (Slot(7, SLOT, size), Slot(8, SLOT + 0x8000, size)),
        "overlap with slot 0": (Slot(7, 0, size),),
        "misaligned": (Slot(7, SLOT + 8, size), Slot(7, SLOT, size + 8), Slot(7, SLOT, size, 0, 8)),
        "beyond": (Slot(7, (1 << 40) - size, size), Slot(8, 1 << 40, size), Slot(9, (1 << 40) - 0x1000, size)),
        "delete": (Slot(7, SLOT, 0), Slot(7, SLOT, size), Slot(7, SLOT, 0), Slot(7, SLOT, 0)),
        "change": (Slot(7, SLOT, size), Slot(7, SLOT, size // 2), Slot(7, SLOT, size, 0, 0x1000), Slot(7, SLOT, size)),
        "flags": (Slot(7, SLOT, size, 1 << 7), Slot(7, SLOT, size, 1), Slot(7, SLOT, size, READONLY)),
        "move": (Slot(7, SLOT, size), Slot(7, SLOT + 0x100_0000, size)),
        "numbers": (Slot(32766, SLOT, size), Slot(32767, SLOT * 2, size), Slot(1 << 16, SLOT * 3, size)),
    }
    for name, steps in tables.items():
        yield Scenario(f"memslots, {name}", steps)
    yield Scenario(
        "memslot that moved",
        (Slot(7, SLOT, size), Slot(7, SLOT + 0x100_0000, size), Run(), Look()),
        LOADS["ldr x"],
        at(EL1H, x1=SLOT + 0x100_0010),
    )
    yield Scenario("store to slot 0", (Run(), Read(DATA)), store_and_tell, at(EL1H, x1=DATA))


def store_and_tell(asm: Assembler) -> None:
    asm.str(X[0], X[1])
    tell(asm)


def registers() -> Iterator[Scenario]:
    """KVM_GET_ONE_REG and KVM_SET_ONE_REG."""
    yield Scenario("reset values", (Look(), GetReg("sctlr_el1"), GetReg("mpidr_el1"), GetReg("vbar_el1")))
    for name, value in {
        "EL2": 0x3C9, "EL3": 0x3CD, "AArch32 user": 0x1D0, "AArch32 svc": 0x1D3, "reserved": 0x3C1, "EL0": 0x3C0,
    }.items():  # fmt: skip
        yield Scenario(f"pstate {name}", (SetReg("pstate", value), GetReg("pstate")))
    for name, change in {
        "architecture": 0x1000_0000_0000_0000,
        "size 32": 0x0010_0000_0000_0000,
        "between fields": 1,
        "beyond": 0x400,
    }.items():
        yield Scenario(f"register id, {name}", (RawReg("x1", change), RawReg("esr_el1", change)))
    written = (
        "x5",
        "sp_el0",
        "sp_el1",
        "elr_el1",
        "spsr_el1",
        "esr_el1",
        "far_el1",
        "tpidr_el0",
        "par_el1",
        "mair_el1",
    )
    yield Scenario(
        "registers hold what is written",
        tuple(step for name in written for step in (SetReg(name, 0x1234_5678_9ABC_DEF0), GetReg(name))),
    )
    yield Scenario(
        "capabilities",
        tuple(EnableCap(number, flags) for number in (245, 177, 178, 158, 240, 241, 9999) for flags in (0, 1)),
    )


def all_scenarios() -> list[Scenario]:
    """Every scenario; names are unique."""
    groups = (mmio, aborts, serrors, both, other_aborts, exceptions, slots, registers)
    return [scenario for group in groups for scenario in group()]
