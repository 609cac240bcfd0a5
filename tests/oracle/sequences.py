# SPDX-License-Identifier: GPL-2.0-only
"""What cases of several instructions that count on each other are written with."""

from __future__ import annotations

import struct

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import Reg, X
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle.instructions import Draft


class Sequence(Assembler):
    """Instructions of a case, and registers that have been given to them."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._free = draft.rng.sample(range(30), 30)

    def register(self, value: int | None = None) -> Reg:
        """One that is not in use, with this value or the one that it happens to have."""
        number = self._free.pop()
        if value is not None:
            self._draft.pin(number, value)
        return X[number]

    def probe(self, operation: str, address: Reg) -> None:
        """Have an address translated, and keep what PAR_EL1 says."""
        self.system(operation, address)
        self.isb()
        self.mrs(self.register(), "par_el1")

    def finish(self, *, forget: bool, compiled: bool = False) -> None:
        """Make this the instructions of the case. See `Case.forget` and `Case.compiled`."""
        # All branches are to its own labels: it does not matter where it lies
        code = bytes(self.assemble(base=0))
        self._draft.words += struct.unpack(f"<{len(code) // 4}I", code)
        self._draft.forget = forget
        self._draft.compiled = compiled
        self._draft.whole = True


def with_mmu(draft: Draft) -> None:
    """Stage 1 on, whatever the environment has."""
    if not draft.env.mmu:
        draft.env = draft.env._replace(mmu=True, sctlr=draft.env.sctlr | state.SCTLR_M)
        draft.system["sctlr_el1"] = draft.env.sctlr


def mostly_at_el1(draft: Draft) -> None:
    """What EL0 may not do is tried there in one of eight cases. PAN is set in one of eight."""
    rng = draft.rng
    if rng.randrange(8):
        draft.pstate = draft.pstate & ~0xF | rng.choice((pstate.EL1T, pstate.EL1H))
    if rng.randrange(2):
        draft.pstate &= ~pstate.PAN


def is_el0(draft: Draft) -> bool:
    return draft.pstate & 0xF == pstate.EL0T


def ordinary_place(draft: Draft) -> None:
    """The code in the half of the address space that the case leaves alone."""
    if draft.pc >> 55 & 1:
        draft.pc = at.CODE + draft.pc % at.PAGE
        draft.code_at = draft.pc
