# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions to EL1 and back, traps of EL1 to EL2, SErrors, and what EL0 may not do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_kvm_sea.arm64.assembler import SP, X0, X1, X2, XZR, Assembler
from pytest_kvm_sea.arm64.sysregs import SYSREGS, sysreg
from pytest_kvm_sea.cpu.bus import Stage2Fault
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.traps import Trap
from tests.cpu.cpu_machine import CODE, DATA, EL0T, EL1H, EL1T, HVC_CLASS, VECTORS, Machine, hvc_esr, several

IL = 1 << 25
NZCV, DIT, UAO, PAN, SS, PIL, SSBS, DAIF = 0xF << 28, 1 << 24, 1 << 23, 1 << 22, 1 << 21, 1 << 20, 1 << 12, 0x3C0
SPAN, DSSBS = 1 << 23, 1 << 44
_Build = Callable[[Assembler], None]

_ENTRIES = [
    # PSTATE, SCTLR_EL1, vector of a synchronous exception, new PSTATE
    (EL1H, SPAN, 0x200, DAIF | EL1H),
    (EL1T, SPAN, 0x000, DAIF | EL1H),
    (EL0T, SPAN, 0x400, DAIF | EL1H),
    (EL0T | NZCV | DAIF, SPAN, 0x400, NZCV | DAIF | EL1H),
    (EL1H | DIT | UAO | SS | PIL | SSBS, SPAN, 0x200, DIT | DAIF | EL1H),
    (EL1H | PAN, SPAN, 0x200, PAN | DAIF | EL1H),
    (EL0T, 0, 0x400, PAN | DAIF | EL1H),
    (EL0T | SSBS, SPAN, 0x400, DAIF | EL1H),
    (EL0T, SPAN | DSSBS, 0x400, SSBS | DAIF | EL1H),
]


@pytest.mark.parametrize(("pstate", "sctlr", "vector", "after"), _ENTRIES)
@pytest.mark.parametrize("kind", [0x000, 0x080, 0x100, 0x180])
def test_exception_entry(pstate: int, sctlr: int, vector: int, after: int, kind: int) -> None:
    machine = Machine()
    machine.cpu.sp_el0, machine.cpu.sp_el1 = 0x1110, 0x2220
    machine["sctlr_el1"] = sctlr
    machine["far_el1"] = 7
    machine.cpu.pstate, machine.cpu.pc = pstate, 0x1234_5678
    machine.cpu.enter_exception(kind, 0x9600_0010, None if kind else 0xFA12)
    assert hex(machine.cpu.pstate) == hex(after)
    assert machine.cpu.pc == VECTORS + vector + kind
    assert (machine["elr_el1"], machine["spsr_el1"], machine["esr_el1"]) == (0x1234_5678, pstate, 0x9600_0010)
    assert machine["far_el1"] == (7 if kind else 0xFA12)
    assert (machine.cpu.sp_el0, machine.cpu.sp_el1) == (0x1110, 0x2220)


def test_reset_is_as_kvm_leaves_it() -> None:
    machine = Machine()
    cpu = machine.cpu
    cpu.x[3], cpu.sp_el1, cpu.vserror, cpu.pc = 5, 6, 7, 8
    cpu.reset()
    assert (cpu.pstate, cpu.pc, cpu.x, cpu.sp_el0, cpu.sp_el1, machine.pending) == (0x3C5, 0, [0] * 31, 0, 0, None)
    expected = {"sctlr_el1": 0xC50078, "esr_el1": 0x1DE7EC7EDBADC0DE, "far_el1": 0x1DE7EC7EDBADC0DE, "elr_el1": 0}
    assert {name: machine[name] for name in expected} == expected
    assert cpu.id_registers[sysreg("mpidr_el1")] == 0x8000_0000


_GENERATED: list[tuple[str, _Build, int, int]] = [
    # instruction, ESR_EL1, ELR offset
    ("svc", lambda a: a.svc(0x1234), 0x15 << 26 | IL | 0x1234, 4),
    ("brk", lambda a: a.brk(0xABCD), 0x3C << 26 | IL | 0xABCD, 0),
    ("udf", lambda a: a.udf(1), IL, 0),
    ("hlt", lambda a: a.hlt(1), IL, 0),
    ("fp", lambda a: a.word(0x1E604000), 0x07 << 26 | IL | 1 << 24 | 0xE << 20, 0),
    ("simd load", lambda a: a.word(0x3DC00000), 0x07 << 26 | IL | 1 << 24 | 0xE << 20, 0),
    ("sve", lambda a: a.word(0x04200000), IL, 0),
    ("unallocated", lambda a: a.word(0xFFFFFFFF), IL, 0),
    ("unallocated fp", lambda a: a.word(0x1E634000), IL, 0),
    ("msr el2", lambda a: a.word(0xD51C1100), IL, 0),
    ("msr read-only", lambda a: a.word(0xD5180000), IL, 0),
]


