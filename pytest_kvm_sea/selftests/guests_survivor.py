# SPDX-License-Identifier: GPL-2.0-only
"""A guest that survives its memory errors: its handler notes the abort and goes on after the access."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.guest.vectors import Vector
from pytest_kvm_sea.selftests.guests import program

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.builder import Guest
    from pytest_kvm_sea.guest.program import GuestProgram
    from pytest_kvm_sea.guest.vectors import ExRegs

_INSTRUCTION = 4
RECORD = ("aborts", "esr", "far", "elr", "spsr")
"""Globals of the program: how many aborts it took, and what the last one said."""


def _note(g: Guest, regs: ExRegs) -> None:
    g.store_global("aborts", g.load_global("aborts") + 1)
    g.store_global("esr", g.read_sysreg("esr_el1"))
    g.store_global("far", g.read_sysreg("far_el1"))
    g.store_global("elr", regs.pc)
    g.store_global("spsr", regs.pstate)


@cache
def survivor(addresses: tuple[int, ...], *, fetch: int | None = None, store: int | None = None) -> GuestProgram:
    """Reads every address in turn, and says the number of each (1 for the first) when it is past it.

    ``data`` is what the last read gave. With ``fetch`` it calls that address at the end; it comes back from an abort,
    or from the RET there. With ``store`` it stores there at the end.
    """

    def guest_code(g: Guest) -> None:
        for number, address in enumerate(addresses, start=1):
            g.store_global("data", 0)
            g.store_global("data", g.read_u64(address))
            g.sync(number)
        if fetch is not None:
            g.access(ACCESSES["fetch"], fetch)
            g.sync(len(addresses) + 1)
        if store is not None:
            g.write_u64(store, 1)
        g.done()

    def on_data_abort(g: Guest, regs: ExRegs) -> None:
        _note(g, regs)
        regs.pc = regs.pc + _INSTRUCTION

    def on_fetch_abort(g: Guest, regs: ExRegs) -> None:
        _note(g, regs)
        regs.pc = regs.x(30)

    handlers = {
        (Vector.SYNC_CURRENT, EC.DABT_CURRENT): on_data_abort,
        (Vector.SYNC_CURRENT, EC.IABT_CURRENT): on_fetch_abort,
    }
    return program(guest_code, el0=False, handlers=handlers, variables=dict.fromkeys(RECORD, 0))


@cache
def talker() -> GuestProgram:
    """Prints a number that it computes, says that it is past that, and prints it again from the same place."""

    def guest_code(g: Guest) -> None:
        with g.loop(2):
            g.printf("%lu", g.load_global("data"))
            g.sync(1)

    return program(guest_code, el0=False, handlers={})
