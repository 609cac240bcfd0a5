# SPDX-License-Identifier: GPL-2.0-only
"""Statements of guest code that access memory."""

from __future__ import annotations

from collections.abc import Callable

from pytest_kvm_sea.arm64.operands import Offset, Reg, X, half
from pytest_kvm_sea.guest.access import ACCESS_BASE, ACCESS_DATA, WRITEBACK, AccessKind
from pytest_kvm_sea.guest.base import GuestBase
from pytest_kvm_sea.guest.values import Operand, Value, as_value

_PATTERN = 0x5A5A_A5A5_DEAD_BEEF


class MemoryStatements(GuestBase):
    """Loads and stores. Addresses need not be aligned."""

    def read_u8(self, address: Operand) -> Value:
        """The byte at an address; the other sizes alike."""
        return self._read(address, 1, lambda rt, place: self.asm.ldrb(half(rt), place))

    def read_u16(self, address: Operand) -> Value:
        return self._read(address, 2, lambda rt, place: self.asm.ldrh(half(rt), place))

    def read_u32(self, address: Operand) -> Value:
        return self._read(address, 4, lambda rt, place: self.asm.ldr(half(rt), place))

    def read_u64(self, address: Operand) -> Value:
        return self._read(address, 8, self.asm.ldr)

    def read_s8(self, address: Operand) -> Value:
        """The byte at an address, sign-extended to 64 bits; the other sizes alike."""
        return self._read(address, 1, self.asm.ldrsb)

    def read_s16(self, address: Operand) -> Value:
        return self._read(address, 2, self.asm.ldrsh)

    def read_s32(self, address: Operand) -> Value:
        return self._read(address, 4, self.asm.ldrsw)

    def write_u8(self, address: Operand, value: Operand) -> None:
        """Store the low byte of a value; the other sizes alike."""
        self._write(address, value, 1, lambda rt, place: self.asm.strb(half(rt), place))

    def write_u16(self, address: Operand, value: Operand) -> None:
        self._write(address, value, 2, lambda rt, place: self.asm.strh(half(rt), place))

    def write_u32(self, address: Operand, value: Operand) -> None:
        self._write(address, value, 4, lambda rt, place: self.asm.str(half(rt), place))

    def write_u64(self, address: Operand, value: Operand) -> None:
        self._write(address, value, 8, self.asm.str)

    def read_pair(self, address: Operand) -> tuple[Value, Value]:
        """Two 64-bit numbers at an address, by one LDP."""
        self.begin()
        base = self.code.base(as_value(address))
        first, second = self.code.take(), self.code.take()
        self.asm.ldp(first, second, base)
        return (
            self.code.define(lambda rd: self.asm.mov(rd, first)),
            self.code.define(lambda rd: self.asm.mov(rd, second)),
        )

    def write_pair(self, address: Operand, first: Operand, second: Operand) -> None:
        """Two 64-bit numbers to an address, by one STP."""
        self.begin()
        base = self.code.base(as_value(address))
        self.asm.stp(self.code.evaluate(as_value(first)), self.code.evaluate(as_value(second)), base)

    def access(self, kind: AccessKind, address: Operand, value: Operand = _PATTERN, label: str = "access") -> Value:
        """Make an access of this kind to ``address``; the instruction gets the symbol ``label``.

        The result is what was loaded (the first of a pair), or what was stored. A pair stores the value twice.
        """
        self.begin()
        target = as_value(address)
        self.code.evaluate(target - WRITEBACK if kind.pre_index else target, self.code.take())
        data, other = self.code.take(), self.code.take()
        assert (ACCESS_BASE, *ACCESS_DATA) == (X[9], data, other)
        if kind.is_write:
            self.asm.mov(other, self.code.evaluate(as_value(value), data))
        self.linker.reserve(label)
        self.asm.label(label)
        kind.emit(self.asm, data, other, ACCESS_BASE)
        return self.code.define(lambda rd: self.asm.mov(rd, data))

    def _read(self, address: Operand, size: int, emit: Callable[[Reg, Offset], None]) -> Value:
        self.begin()
        place = self.code.address(as_value(address), size)
        return self.code.define(lambda rd: emit(rd, place))

    def _write(self, address: Operand, value: Operand, size: int, emit: Callable[[Reg, Offset], None]) -> None:
        self.begin()
        place = self.code.address(as_value(address), size)
        emit(self.code.evaluate(as_value(value)), place)
