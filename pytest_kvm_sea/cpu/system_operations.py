# SPDX-License-Identifier: GPL-2.0-only
"""The SYS instructions that EL0 and EL1 have: AT, DC, IC, TLBI (Arm ARM, C5.3 to C5.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_kvm_sea.cpu.bus import Access
from pytest_kvm_sea.cpu.exceptions import Exceptions
from pytest_kvm_sea.cpu.state import PAR_EL1, SCTLR_DZE, SCTLR_UCI


class Operation(NamedTuple):
    """What an instruction does with the value of its register."""

    action: Callable[[Exceptions, int], None]
    el0: int | None = None
    """The bit of SCTLR_EL1 that allows it at EL0; None: UNDEFINED there."""


def _at(*, write: bool, el0: bool) -> Operation:
    def action(c: Exceptions, va: int) -> None:
        c.sysregs[PAR_EL1] = c.address_translation(va, write=write, el0=el0)

    return Operation(action)


def invalidate_instructions(c: Exceptions, _value: int = 0) -> None:
    """What is in memory now is executed from here on."""
    for context in c.contexts:
        context.blocks.clear()


def _invalidate_instructions_at(c: Exceptions, va: int) -> None:
    c.maintain(va)
    invalidate_instructions(c, va)


def _operation(op1: int, crn: int, crm: int, op2: int) -> int:
    return op1 << 11 | crn << 7 | crm << 3 | op2


_TLBI: Final = Operation(lambda c, _value: c.invalidate_tlb())
"""Every TLBI of EL1 drops everything: that is allowed, and simple."""
_BY_SET_AND_WAY: Final = Operation(lambda _c, _value: None)
_CLEAN_AT_EL0: Final = Operation(lambda c, va: c.maintain(va), SCTLR_UCI)

OPERATIONS: Final[dict[int, Operation]] = {
    _operation(0, 7, 8, 0): _at(write=False, el0=False),
    _operation(0, 7, 8, 1): _at(write=True, el0=False),
    _operation(0, 7, 8, 2): _at(write=False, el0=True),
    _operation(0, 7, 8, 3): _at(write=True, el0=True),
    # IC IALLUIS, IALLU, IVAU
    _operation(0, 7, 1, 0): Operation(invalidate_instructions),
    _operation(0, 7, 5, 0): Operation(invalidate_instructions),
    _operation(3, 7, 5, 1): Operation(_invalidate_instructions_at, SCTLR_UCI),
    # DC IVAC needs permission to write; ISW, CSW, CISW; CVAC, CVAU, CIVAC; ZVA
    _operation(0, 7, 6, 1): Operation(lambda c, va: c.maintain(va, Access.WRITE)),
    _operation(0, 7, 6, 2): _BY_SET_AND_WAY,
    _operation(0, 7, 10, 2): _BY_SET_AND_WAY,
    _operation(0, 7, 14, 2): _BY_SET_AND_WAY,
    _operation(3, 7, 10, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 11, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 14, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 4, 1): Operation(lambda c, va: c.zero_block(va), SCTLR_DZE),
    # TLBI VMALLE1, VAE1, ASIDE1, VAAE1, VALE1, VAALE1; Inner Shareable (CRm 3) and not (7)
    **{_operation(0, 8, crm, op2): _TLBI for crm in (3, 7) for op2 in (0, 1, 2, 3, 5, 7)},
}
"""By op1:CRn:CRm:op2; what has no entry is UNDEFINED."""