@pytest.mark.parametrize(("build", "esr", "offset"), [c[1:] for c in _GENERATED], ids=[c[0] for c in _GENERATED])
@pytest.mark.parametrize(("mode", "vector"), [(EL0T, 0x400), (EL1H, 0x200)])
def test_instructions_that_generate_exceptions(build: _Build, esr: int, offset: int, mode: int, vector: int) -> None:
    machine = Machine(build)
    machine.cpu.pstate = mode
    far = machine["far_el1"]
    assert machine.vector() == vector
    assert (hex(machine["esr_el1"]), machine["elr_el1"]) == (hex(esr), CODE + offset)
    assert (machine["spsr_el1"], machine["far_el1"]) == (mode, far)
    # One for SVC, which has been executed, and one for the HVC of the vector
    assert machine.cpu.instructions == 1 + offset // 4


@pytest.mark.parametrize(
    ("fpen", "mode", "esr"), [(0, 1, 7), (0, 0, 7), (1, 0, 7), (1, 1, 0), (2, 1, 7), (3, 1, 0), (3, 0, 0)]
)
def test_floating_point_is_trapped_or_undefined(fpen: int, mode: int, esr: int) -> None:
    for build in (lambda a: a.word(0x1E604000), lambda a: a.mrs(X0, "fpcr"), lambda a: a.msr("fpsr", X0)):
        machine = Machine(build)
        machine["cpacr_el1"] = fpen << 20
        machine.cpu.pstate = EL1H if mode else EL0T
        machine.vector()
        assert machine["esr_el1"] >> 26 == esr


_TO_EL2: list[tuple[str, _Build, Trap, int]] = [
    ("hvc", lambda a: a.hvc(0x4321), Trap(hvc_esr(0x4321), 0, None), 4),
    ("smc", lambda a: a.smc(0x42), Trap(0x17 << 26 | IL | 0x42, 0, None), 0),
    ("wfi", lambda a: a.wfi(), Trap(0x01 << 26 | IL | 1 << 24 | 0xE << 20, 0, None), 0),
]


