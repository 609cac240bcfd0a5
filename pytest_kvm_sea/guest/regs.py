# SPDX-License-Identifier: GPL-2.0-only
"""The registers that an exception interrupted, as a handler sees them."""

from __future__ import annotations

from pytest_kvm_sea.arm64.operands import X29, Offset
from pytest_kvm_sea.guest.base import GuestBase
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.values import Operand, Value, as_value
from pytest_kvm_sea.guest.vectors import PC_OFFSET, PSTATE_OFFSET, SP_OFFSET

_LAST = 30


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
