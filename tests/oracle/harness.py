# SPDX-License-Identifier: GPL-2.0-only
"""The bare-metal program that QEMU runs at EL2: takes records, executes each at EL1 or EL0, writes what came of it.

Exceptions of a case go to EL1's vectors, which are nothing but HVCs: their numbers tell which one it was, and all
registers of EL1 stay as the exception has left them. What the architecture takes to EL2 gets there by itself.
"""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import (
    SP,
    X0,
    X1,
    X2,
    X3,
    X4,
    X5,
    X6,
    X7,
    X8,
    X9,
    X10,
    X11,
    X12,
    X13,
    X14,
    X30,
    XZR,
    Cond,
    Label,
    Offset,
    Post,
    Reg,
    W,
    X,
)
from tests.oracle import layout as at

# EL2's registers have no names in the package, which knows EL1 and EL0
_HCR: Final = "s3_4_c1_c1_0"
_ESR: Final = "s3_4_c5_c2_0"
_FAR: Final = "s3_4_c6_c0_0"
_HPFAR: Final = "s3_4_c6_c0_4"
_ELR: Final = "s3_4_c4_c0_1"
_SPSR: Final = "s3_4_c4_c0_0"
_SP_EL1: Final = "s3_4_c4_c1_0"
_VBAR: Final = "s3_4_c12_c0_0"

_HCR_VALUE: Final = 1 << 31 | 1 << 19 | 1 << 13 | 1 << 0
"""RW (EL1 is AArch64), TSC and TWI (SMC and WFI are taken to EL2), VM (stage 2 is on): what the model has of KVM's."""
_SETUP: Final = {
    _HCR: _HCR_VALUE,
    "s3_4_c1_c1_1": 0,  # MDCR_EL2
    "s3_4_c1_c1_2": 0x33FF,  # CPTR_EL2: floating point is not trapped to EL2
    "s3_4_c1_c1_3": 0,  # HSTR_EL2
    "s3_4_c14_c1_0": 3,  # CNTHCTL_EL2: EL1 may read the counters
    "s3_4_c14_c0_3": 0,  # CNTVOFF_EL2
    "s3_4_c0_c0_0": 0x000F_0000,  # VPIDR_EL2 and VMPIDR_EL2: as the model's processor identifies itself
    "s3_4_c0_c0_5": 0x8000_0000,
    "s3_4_c2_c1_2": 1 << 31 | 5 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 2 << 6 | 16,  # VTCR_EL2: 48 bits, from level 0
    "s3_4_c2_c1_0": at.STAGE2,  # VTTBR_EL2
    "mdscr_el1": 0,
    "oslar_el1": 0,  # OS lock open, as KVM has it
}
_POWER_OFF: Final = 0x8400_0008
"""PSCI SYSTEM_OFF."""
_TLBI_VMALLS12E1: Final = {"op1": 4, "CRn": 8, "CRm": 7, "op2": 6, "Rt": 31}


def build() -> bytes:
    """The program, for `layout.HARNESS`."""
    asm = Assembler()
    next_case, common, end = Label("next"), Label("common"), Label("end")
    asm.b(start := Label("start"))
    asm.align(0x800)
    asm.label(vectors := Label("vectors"))
    for number in range(16):
        asm.align(0x80)
        asm.stp(X0, X1, Offset(SP, 0))
        asm.mov(X0, number)
        asm.b(common)
    asm.align(0x80)
    asm.label(start)
    for name, value in _SETUP.items():
        asm.mov(X0, value)
        asm.msr(name, X0)
    asm.adr(X0, vectors)
    asm.msr(_VBAR, X0)
    asm.isb()
    asm.label(next_case)
    _begin(asm, end)
    asm.label(common)
    _save(asm)
    _compare_data(asm)
    _advance(asm, next_case)
    asm.label(end)
    asm.mov(X0, _POWER_OFF)
    asm.smc()
    asm.b(end)
    return asm.assemble(base=at.HARNESS)


def _field(base: Reg, index: int) -> Offset:
    return Offset(base, index * 8)