@pytest.mark.parametrize(("build", "trap", "offset"), [c[1:] for c in _TO_EL2], ids=[c[0] for c in _TO_EL2])
def test_traps_to_el2(build: _Build, trap: Trap, offset: int) -> None:
    machine = Machine(build)
    assert machine.run() == trap
    assert (machine.cpu.pc, machine.cpu.instructions) == (CODE + offset, offset // 4)


_NOT_FOR_EL1: list[tuple[str, _Build]] = [
    # RVBAR_EL1 is there only where EL1 is the highest exception level; the TLBIs are those of FEAT_TLBIOS,
    # FEAT_TLBIRANGE, EL2, and no extension
    ("rvbar_el1", lambda a: a.mrs(X0, "rvbar_el1")),
    ("tlbi vmalle1os", lambda a: a.word(0xD508811F)),
    ("tlbi rvae1", lambda a: a.word(0xD5088620)),
    ("tlbi alle2", lambda a: a.word(0xD50C871F)),
    ("tlbi op2 4", lambda a: a.word(0xD508879F)),
]


@pytest.mark.parametrize("build", [c[1] for c in _NOT_FOR_EL1], ids=[c[0] for c in _NOT_FOR_EL1])
def test_undefined_at_el1(build: _Build) -> None:
    machine = Machine(build)
    assert machine.vector() == 0x200
    assert (hex(machine["esr_el1"]), machine["elr_el1"]) == (hex(IL), CODE)


# EL0

_AT_EL0: list[tuple[str, _Build, int, int | None]] = [
    # SCTLR_EL1, then ESR_EL1, None if it is allowed
    ("hvc", lambda a: a.hvc(0), 0, IL),
    ("smc", lambda a: a.smc(0), 0, IL),
    ("eret", lambda a: a.eret(), 0, IL),
    ("mrs el1", lambda a: a.mrs(X0, "sctlr_el1"), 0, IL),
    ("msr el1", lambda a: a.msr("vbar_el1", X0), 0, IL),
    ("id register", lambda a: a.mrs(X0, "id_aa64pfr0_el1"), 0, IL),
    ("spsel", lambda a: a.msr_imm("spsel", 1), 0, IL),
    ("tlbi", lambda a: a.system("tlbi vmalle1"), 0, IL),
    ("at", lambda a: a.system("at s1e1r", X0), 0, IL),
    ("dc ivac", lambda a: a.system("dc ivac", X0), 1 << 26, IL),
    ("daif allowed", lambda a: a.mrs(X0, "daif"), 1 << 9, None),
    ("daifset", lambda a: a.msr_imm("daifset", 0xF), 1 << 9, None),
    ("wfi", lambda a: a.wfi(), 0, 0x01 << 26 | IL | 1 << 24 | 0xE << 20),
    ("wfe", lambda a: a.wfe(), 0, 0x01 << 26 | IL | 1 << 24 | 0xE << 20 | 1),
    ("wfe allowed", lambda a: a.wfe(), 1 << 18, None),
    ("nzcv", lambda a: a.msr("nzcv", X0), 0, None),
    ("tpidr_el0", lambda a: a.msr("tpidr_el0", X0), 0, None),
    ("tpidrro_el0", lambda a: a.mrs(X0, "tpidrro_el0"), 0, None),
    ("tpidrro_el0 written", lambda a: a.msr("tpidrro_el0", X0), 0, IL),
    ("ctr_el0 allowed", lambda a: a.mrs(X0, "ctr_el0"), 1 << 15, None),
    ("dczid_el0", lambda a: a.mrs(X0, "dczid_el0"), 0, None),
    ("dc civac allowed", lambda a: a.system("dc civac", X1), 1 << 26, None),
    ("dc zva allowed", lambda a: a.system("dc zva", X1), 1 << 14, None),
]


@pytest.mark.parametrize(("build", "sctlr", "esr"), [c[1:] for c in _AT_EL0], ids=[c[0] for c in _AT_EL0])
def test_what_el0_may_do(build: _Build, sctlr: int, esr: int | None) -> None:
    machine = Machine(several(build, lambda a: a.svc(9)))
    machine["sctlr_el1"] = sctlr
    machine.cpu.pstate = EL0T
    machine.cpu.x[1] = DATA
    assert machine.vector() == 0x400
    if esr is None:
        assert machine["esr_el1"] == 0x15 << 26 | IL | 9
    else:
        assert (hex(machine["esr_el1"]), machine["elr_el1"]) == (hex(esr), CODE)


_TRAPPED: list[tuple[str, _Build, int]] = [
    # op0 op1 CRn CRm op2, Rt, direction as in ESR_EL1.ISS
    ("mrs ctr", lambda a: a.mrs(X2, "ctr_el0"), 3 << 20 | 1 << 17 | 3 << 14 | 2 << 5 | 1),
    ("mrs daif", lambda a: a.mrs(X1, "daif"), 3 << 20 | 1 << 17 | 3 << 14 | 4 << 10 | 1 << 5 | 2 << 1 | 1),
    ("msr daif", lambda a: a.msr("daif", X1), 3 << 20 | 1 << 17 | 3 << 14 | 4 << 10 | 1 << 5 | 2 << 1),
    ("daifclr 2", lambda a: a.msr_imm("daifclr", 2), 7 << 17 | 3 << 14 | 4 << 10 | 31 << 5 | 2 << 1),
    ("mrs cntvct", lambda a: a.mrs(X1, "cntvct_el0"), 3 << 20 | 2 << 17 | 3 << 14 | 14 << 10 | 1 << 5 | 1),
    ("dc civac", lambda a: a.system("dc civac", X2), 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 2 << 5 | 14 << 1),
    ("dc zva", lambda a: a.system("dc zva", X2), 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 2 << 5 | 4 << 1),
    ("ic ivau", lambda a: a.system("ic ivau", X2), 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10 | 2 << 5 | 5 << 1),
]


@pytest.mark.parametrize(("build", "iss"), [c[1:] for c in _TRAPPED], ids=[c[0] for c in _TRAPPED])
def test_trapped_system_instructions_of_el0(build: _Build, iss: int) -> None:
    machine = Machine(build)
    machine["sctlr_el1"] = 0
    machine.cpu.pstate = EL0T
    assert machine.vector() == 0x400
    assert hex(machine["esr_el1"]) == hex(0x18 << 26 | IL | iss)


def test_every_named_register_answers_at_both_levels_without_a_python_error() -> None:
    for name in SYSREGS:
        for mode in (EL0T, EL1T, EL1H):
            for build in (lambda a, n=name: a.mrs(X0, n), lambda a, n=name: a.msr(n, X1)):
                machine = Machine(build, Features(ease=True))
                machine.cpu.pstate = mode
                machine.cpu.x[1] = machine.cpu.sysregs.get(sysreg(name), 0)
                assert machine.run().esr >> 26 == HVC_CLASS


def test_identification_registers_read_as_zero_where_there_are_none() -> None:
    machine = Machine(several(lambda a: a.mrs(X0, "s3_0_c0_c3_7"), lambda a: a.mrs(X1, "s3_0_c0_c4_7")))
    machine.cpu.x[:2] = [5, 5]
    machine.finish()
    assert machine.cpu.x[:2] == [0, 0]


@pytest.mark.parametrize(
    ("register", "without"),
    [
        ("pan", Features(pan=False)),
        ("disr_el1", Features(ras=False)),
        ("sctlr2_el1", Features(ease=False)),
        ("ssbs", Features(ssbs=False)),
        ("dit", Features(dit=False)),
    ],
)
def test_registers_of_features_that_are_missing_are_undefined(register: str, without: Features) -> None:
    Machine(lambda a: a.mrs(X0, register), Features(ease=True)).finish()
    machine = Machine(lambda a: a.mrs(X0, register), without)
    assert machine.vector() == 0x200
    assert machine["esr_el1"] == IL


# Return


@pytest.mark.parametrize("target", [EL0T, EL1T, EL1H])
def test_exception_return(target: int) -> None:
    machine = Machine(lambda a: a.eret())
    machine.code(lambda a: a.svc(1), at=CODE + 0x100)
    machine["elr_el1"], machine["spsr_el1"] = CODE + 0x100, target | NZCV | 0x280
    machine.cpu.sp_el0 = 0x4440
    assert machine.vector() == {EL0T: 0x400, EL1T: 0x000, EL1H: 0x200}[target]
    assert (machine["elr_el1"], machine["spsr_el1"]) == (CODE + 0x104, target | NZCV | 0x280)


@pytest.mark.parametrize("mode", [0x8, 0x9, 0x10, 0x13, 0x1, 0xD])
def test_illegal_exception_return(mode: int) -> None:
    machine = Machine(lambda a: a.eret())
    machine["elr_el1"], machine["spsr_el1"] = CODE + 0x100, mode | NZCV
    assert machine.vector() == 0x200
    assert (machine["esr_el1"], machine["elr_el1"]) == (0x0E << 26 | IL, CODE + 0x100)
    assert machine["spsr_el1"] == EL1H | NZCV | PIL


def test_exception_return_does_not_step() -> None:
    """PSTATE.SS is zero unless MDSCR_EL1 asks for steps (Arm ARM, DebugExceptionReturnSS)."""
    machine = Machine(lambda a: a.eret())
    machine.code(lambda a: a.svc(1), at=CODE + 0x100)
    machine["elr_el1"], machine["spsr_el1"] = CODE + 0x100, EL0T | SS | UAO | PAN | SSBS | DIT
    assert machine.vector() == 0x400
    assert machine["spsr_el1"] == EL0T | UAO | PAN | SSBS | DIT


@pytest.mark.parametrize(
    ("features", "bit"),
    [
        (Features(dit=False), DIT),
        (Features(uao=False), UAO),
        (Features(pan=False), PAN),
        (Features(ssbs=False), SSBS),
    ],
)
def test_exception_return_leaves_what_there_is_not(features: Features, bit: int) -> None:
    machine = Machine(lambda a: a.eret(), features)
    machine.code(lambda a: a.svc(1), at=CODE + 0x100)
    machine["elr_el1"], machine["spsr_el1"] = CODE + 0x100, EL0T | bit
    assert machine.vector() == 0x400
    assert machine["spsr_el1"] == EL0T


_BEFORE_ILLEGAL_STATE = [(CODE + 2, 0x22 << 26 | IL), (1 << 50, 0x21 << 26 | IL)]


@pytest.mark.parametrize(("pc", "esr"), _BEFORE_ILLEGAL_STATE, ids=["PC alignment", "instruction abort"])
@pytest.mark.parametrize("step", [False, True])
def test_what_comes_before_an_illegal_state(pc: int, esr: int, step: bool) -> None:
    """The fetch comes first (Arm ARM, D1: synchronous exceptions by priority)."""
    machine = Machine()
    machine.cpu.pstate, machine.cpu.pc = EL1H | PIL, pc
    if step:
        assert machine.cpu.step() is None
    else:
        machine.vector()
    assert (hex(machine["esr_el1"]), machine["far_el1"], machine["elr_el1"]) == (hex(esr), pc, pc)


def test_stack_pointers_are_banked() -> None:
    def build(asm: Assembler) -> None:
        asm.add(X0, SP, 0)
        asm.msr_imm("spsel", 0)
        asm.add(X1, SP, 0)
        asm.sub(SP, SP, 16)
        asm.msr_imm("spsel", 1)
        asm.mrs(X2, "sp_el0")

    machine = Machine(build)
    machine.cpu.sp_el0, machine.cpu.sp_el1 = 0x1000, 0x2000
    machine.finish()
    assert machine.cpu.x[:3] == [0x2000, 0x1000, 0xFF0]
    assert (machine.cpu.sp_el0, machine.cpu.sp_el1) == (0xFF0, 0x2000)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="PSTATE 0x9"):
        Machine().cpu.pstate = 0x9


