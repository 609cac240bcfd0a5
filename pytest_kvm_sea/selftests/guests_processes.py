# SPDX-License-Identifier: GPL-2.0-only
"""A small guest kernel with two EL0 processes: one reads the broken cell, the other only works.

What the kernel does with an abort is what Linux does: the process that an external abort from EL0 is to blame for is
killed; one that the kernel itself took, and any SError, is a panic.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64.esr import EC, FSC_MASK, FSC_SEA, FSC_SEA_PARITY
from pytest_kvm_sea.guest.vectors import Vector
from pytest_kvm_sea.selftests.guests import MASK_SERROR, program

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.builder import Guest
    from pytest_kvm_sea.guest.linker import Function, Handler, Handlers
    from pytest_kvm_sea.guest.program import GuestProgram
    from pytest_kvm_sea.guest.vectors import ExRegs

WHO, YIELD, READ, EXIT = range(4)
"""System calls, the number in the SVC instruction: which process am I; let the other run; have the kernel read; end."""
READER, WORKER = 0, 1
RUNNING, FINISHED, KILLED = range(3)
"""What `reader` and `worker`, globals of the program, say of the processes."""
PANIC = 0xDEAD
"""The stage that a panicking guest kernel reaches."""
ROUNDS = 5
TOTAL = sum(range(1, ROUNDS + 1))
"""What the worker finds, in the global `total`."""

_STACK_STEP = 0x800
_CONTEXT = (*(f"x{number}" for number in range(31)), "pc", "pstate", "sp")
"""Of the process that does not run."""
_GLOBALS = dict.fromkeys(_CONTEXT, 0) | {
    "current": READER,
    "alive": 2,
    "reader": 0,
    "worker": 0,
    "total": 0,
    "started": 0,
}
_ON_ANY_WALK = 0x07
"""The bits of a status that say whether the abort is one on a table walk, and at which level."""


def _switch(g: Guest, regs: ExRegs) -> None:
    """Change the registers of the process that was interrupted for those of the other."""
    for number in range(31):
        other = g.load_global(f"x{number}")
        g.store_global(f"x{number}", regs.x(number))
        regs.set_x(number, other)
    other = g.load_global("pc")
    g.store_global("pc", regs.pc)
    regs.pc = other
    other = g.load_global("pstate")
    g.store_global("pstate", regs.pstate)
    regs.pstate = other
    other = g.load_global("sp")
    g.store_global("sp", g.read_sysreg("sp_el0"))
    g.write_sysreg("sp_el0", other)
    g.store_global("current", g.load_global("current") ^ 1)


def _end(g: Guest, regs: ExRegs, state: int) -> None:
    """The process that runs ends. The other goes on; the last one takes the machine down."""
    with g.if_(g.load_global("current") == READER):
        g.store_global("reader", state)
    with g.else_():
        g.store_global("worker", state)
    g.store_global("alive", g.load_global("alive") - 1)
    with g.if_(g.load_global("alive") == 0):
        g.done()
    with g.else_():
        _switch(g, regs)


def _panic(g: Guest, regs: ExRegs) -> None:
    g.printf("Kernel panic: esr_el1=%#lx pc=%#lx\n", g.read_sysreg("esr_el1"), regs.pc)
    g.sync(PANIC)


def _on_abort(g: Guest, regs: ExRegs) -> None:
    """An external abort from EL0 costs the process its life. Any other is a bug of this guest."""
    status = g.read_sysreg("esr_el1") & (FSC_MASK & ~_ON_ANY_WALK)
    with g.if_((status == FSC_SEA) | (status == FSC_SEA_PARITY)):
        g.printf("process %lu killed by SIGBUS at pc=%#lx\n", g.load_global("current"), regs.pc)
        _end(g, regs, KILLED)
    with g.else_():
        g.fail("no external abort: esr_el1=%#lx", g.read_sysreg("esr_el1"))


def _system_calls(gva: int) -> Handler:
    """The handler of SVC; READ makes the kernel read the cell at ``gva`` on behalf of a process."""

    def on_svc(g: Guest, regs: ExRegs) -> None:
        number = g.read_sysreg("esr_el1") & 0xFFFF
        with g.if_(number == WHO):
            regs.set_x(0, g.load_global("current"))
            with g.if_(g.load_global("started") == 0):
                g.store_global("started", 1)
                g.store_global("pc", g.symbol("process"))
                g.store_global("sp", g.read_sysreg("sp_el0") - _STACK_STEP)
        with g.if_(number == YIELD), g.if_(g.load_global("alive") == 2):
            _switch(g, regs)
        with g.if_(number == READ):
            g.daifclr(MASK_SERROR)
            data = g.read_u64(gva)
            g.fail("the kernel read %#lx", data)
        with g.if_(number == EXIT):
            with g.if_(g.load_global("current") == WORKER):
                g.store_global("total", regs.x(0))
            _end(g, regs, FINISHED)

    return on_svc


def _processes(gva: int, *, by_kernel: bool) -> Function:
    """Both processes; which one it is they ask the kernel."""

    def user_code(g: Guest) -> None:
        g.label_here("process")
        with g.if_(g.svc(WHO) == READER):
            g.svc(YIELD)
            if by_kernel:
                g.svc(READ)
            else:
                g.read_u64(gva)
            g.svc(EXIT)
        with g.else_():
            total = g.variable(0)
            left = g.variable(ROUNDS)
            with g.while_(left != 0):
                total.set(total + left)
                left.set(left - 1)
                g.svc(YIELD)
            g.svc(EXIT, total)

    return user_code


@cache
def two_processes(gva: int, *, by_kernel: bool) -> GuestProgram:
    """The reader consumes the error at ``gva``, or has the kernel do it; the worker adds up numbers meanwhile."""
    handlers: Handlers = {
        (Vector.SYNC_LOWER_64, EC.SVC64): _system_calls(gva),
        (Vector.SYNC_LOWER_64, EC.DABT_LOWER): _on_abort,
        (Vector.SYNC_CURRENT, EC.DABT_CURRENT): _panic,
        Vector.ERROR_CURRENT: _panic,
        Vector.ERROR_LOWER_64: _panic,
    }
    return program(_processes(gva, by_kernel=by_kernel), el0=True, handlers=handlers, variables=_GLOBALS)
