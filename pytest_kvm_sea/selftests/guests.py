# SPDX-License-Identifier: GPL-2.0-only
"""The guests of the selftests. They are meant to read as the C of the kernel's guests does."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC, FNV, FSC_MASK, FSC_SEA, IDS, IL
from pytest_kvm_sea.guest.access import ACCESS_BASE, ACCESSES, AccessKind
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.vectors import Vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_kvm_sea.guest.builder import Guest
    from pytest_kvm_sea.guest.linker import Function, Handlers
    from pytest_kvm_sea.guest.vectors import ExRegs


PROBE_OFFSET = 48
"""Where in the broken granule the guest looks once more after an access that went through."""
SERROR_ISS = IDS
"""What KVM's own SErrors say: an implementation defined syndrome, and nothing in it."""
WARM = 0x3A
"""The stage that a guest reaches when it has touched the page that it was to touch first."""
MASK_SERROR = 4
"""DAIFSet and DAIFClr: the A bit."""


_GLOBALS = {"far_invalid": 0, "data": 0, "warm": 0}


def abort_vector(*, el0: bool, instruction: bool) -> tuple[Vector, EC]:
    """Where an abort from this exception level arrives, and as what."""
    if el0:
        return Vector.SYNC_LOWER_64, EC.IABT_LOWER if instruction else EC.DABT_LOWER
    return Vector.SYNC_CURRENT, EC.IABT_CURRENT if instruction else EC.DABT_CURRENT


def _warm_up(g: Guest) -> None:
    """Touch a page that the VMM names in ``warm``, so that stage 2 has tables for it; without a name nothing.

    The TLB forgets it again: the next access walks the tables.
    """
    address = g.load_global("warm")
    with g.if_(address):
        g.read_u64(address)
        g.dsb()
        g.system("tlbi vmalle1")
        g.dsb()
        g.isb()
        g.sync(WARM)


def program(
    code: Function, *, el0: bool, handlers: Handlers, variables: Mapping[str, int] | None = None
) -> GuestProgram:
    """``code`` at EL1, or at EL0 under an EL1 that does nothing but start it; both after warming up at EL1."""
    names = {**_GLOBALS, **(variables or {})}

    def start(g: Guest) -> None:
        _warm_up(g)
        code(g)

    def start_user(g: Guest) -> None:
        _warm_up(g)
        g.enter_el0()

    if el0:
        return GuestProgram.build(start_user, handlers=handlers, user=code, globals=names)
    return GuestProgram.build(start, handlers=handlers, globals=names)