def _begin(asm: Assembler, end: Label) -> None:
    """Set everything from the record, and go there."""
    asm.mov(X10, at.STATE)
    asm.ldp(X11, X12, Offset(X10, 0))
    asm.ldr(X13, Offset(X10, 16))
    asm.cbz(X13, end)
    asm.mov(SP, X12)
    asm.ldr(X14, _field(X11, at.CODE_AT))
    for offset in range(0, at.WORDS * 4, 4):
        asm.ldr(W[1], Offset(X11, at.CODE_WORDS * 8 + offset))
        asm.str(W[1], Offset(X14, offset))
    asm.mov(X3, XZR)
    for index, name in enumerate(at.SYSTEM):
        asm.ldr(X1, _field(X11, at.SYSTEM_IN + index))
        if name in at.TRANSLATION:
            asm.mrs(X2, name)
            asm.cmp(X1, X2)
            asm.b_cond(Cond.EQ, same := Label("same"))
            asm.msr(name, X1)
            asm.mov(X3, 1)
            asm.label(same)
        else:
            asm.msr(name, X1)
    asm.cbz(X3, clean := Label("clean"))
    asm.dsb()
    asm._emit("SYS", **_TLBI_VMALLS12E1)
    asm.label(clean)
    asm.dsb()
    asm.system("ic iallu")
    asm.dsb()
    asm.isb()
    for name, index in ((_SPSR, at.PSTATE), (_ELR, at.PC), ("sp_el0", at.SP_EL0), (_SP_EL1, at.SP_EL1)):
        asm.ldr(X1, _field(X11, index))
        asm.msr(name, X1)
    asm.clrex()
    asm.mov(X30, X11)
    for number in range(0, 30, 2):
        asm.ldp(X[number], X[number + 1], _field(X30, number))
    asm.ldr(X30, _field(X30, 30))
    asm.eret()


def _save(asm: Assembler) -> None:
    """Everything into the output record, which SP_EL2 points to; X0 is the number of the vector."""
    for number in range(2, 30, 2):
        asm.stp(X[number], X[number + 1], _field(SP, number))
    asm.str(X30, _field(SP, 30))
    asm.str(X0, _field(SP, at.ENTRY))
    places = (
        (at.SP_EL0, "sp_el0"),
        (at.SP_EL1, _SP_EL1),
        (at.PSTATE, _SPSR),
        (at.PC, _ELR),
        (at.ESR_EL2, _ESR),
        (at.FAR_EL2, _FAR),
        (at.HPFAR_EL2, _HPFAR),
    )
    for index, name in (*places, *((at.SYSTEM_OUT + number, name) for number, name in enumerate(at.SYSTEM))):
        asm.mrs(X1, name)
        asm.str(X1, _field(SP, index))


def _compare_data(asm: Assembler) -> None:
    """List what has changed in `layout.SCANNED`, and put it back."""
    asm.mov(X2, at.PRISTINE)
    asm.add(X4, SP, at.CHANGE_LIST * 8)
    asm.mov(X5, XZR)
    for start, size in at.SCANNED:
        _compare(asm, start, size)
    asm.str(X5, _field(SP, at.CHANGES))


def _compare(asm: Assembler, start: int, size: int) -> None:
    """One part: X2 is where it is found as it should be, X4 where the list goes on, X5 how long that is."""
    asm.mov(X1, start)
    asm.mov(X3, start + size)
    scan, differs, on = Label("scan"), Label("differs"), Label("on")
    asm.label(scan)
    asm.ldp(X6, X7, Post(X1, 16))
    asm.ldp(X8, X9, Post(X2, 16))
    asm.cmp(X6, X8)
    asm.b_cond(Cond.NE, differs)
    asm.cmp(X7, X9)
    asm.b_cond(Cond.NE, differs)
    asm.label(on)
    asm.cmp(X1, X3)
    asm.b_cond(Cond.NE, scan)
    asm.b(done := Label("done"))
    asm.label(differs)
    for now, before, offset in ((X6, X8, -16), (X7, X9, -8)):
        asm.cmp(now, before)
        asm.b_cond(Cond.EQ, same := Label("same"))
        asm.sub(X10, X1, -offset)
        asm.str(before, Offset(X10, 0))
        asm.cmp(X5, at.CHANGES_KEPT)
        asm.add(X5, X5, 1)
        asm.b_cond(Cond.HS, same)
        asm.stp(X10, now, Post(X4, 16))
        asm.label(same)
    asm.b(on)
    asm.label(done)


def _advance(asm: Assembler, next_case: Label) -> None:
    """Code and TLB as they were, and on to the next record. An exception of EL2 itself (a broken harness) ends it."""
    asm.mov(X10, at.STATE)
    asm.ldp(X11, X12, Offset(X10, 0))
    asm.ldr(X13, Offset(X10, 16))
    asm.ldr(X14, _field(X11, at.CODE_AT))
    asm.mov(W[1], at.STOP)
    for offset in range(0, at.WORDS * 4, 4):
        asm.str(W[1], Offset(X14, offset))
    asm.ldr(X1, _field(X11, at.FORGET))
    asm.cbz(X1, remember := Label("remember"))
    asm.dsb()
    asm._emit("SYS", **_TLBI_VMALLS12E1)
    asm.dsb()
    asm.label(remember)
    asm.ldr(X0, _field(X12, at.ENTRY))
    asm.add(X11, X11, at.RECORD_IN * 8)
    asm.add(X12, X12, at.RECORD_OUT * 8)
    asm.sub(X13, X13, 1)
    asm.cmp(X0, 8)
    asm.b_cond(Cond.HS, fine := Label("fine"))
    asm.mov(X13, XZR)
    asm.label(fine)
    asm.stp(X11, X12, Offset(X10, 0))
    asm.str(X13, Offset(X10, 16))
    asm.b(next_case)
