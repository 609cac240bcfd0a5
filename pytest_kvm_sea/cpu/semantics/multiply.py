# SPDX-License-Identifier: GPL-2.0-only
"""Multiplication and division (Arm ARM, C4.1.95, data processing with two and three sources)."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import M64, ZERO_REGISTER, Emitter, Fields, mask, semantics


def _accumulate(e: Emitter, f: Fields, product: str, sf: int) -> str:
    if f["Ra"] == ZERO_REGISTER:
        return f"-({product}) & {mask(sf)}" if f["o0"] else f"{product} & {mask(sf)}"
    return f"{e.read(f['Ra'], sf)} {'-' if f['o0'] else '+'} {product} & {mask(sf)}"


@semantics("MADD")
def multiply_add(e: Emitter, f: Fields) -> None:
    """MADD, MSUB."""
    sf = f["sf"]
    product = f"{e.read(f['Rn'], sf)} * {e.read(f['Rm'], sf)}"
    e.write(f["Rd"], _accumulate(e, f, product, sf), narrow=not sf)


@semantics("MADDL")
def multiply_add_long(e: Emitter, f: Fields) -> None:
    """SMADDL, SMSUBL, UMADDL, UMSUBL."""
    operands = (e.read(f["Rn"], 0), e.read(f["Rm"], 0))
    if not f["U"]:
        operands = (f"sign_extend({operands[0]}, 32)", f"sign_extend({operands[1]}, 32)")
    e.write(f["Rd"], _accumulate(e, f, f"{operands[0]} * {operands[1]}", 1))


@semantics("MULH")
def multiply_high(e: Emitter, f: Fields) -> None:
    """SMULH, UMULH."""
    operands = (e.read(f["Rn"]), e.read(f["Rm"]))
    if not f["U"]:
        operands = (f"sign_extend({operands[0]}, 64)", f"sign_extend({operands[1]}, 64)")
    e.write(f["Rd"], f"{operands[0]} * {operands[1]} >> 64 & {M64}")


@semantics("DIV")
def divide(e: Emitter, f: Fields) -> None:
    """UDIV, SDIV: division by zero gives zero."""
    sf = f["sf"]
    a, b = e.read(f["Rn"], sf), e.read(f["Rm"], sf)
    if f["Rm"] == ZERO_REGISTER:
        value = "0"
    elif f["o1"]:
        value = f"sdiv({a}, {b}, {64 if sf else 32})"
    else:
        value = f"{a} // {b} if {b} else 0"
    e.write(f["Rd"], value, narrow=not sf)
