# SPDX-License-Identifier: GPL-2.0-only
"""A guest hypervisor at a virtual EL2, and its guest, L2.

Both are one program over the same page tables and the same vectors: at EL2 with HCR_EL2.E2H the names of EL1's
registers are those of EL2's, so that the handlers need not know whose exception they have. CurrentEL tells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64.esr import EC, EC_SHIFT
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.vectors import Vector
from pytest_kvm_sea.selftests.guests import MASK_SERROR

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.builder import Guest
    from pytest_kvm_sea.guest.linker import Handler
    from pytest_kvm_sea.guest.vectors import ExRegs

HCR_VM, HCR_AMO, HCR_TGE, HCR_RW, HCR_E2H, HCR_TEA = 1 << 0, 1 << 5, 1 << 27, 1 << 31, 1 << 34, 1 << 37
THERE = 0x2E
"""The stage that says: the code runs in its place."""
RECORD = ("level", "vector", "esr", "far", "elr", "spsr", "hpfar", "context")
"""Globals of the program: what the handler found."""
ISR_A = 1 << 8
DAIF = 0xF << 6
_EL1H = 0b0101
CONTEXTS = {1: 0x15, 2: 0x25}
"""CONTEXTIDR_EL1 and _EL2, by which each level knows its registers from those of the other."""
_REGIME = ("sctlr", "tcr", "ttbr0", "mair", "vbar", "cpacr")
"""What L2 gets of the hypervisor's own: page tables, vectors."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the guest runs."""

    l2: bool
    el0: bool

    @property
    def mode(self) -> int:
        """M[3:0] of PSTATE there."""
        if self.el0:
            return 0b0000
        return _EL1H if self.l2 else 0b1001


PLACES = {
    "el2": Place(l2=False, el0=False),
    "el2-el0": Place(l2=False, el0=True),
    "l2-el1": Place(l2=True, el0=False),
    "l2-el0": Place(l2=True, el0=True),
}
"""The hypervisor, its own user space (HCR_EL2.TGE), the kernel of its guest, and a process of that."""


@cache
def hypervisor(place: Place, gva: int, *, call: int | None = None) -> GuestProgram:
    """A guest that goes to its place, says so (`THERE`), and reads a cell. Whatever exception comes is recorded.

    The VMM says how in the globals ``hcr`` (HCR_EL2), ``daif`` (PSTATE.DAIF, as a mask), ``vtcr`` and ``vttbr``.
    ``call``: HVC with this number comes before the read.
    """

    def act(g: Guest) -> None:
        g.sync(THERE)
        g.label_here("there")
        if call is not None:
            g.hvc(call)
        data = g.access(ACCESSES["ldr-x"], gva)
        g.store_global("data", data)
        g.fail("read %#lx at %#lx", data, gva)

    def start(g: Guest) -> None:
        g.write_sysreg("hcr_el2", g.load_global("hcr"))
        g.write_sysreg("contextidr_el1", CONTEXTS[2])
        if place.l2:
            g.write_sysreg("contextidr_el12", CONTEXTS[1])
            for name in _REGIME:
                g.write_sysreg(f"{name}_el12", g.read_sysreg(f"{name}_el1"))
            g.write_sysreg("vtcr_el2", g.load_global("vtcr"))
            g.write_sysreg("vttbr_el2", g.load_global("vttbr"))
            g.isb()
        if place.el0:
            g.enter_el0(g.load_global("daif"))
            return
        if place.l2:
            g.exception_return(g.symbol("l2"), g.load_global("daif") | place.mode)
            g.label_here("l2")
        else:
            g.write_sysreg("daif", g.load_global("daif"))
        act(g)

    return GuestProgram.build(
        start,
        handlers={vector: _recorder(vector) for vector in _VECTORS},
        user=act if place.el0 else None,
        globals=dict.fromkeys((*RECORD, "data", "far_invalid", "hcr", "daif", "vtcr", "vttbr"), 0),
    )


_VECTORS = (Vector.SYNC_CURRENT, Vector.SYNC_LOWER_64, Vector.ERROR_CURRENT, Vector.ERROR_LOWER_64)


def _recorder(vector: Vector) -> Handler:
    def record(g: Guest, regs: ExRegs) -> None:
        level = g.let(g.read_sysreg("currentel") >> 2)
        g.store_global("level", level)
        g.store_global("vector", int(vector))
        g.store_global("esr", g.read_sysreg("esr_el1"))
        g.store_global("far", g.read_sysreg("far_el1"))
        g.store_global("elr", regs.pc)
        g.store_global("spsr", regs.pstate)
        g.store_global("context", g.read_sysreg("contextidr_el1"))
        with g.if_(level == 2):
            g.store_global("hpfar", g.read_sysreg("hpfar_el2"))
        g.done()

    return record


@cache
def serror_at_el2() -> GuestProgram:
    """A guest at EL2 that routes no SError to itself, finds one pending (ISR_EL1.A), and unmasks it."""

    def start(g: Guest) -> None:
        g.write_sysreg("hcr_el2", HCR_RW | HCR_E2H)
        g.isb()
        g.assert_eq(g.read_sysreg("isr_el1"), 0)
        g.sync(THERE)
        g.assert_eq(g.read_sysreg("isr_el1"), ISR_A)
        g.daifclr(MASK_SERROR)
        g.label_here("unmasked")
        g.fail("the SError was not taken")

    def expect_serror(g: Guest, regs: ExRegs) -> None:
        g.assert_eq(g.read_sysreg("esr_el1") >> EC_SHIFT, EC.SERROR)
        g.assert_eq(g.read_sysreg("currentel") >> 2, 2)
        g.assert_eq(regs.pc, g.symbol("unmasked"))
        g.done()

    return GuestProgram.build(start, handlers={Vector.ERROR_CURRENT: expect_serror})
