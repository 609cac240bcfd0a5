# SPDX-License-Identifier: GPL-2.0-only
"""The guests of the external_aborts and vcpu_events tests."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC, IL
from pytest_kvm_sea.guest.access import ACCESS_BASE, ACCESS_DATA, ACCESSES, AccessKind
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.vectors import Vector
from pytest_kvm_sea.selftests.guests import MASK_SERROR, abort_vector

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.builder import Guest
    from pytest_kvm_sea.guest.linker import Function, Handler, Handlers
    from pytest_kvm_sea.guest.vectors import ExRegs

MMIO = GuestVA(0x800_0000)
"""Mapped to the guest physical address of the same number, where there is no memory."""
ISR_A = 1 << 8
"""ISR_EL1.A: an SError is pending."""
EASE = 1 << 5
"""SCTLR2_EL1: external aborts arrive at the vector of SErrors."""
NMEA = 1 << 2
"""SCTLR2_EL1: SErrors are taken although PSTATE.A masks them."""
STORED = 0x5A5A_A5A5_DEAD_BEEF
"""What a store finds in its register."""
_NO_GLOBALS: dict[str, int] = {}


def _program(
    code: Function, handlers: Handlers, *, el0: bool = False, sctlr2: int = 0, variables: dict[str, int] = _NO_GLOBALS
) -> GuestProgram:
    """``code`` at EL1, or at EL0 under an EL1 that starts it; both after setting bits of SCTLR2_EL1."""

    def guest_code(g: Guest) -> None:
        if sctlr2:
            g.write_sysreg("sctlr2_el1", g.read_sysreg("sctlr2_el1") | sctlr2)
            g.isb()
        if el0:
            g.enter_el0()
        else:
            code(g)

    return GuestProgram.build(guest_code, handlers=handlers, user=code if el0 else None, globals=variables)


def _level(*, el0: bool) -> int:
    """PSTATE.M of the interrupted code."""
    return 0 if el0 else 5


@cache
def mmio(kind: AccessKind, gva: int = MMIO, *, el0: bool = False, ease: bool = False) -> GuestProgram:
    """One access to an address without memory. It must never be completed: the guest gets an external abort for it.

    The status code is left to the host. A fetch takes an instruction abort.
    """
    vector, exception_class = abort_vector(el0=el0, instruction=kind.is_fetch)

    def guest_code(g: Guest) -> None:
        g.access(kind, gva, STORED)
        g.fail("the access should not retire")

    def expect_sea(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        g.assert_eq(esr & ~syndromes.FSC_MASK, exception_class << syndromes.EC_SHIFT | IL)
        g.assert_eq(g.read_sysreg("far_el1"), gva)
        g.assert_eq(regs.pc, gva if kind.is_fetch else g.symbol("access"))
        g.assert_eq(regs.pstate & 0xF, _level(el0=el0))
        g.assert_eq(regs.x(ACCESS_BASE.number), gva - 8 if kind.pre_index else gva)
        if kind.is_write:
            g.assert_eq(regs.x(ACCESS_DATA[0].number), STORED)
        g.done()

    if ease:
        handlers: Handlers = {Vector.ERROR_LOWER_64 if el0 else Vector.ERROR_CURRENT: expect_sea}
    else:
        handlers = {(vector, exception_class): expect_sea}
    return _program(guest_code, handlers, el0=el0, sctlr2=EASE if ease else 0)


@cache
def mmio_answered(kind: AccessKind) -> GuestProgram:
    """One access to an address without memory, which the VMM completes."""

    def guest_code(g: Guest) -> None:
        value = g.access(kind, MMIO, STORED)
        g.store_global("value", value)
        g.done()

    return _program(guest_code, {}, variables={"value": 0})


@cache
def mmio_after_serror() -> GuestProgram:
    """A load from an address without memory, with SErrors unmasked; ``serror_pc``: where one was taken."""

    def guest_code(g: Guest) -> None:
        g.daifclr(MASK_SERROR)
        value = g.access(ACCESSES["ldr-x"], MMIO)
        g.store_global("value", value)
        g.done()

    def on_serror(g: Guest, regs: ExRegs) -> None:
        g.assert_eq(g.load_global("serror_pc"), 0)
        g.store_global("serror_pc", regs.pc)

    return _program(guest_code, {Vector.ERROR_CURRENT: on_serror}, variables={"value": 0, "serror_pc": 0})


def _expect_serror(*, el0: bool, at: str | None) -> Handler:
    """A handler that checks an SError: its class, the syndrome that ``iss`` says (if ``check_iss``), where it came."""

    def expect_serror(g: Guest, regs: ExRegs) -> None:
        esr = g.read_sysreg("esr_el1")
        g.assert_eq(esr & ~syndromes.ISS_MASK, EC.SERROR << syndromes.EC_SHIFT | IL)
        with g.if_(g.load_global("check_iss")):
            g.assert_eq(esr & syndromes.ISS_MASK, g.load_global("iss"))
        g.assert_eq(g.read_sysreg("isr_el1") & ISR_A, 0)
        g.assert_eq(regs.pstate & 0xF, _level(el0=el0))
        if at is not None:
            g.assert_eq(regs.pc, g.symbol(at))
        g.done()

    return expect_serror


_SYNDROME = {"iss": 0, "check_iss": 0}


@cache
def serror_pending(*, unmask: bool) -> GuestProgram:
    """A guest that finds an SError pending before its first instruction; it takes it when it may, and not before."""

    def guest_code(g: Guest) -> None:
        g.assert_eq(g.read_sysreg("isr_el1") & ISR_A, ISR_A)
        if not unmask:
            g.isb()
            g.assert_eq(g.read_sysreg("isr_el1") & ISR_A, ISR_A)
            g.done()
            return
        g.daifclr(MASK_SERROR)
        g.isb()
        g.daifset(MASK_SERROR)
        g.fail("should have taken the pending SError")

    def unexpected(g: Guest, regs: ExRegs) -> None:
        g.fail("took an SError that is masked, from %#lx", regs.pc)

    handler = _expect_serror(el0=False, at=None) if unmask else unexpected
    return _program(guest_code, {Vector.ERROR_CURRENT: handler}, variables=_SYNDROME)


@cache
def serror_unmasked(*, el0: bool = False, sctlr2: int = 0) -> GuestProgram:
    """A guest that may take an SError at any time, and waits for one; with NMEA it masks them, to no avail."""

    def guest_code(g: Guest) -> None:
        if not el0:
            g.assert_eq(g.read_sysreg("isr_el1") & ISR_A, 0)
            if not sctlr2 & NMEA:
                g.daifclr(MASK_SERROR)
        g.sync(1)
        g.label_here("interrupted")
        if not el0:
            g.daifset(MASK_SERROR)
        g.fail("should have taken the SError")

    vector = Vector.ERROR_LOWER_64 if el0 else Vector.ERROR_CURRENT
    handlers: Handlers = {vector: _expect_serror(el0=el0, at="interrupted")}
    return _program(guest_code, handlers, el0=el0, sctlr2=sctlr2, variables=_SYNDROME)


@cache
def recorder(*, el0: bool = False) -> GuestProgram:
    """A guest that waits, then unmasks SErrors, and counts what it takes: ``aborts`` and ``serrors``.

    ``sea_esr``, ``sea_pc``, ``serror_esr``, ``serror_pc``: what ESR_EL1 and ELR_EL1 were. The handler of an abort
    unmasks SErrors, too.
    """

    def guest_code(g: Guest) -> None:
        g.sync(1)
        g.label_here("interrupted")
        if not el0:
            g.daifclr(MASK_SERROR)
            g.isb()
        g.done()

    def on_abort(g: Guest, regs: ExRegs) -> None:
        g.store_global("sea_esr", g.read_sysreg("esr_el1"))
        g.store_global("sea_pc", regs.pc)
        g.store_global("aborts", g.load_global("aborts") + 1)
        g.daifclr(MASK_SERROR)
        g.isb()
        g.done()

    def on_serror(g: Guest, regs: ExRegs) -> None:
        g.store_global("serror_esr", g.read_sysreg("esr_el1"))
        g.store_global("serror_pc", regs.pc)
        g.store_global("serrors", g.load_global("serrors") + 1)

    handlers: Handlers = {
        (Vector.SYNC_CURRENT, EC.DABT_CURRENT): on_abort,
        (Vector.SYNC_LOWER_64, EC.DABT_LOWER): on_abort,
        Vector.ERROR_CURRENT: on_serror,
        Vector.ERROR_LOWER_64: on_serror,
    }
    names = ("aborts", "sea_esr", "sea_pc", "serrors", "serror_esr", "serror_pc")
    return _program(guest_code, handlers, el0=el0, variables=dict.fromkeys(names, 0))
