# SPDX-License-Identifier: GPL-2.0-only
"""The code of the exception vectors: it saves and restores what they interrupt, and finds the handler."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import SP, X0, X1, X2, X16, X17, X29, X30, Cond, Label, Offset, X
from pytest_kvm_sea.guest.codegen import DATA
from pytest_kvm_sea.guest.ucall import ARGS_OFFSET
from pytest_kvm_sea.guest.vectors import PC_OFFSET, SAVED_SIZE, SP_OFFSET, Vector

CLASSES = 64
"""ESR_EL1.EC has 6 bits."""
UNHANDLED_SITE = 0
"""Where in the data the ucall structure for unhandled exceptions is."""
RESTORE = Label("restore_registers")
"""Where a handler goes when it is done; the stack pointer is at the saved registers."""
Installed: TypeAlias = tuple[tuple[Vector, int | None, str], ...]
"""Vector, exception class (None: any), and the symbol of the handler."""

_SLOT = 0x80
_TABLE_ALIGNMENT = 2048
_EC_SHIFT = 26


@lru_cache(maxsize=64)
def emit_vectors(installed: Installed, mmio: int) -> tuple[Assembler, tuple[tuple[int, str], ...]]:
    """The table of vectors and what belongs to it, and which part of it begins where.

    Handlers are entered with x29 and sp at the saved registers.
    """
    asm = Assembler()
    asm.align(_TABLE_ALIGNMENT)
    save, dispatches = Label("save_registers"), [Label(f"dispatch {vector.name}") for vector in Vector]
    for vector in Vector:
        asm.label(f"[vector {vector.name}]")
        asm.sub(SP, SP, SAVED_SIZE)
        asm.str(X30, Offset(SP, 8 * 30))
        asm.adr(X30, dispatches[vector])
        asm.b(save)
        asm.align(_SLOT)
    asm.label("[save registers]")
    asm.label(save)
    _save(asm)
    unhandled_sync, unhandled = Label("unhandled_sync"), Label("unhandled")
    for vector in Vector:
        asm.label(f"[dispatch {vector.name}]")
        asm.label(dispatches[vector])
        _dispatch(asm, vector, installed, unhandled_sync if vector.is_sync else unhandled)
    asm.label("[unhandled]")
    _unhandled(asm, unhandled_sync, unhandled, mmio)
    asm.label("[restore registers]")
    asm.label(RESTORE)
    _restore(asm)
    asm.resolve()
    return asm, tuple(sorted((offset, name) for name, offset in asm.symbols.items()))


def _save(asm: Assembler) -> None:
    for number in range(0, 30, 2):
        asm.stp(X[number], X[number + 1], Offset(SP, 8 * number))
    asm.mov(X29, SP)
    asm.add(X0, SP, SAVED_SIZE)
    asm.str(X0, Offset(SP, SP_OFFSET))
    asm.mrs(X0, "elr_el1")
    asm.mrs(X1, "spsr_el1")
    asm.stp(X0, X1, Offset(SP, PC_OFFSET))
    asm.ret()


def _restore(asm: Assembler) -> None:
    asm.ldp(X0, X1, Offset(SP, PC_OFFSET))
    asm.msr("elr_el1", X0)
    asm.msr("spsr_el1", X1)
    for number in range(0, 30, 2):
        asm.ldp(X[number], X[number + 1], Offset(SP, 8 * number))
    asm.ldr(X30, Offset(SP, 8 * 30))
    asm.add(SP, SP, SAVED_SIZE)
    asm.eret()


def _dispatch(asm: Assembler, vector: Vector, installed: Installed, unhandled: Label) -> None:
    by_class = [(ec, symbol) for place, ec, symbol in installed if place is vector and ec is not None]
    if by_class:
        asm.mrs(X1, "esr_el1")
        asm.lsr(X1, X1, _EC_SHIFT)
        for ec, symbol in by_class:
            asm.cmp(X1, ec)
            asm.b_cond(Cond.EQ, symbol)
    for_all = [symbol for place, ec, symbol in installed if place is vector and ec is None]
    if for_all:
        asm.b(for_all[0])
        return
    asm.mov(X0, int(vector))
    asm.b(unhandled)


def _unhandled(asm: Assembler, sync: Label, other: Label, mmio: int) -> None:
    """UCALL_UNHANDLED with vector, class and whether the class is valid; then as if it had been handled."""
    tell = Label("tell")
    asm.label(sync)
    asm.mrs(X1, "esr_el1")
    asm.lsr(X1, X1, _EC_SHIFT)
    asm.mov(X2, 1)
    asm.b(tell)
    asm.label(other)
    asm.mov(X1, 0)
    asm.mov(X2, 0)
    asm.label(tell)
    asm.adr(X16, DATA, UNHANDLED_SITE)
    asm.stp(X0, X1, Offset(X16, ARGS_OFFSET))
    asm.str(X2, Offset(X16, ARGS_OFFSET + 16))
    asm.mov(X17, mmio)
    asm.str(X16, X17)
