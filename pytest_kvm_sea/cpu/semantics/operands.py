# SPDX-License-Identifier: GPL-2.0-only
"""Operands that are registers with something done to them (Arm ARM, C1.2.5: shifted and extended registers)."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import ZERO_REGISTER, Emitter, mask

LSL, LSR, ASR, ROR = range(4)


def shifted(e: Emitter, number: int, shift: int, amount: int, sf: int) -> str:
    """An atom: the register, shifted or rotated by a constant."""
    if number == ZERO_REGISTER:
        return "0"
    value = e.read(number, sf)
    if amount == 0:
        return value
    by, bits = e.constant(amount), 64 if sf else 32
    return {
        LSL: f"({value} << {by} & {mask(sf)})",
        LSR: f"({value} >> {by})",
        ASR: f"asr({value}, {by}, {bits})",
        ROR: f"ror({value}, {by}, {bits})",
    }[shift]


_SIGN_BITS = (8, 16, 32)


def extended(e: Emitter, number: int, option: int, amount: int) -> str:
    """An atom: the register extended from 8 to 64 bits, signed if option is 4 and above, shifted left.

    It may be negative or exceed 64 bits; whatever is computed from it has to be masked.
    """
    if number == ZERO_REGISTER:
        return "0"
    size = option & 3
    if size == 3:
        value = e.read(number)
    elif option & 4:
        value = f"sign_extend({e.read(number)}, {_SIGN_BITS[size]})"
    elif size == 2:
        value = e.read(number, 0)
    else:
        value = f"({e.read(number)} & {('0xff', '0xffff')[size]})"
    return f"({value} << {e.constant(amount)})" if amount else value