@cache
def consumer(kind: AccessKind, gva: int, *, el0: bool = False, check_fnv: bool = False) -> GuestProgram:
    """A guest that makes one access, which consumes the error, and whose handler checks the abort that it gets.

    ``far_invalid`` is a global of the program: the VMM says in it what the exit said. With ``check_fnv`` the guest must
    be able to see it, too.
    """
    vector, exception_class = abort_vector(el0=el0, instruction=kind.is_fetch)

    def guest_code(g: Guest) -> None:
        g.access(kind, gva)
        # Not reached: consuming the error is a SEA. What is at the cell tells poison that was ignored from none at all.
        data = g.access(ACCESSES["ldr-x"], gva // 64 * 64 + PROBE_OFFSET, label="probe")
        g.store_global("data", data)
        g.fail("Data corruption not prevented by SEA: gva=%#lx, data=%#lx", gva, data)

    def expect_sea(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        far = g.read_sysreg("far_el1")
        g.printf("Guest SEA esr_el1=%#lx, far_el1=%#lx\n", esr, far)
        g.assert_eq(esr >> syndromes.EC_SHIFT, exception_class)
        g.assert_eq(esr & IL, IL)
        g.assert_eq(esr & FSC_MASK, FSC_SEA)
        g.assert_eq(regs.pc, gva if kind.is_fetch else g.symbol("access"))
        g.assert_eq(regs.pstate & 0xF, 0 if el0 else 5)
        g.assert_eq(regs.x(ACCESS_BASE.number), gva - 8 if kind.pre_index else gva)
        with g.if_(g.load_global("far_invalid")):
            if check_fnv:
                g.assert_eq(esr & FNV, FNV)
            g.printf("Guest observed garbage value in FAR\n")
        with g.else_():
            g.assert_eq(esr & FNV, 0)
            g.assert_eq(far, gva)
        g.done()

    return program(guest_code, el0=el0, handlers={(vector, exception_class): expect_sea})


@cache
def reader(gva: int, *, el0: bool = False) -> GuestProgram:
    """A guest that reads with SErrors unmasked, and takes an SError where KVM does not let the SEA through."""

    def guest_code(g: Guest) -> None:
        if not el0:
            g.daifclr(MASK_SERROR)
        data = g.read_u64(gva)
        g.store_global("data", data)
        g.fail("Data corruption not prevented: gva=%#lx, data=%#lx", gva, data)

    def expect_serror(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        g.printf("Guest SError esr_el1=%#lx\n", esr)
        g.assert_eq(esr >> syndromes.EC_SHIFT, EC.SERROR)
        g.assert_eq(esr & syndromes.ISS_MASK, SERROR_ISS)
        g.assert_eq(regs.pstate & 0xF, 0 if el0 else 5)
        g.done()

    vector = Vector.ERROR_LOWER_64 if el0 else Vector.ERROR_CURRENT
    return program(guest_code, el0=el0, handlers={vector: expect_serror})


@cache
def walker(gva: int) -> GuestProgram:
    """A guest whose access fails on the walk of its own page tables; it is told so by an abort, as KVM injects it."""

    def guest_code(g: Guest) -> None:
        data = g.access(ACCESSES["ldr-x"], gva)
        g.store_global("data", data)
        g.fail("Data corruption not prevented by SEA: gva=%#lx, data=%#lx", gva, data)

    def expect_sea(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        g.assert_eq(esr >> syndromes.EC_SHIFT, EC.DABT_CURRENT)
        g.assert_eq(esr & FSC_MASK, FSC_SEA)
        g.assert_eq(g.read_sysreg("far_el1"), gva)
        g.assert_eq(regs.pc, g.symbol("access"))
        g.done()

    return program(guest_code, el0=False, handlers={(Vector.SYNC_CURRENT, EC.DABT_CURRENT): expect_sea})


@cache
def pages(good: int, bad: int) -> GuestProgram:
    """A guest that reads one address, says so, and reads another."""

    def guest_code(g: Guest) -> None:
        g.read_u64(good)
        g.sync(1)
        g.read_u64(bad)
        g.fail("the page at %#lx was read", bad)

    return program(guest_code, el0=False, handlers={})


@cache
def rereader(first: int, second: int, value: int) -> GuestProgram:
    """A guest that finds a value at one address, says so, and finds it there again, and at another one, too."""

    def guest_code(g: Guest) -> None:
        g.assert_eq(g.read_u64(first), value)
        g.sync(1)
        g.assert_eq(g.read_u64(first), value)
        g.assert_eq(g.read_u64(second), value)
        g.done()

    return program(guest_code, el0=False, handlers={})


@cache
def idle(*, el0: bool = False, instruction: bool = True) -> GuestProgram:
    """A guest that should run nothing but its handler for an external abort (inject_iabt's)."""
    vector, exception_class = abort_vector(el0=el0, instruction=instruction)

    def guest_code(g: Guest) -> None:
        g.fail("Guest should only run SEA handler")

    def expect_abort(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        g.printf("Guest SEA esr_el1=%#lx\n", esr)
        g.assert_eq(esr >> syndromes.EC_SHIFT, exception_class)
        g.assert_eq(esr & FSC_MASK, FSC_SEA)
        g.assert_eq(regs.pstate & 0xF, 0 if el0 else 5)
        g.done()

    return program(guest_code, el0=el0, handlers={(vector, exception_class): expect_abort})


@cache
def stopped_at_el0(*, instruction: bool = True) -> GuestProgram:
    """A guest that waits at EL0 for an abort from outside."""
    vector, exception_class = abort_vector(el0=True, instruction=instruction)

    def user_code(g: Guest) -> None:
        g.sync(1)
        g.label_here("interrupted")
        g.fail("Guest should only run SEA handler")

    def expect_abort(g: Guest, regs: ExRegs) -> None:
        g.assert_eq(g.read_sysreg("esr_el1") >> syndromes.EC_SHIFT, exception_class)
        g.assert_eq(regs.pc, g.symbol("interrupted"))
        g.assert_eq(regs.pstate & 0xF, 0)
        g.done()

    return program(user_code, el0=True, handlers={(vector, exception_class): expect_abort})


@cache
def spinner() -> GuestProgram:
    """A guest that counts in ``count`` until the VMM writes ``go``; then it is done."""

    def guest_code(g: Guest) -> None:
        g.sync(1)
        go = g.variable(0)
        with g.while_(go == 0):
            g.store_global("count", g.load_global("count") + 1)
            go.set(g.load_global("go"))
        g.done()

    return program(guest_code, el0=False, handlers={}, variables={"count": 0, "go": 0})
