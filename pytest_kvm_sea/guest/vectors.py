# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions as a guest's handlers see them: the vectors (Arm ARM D1.3.6), and the registers that were interrupted.

An exception pushes 272 bytes onto the stack, in the layout of the kernel's KVM selftests::

    0     x0 to x30
    248   sp       SP_EL1 before the exception; it is not restored
    256   pc       ELR_EL1, written back before ERET
    264   pstate   SPSR_EL1, written back before ERET
"""

from __future__ import annotations

import enum

from pytest_kvm_sea.arm64.operands import X29, Offset
from pytest_kvm_sea.guest.base import GuestBase
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.values import Operand, Value, as_value

SAVED_SIZE = 272
"""The size of the saved registers."""
SP_OFFSET, PC_OFFSET, PSTATE_OFFSET = 248, 256, 264
_LAST = 30


class Vector(enum.IntEnum):
    """The sixteen vectors, in the order of their addresses."""

    SYNC_CURRENT_SP0 = 0
    IRQ_CURRENT_SP0 = 1
    FIQ_CURRENT_SP0 = 2
    ERROR_CURRENT_SP0 = 3
    SYNC_CURRENT = 4
    IRQ_CURRENT = 5
    FIQ_CURRENT = 6
    ERROR_CURRENT = 7
    SYNC_LOWER_64 = 8
    IRQ_LOWER_64 = 9
    FIQ_LOWER_64 = 10
    ERROR_LOWER_64 = 11
    SYNC_LOWER_32 = 12
    IRQ_LOWER_32 = 13
    FIQ_LOWER_32 = 14
    ERROR_LOWER_32 = 15

    @property
    def is_sync(self) -> bool:
        """Whether ESR_EL1 has an exception class for it."""
        return self % 4 == 0


class ExRegs:
    """x0 to x30, sp, pc (ELR_EL1) and pstate (SPSR_EL1) at the exception.

    Reading gives the value at that moment; what is set is in the registers when the handler returns.
    """

    def __init__(self, guest: GuestBase) -> None:
        self._guest = guest

    def x(self, number: int) -> Value:
        """Register x0 to x30."""
        return self._read(self._register(number))

    def set_x(self, number: int, value: Operand) -> None:
        self._write(self._register(number), value)

    @property
    def sp(self) -> Value:
        """SP_EL1 before the exception. It cannot be set; SP_EL0 is a system register."""
        return self._read(SP_OFFSET)

    @property
    def pc(self) -> Value:
        """Where the exception was taken from, or where it returns to: ELR_EL1."""
        return self._read(PC_OFFSET)

    @pc.setter
    def pc(self, value: Operand) -> None:
        self._write(PC_OFFSET, value)

    @property
    def pstate(self) -> Value:
        """SPSR_EL1."""
        return self._read(PSTATE_OFFSET)

    @pstate.setter
    def pstate(self, value: Operand) -> None:
        self._write(PSTATE_OFFSET, value)

    @staticmethod
    def _register(number: int) -> int:
        if not 0 <= number <= _LAST:
            raise GuestBuildError(f"regs: there is no register x{number}; it takes 0 to {_LAST}")
        return 8 * number

    def _read(self, offset: int) -> Value:
        self._guest.begin()
        return self._guest.code.define(lambda rd: self._guest.asm.ldr(rd, Offset(X29, offset)))

    def _write(self, offset: int, value: Operand) -> None:
        self._guest.begin()
        self._guest.asm.str(self._guest.code.evaluate(as_value(value)), Offset(X29, offset))