# SError

_UNMASKING: list[tuple[str, _Build]] = [
    ("daifclr", lambda a: a.msr_imm("daifclr", 4)),
    ("msr daif", lambda a: a.msr("daif", XZR)),
    ("eret", lambda a: a.eret()),
]


@pytest.mark.parametrize("build", [c[1] for c in _UNMASKING], ids=[c[0] for c in _UNMASKING])
@pytest.mark.parametrize("syndrome", [0, 0x1234, 0x1FFFFFF])
def test_a_pending_serror_is_taken_as_soon_as_it_is_unmasked(build: _Build, syndrome: int) -> None:
    machine = Machine(build)
    machine["elr_el1"], machine["spsr_el1"] = CODE + 4, EL1H
    machine.cpu.vserror = syndrome
    far = machine["far_el1"]
    assert machine.vector() == 0x380
    assert (hex(machine["esr_el1"]), machine["elr_el1"]) == (hex(0xBE00_0000 | syndrome), CODE + 4)
    assert (machine.pending, machine["far_el1"], machine.cpu.pstate) == (None, far, 0x3C5)


@pytest.mark.parametrize(("mode", "vector"), [(EL0T, 0x580), (EL1T, 0x180), (EL1H, 0x380)])
def test_a_pending_serror_is_taken_before_the_first_instruction(mode: int, vector: int) -> None:
    machine = Machine(lambda a: a.mov(X0, 1))
    machine.cpu.pstate = mode
    machine.cpu.vserror = 5
    assert machine.vector() == vector
    assert (machine["elr_el1"], machine.cpu.x[0]) == (CODE, 0)


def test_a_masked_serror_stays_pending_and_shows() -> None:
    def build(asm: Assembler) -> None:
        asm.mrs(X0, "isr_el1")
        asm.wfi()
        asm.msr_imm("daifclr", 0xB)

    machine = Machine(build)
    machine.cpu.vserror = 5
    machine.finish()
    assert (machine.cpu.vserror, machine.cpu.x[0]) == (5, 1 << 8)


@pytest.mark.parametrize("ras", [True, False])
def test_esb_defers_a_masked_serror(*, ras: bool) -> None:
    machine = Machine(lambda a: a.esb(), Features(ras=ras))
    machine.cpu.vserror = 0x1000005
    machine.finish()
    assert (machine.cpu.vserror, machine["disr_el1"]) == ((None, 1 << 31 | 0x1000005) if ras else (0x1000005, 0))


@pytest.mark.parametrize(("ease", "taken"), [(True, True), (False, False)])
def test_non_maskable_serrors(*, ease: bool, taken: bool) -> None:
    machine = Machine(lambda a: a.nop(), Features(ease=ease))
    machine["sctlr2_el1"] = 1 << 2
    machine.cpu.vserror = 0
    assert (machine.run().esr == hvc_esr(0x380 // 0x80)) is taken


def test_a_guest_whose_vectors_fault_does_not_run_for_ever() -> None:
    machine = Machine(lambda a: a.udf(0))
    machine["vbar_el1"] = DATA
    assert machine.cpu.run(1000) is None
    machine.ram.page_faults[DATA >> 12] = Stage2Fault(0x07)
    machine.cpu.invalidate_tlb()
    assert machine.run().esr >> 26 == 0x20
