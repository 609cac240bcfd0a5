# SPDX-License-Identifier: GPL-2.0-only
"""Addition and subtraction, conditional compare and select (Arm ARM, C4.1.92 and C4.1.95)."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import ZERO_REGISTER, Emitter, Fields, mask, semantics
from pytest_kvm_sea.cpu.pstate import ADD32, ADD64, RAW, SUB32, SUB64
from pytest_kvm_sea.cpu.semantics.operands import extended, shifted

_FLAG_KINDS = {(0, 0): ADD32, (0, 1): ADD64, (1, 0): SUB32, (1, 1): SUB64}


def _set_flags(e: Emitter, f: Fields, a: str, b: str) -> None:
    a, b = e.flags(_FLAG_KINDS[f["op"], f["sf"]], a, b)
    if f["Rd"] != ZERO_REGISTER:
        e.write(f["Rd"], f"{a} {'-' if f['op'] else '+'} {b} & {mask(f['sf'])}", narrow=not f["sf"])


def _result(f: Fields, a: str, b: str) -> str:
    if a == "0" and not f["op"]:
        return b
    if b == "0":
        return a
    return f"{a} {'-' if f['op'] else '+'} {b} & {mask(f['sf'])}"


@semantics("ADDSUB_IMM")
def add_sub_immediate(e: Emitter, f: Fields) -> None:
    immediate = f["imm12"] << 12 * f["sh"]
    a = e.read_sp(f["Rn"], f["sf"])
    b = e.constant(immediate) if immediate else "0"
    if f["S"]:
        _set_flags(e, f, a, b)
    else:
        e.write_sp(f["Rd"], _result(f, a, b), narrow=not f["sf"])


@semantics("ADDSUB_SHIFTED")
def add_sub_shifted(e: Emitter, f: Fields) -> None:
    a = e.read(f["Rn"], f["sf"])
    b = shifted(e, f["Rm"], f["shift"], f["imm6"], f["sf"])
    if f["S"]:
        _set_flags(e, f, a, b)
    else:
        e.write(f["Rd"], _result(f, a, b), narrow=not f["sf"])


@semantics("ADDSUB_EXTENDED")
def add_sub_extended(e: Emitter, f: Fields) -> None:
    a = e.read_sp(f["Rn"], f["sf"])
    b = extended(e, f["Rm"], f["option"], f["imm3"])
    if f["S"]:
        _set_flags(e, f, a, f"{b} & {mask(f['sf'])}")
    else:
        e.write_sp(f["Rd"], f"{a} {'-' if f['op'] else '+'} {b} & {mask(f['sf'])}", narrow=not f["sf"])


@semantics("ADDSUB_CARRY")
def add_sub_carry(e: Emitter, f: Fields) -> None:
    a = e.let("a", e.read(f["Rn"], f["sf"]))
    b = e.read(f["Rm"], f["sf"])
    b = e.let("b", f"{b} ^ {mask(f['sf'])}" if f["op"] else b)
    carry = e.let("t", f"{e.nzcv()} >> 1 & 1")
    if f["S"]:
        e.flags(RAW, f"nzcv_with_carry({a}, {b}, {carry}, {64 if f['sf'] else 32})")
        # flags() may use the scratch names
        a = e.read(f["Rn"], f["sf"])
        b = e.read(f["Rm"], f["sf"])
        b = f"({b} ^ {mask(f['sf'])})" if f["op"] else b
    e.write(f["Rd"], f"{a} + {b} + {carry} & {mask(f['sf'])}", narrow=not f["sf"])


def _conditional_compare(e: Emitter, f: Fields, b: str) -> None:
    kind = _FLAG_KINDS[f["op"], f["sf"]]
    a = e.read(f["Rn"], f["sf"])
    e.flags(RAW, f"nzcv({kind}, {a}, {b}) if {e.condition(f['cond'])} else {e.constant(f['nzcv'])}")


@semantics("CCMP_REG")
def conditional_compare_register(e: Emitter, f: Fields) -> None:
    _conditional_compare(e, f, e.read(f["Rm"], f["sf"]))


@semantics("CCMP_IMM")
def conditional_compare_immediate(e: Emitter, f: Fields) -> None:
    _conditional_compare(e, f, e.constant(f["imm5"]))


@semantics("CSEL")
def conditional_select(e: Emitter, f: Fields) -> None:
    """CSEL, CSINC, CSINV, CSNEG."""
    sf = f["sf"]
    other = e.read(f["Rm"], sf)
    form = {
        (0, 0): other,
        (0, 1): f"{other} + 1 & {mask(sf)}",
        (1, 0): f"{other} ^ {mask(sf)}",
        (1, 1): f"-{other} & {mask(sf)}",
    }[f["op"], f["o2"]]
    e.write(f["Rd"], f"{e.read(f['Rn'], sf)} if {e.condition(f['cond'])} else {form}", narrow=not sf)


@semantics("ADR")
def adr(e: Emitter, f: Fields) -> None:
    """ADR and ADRP."""
    offset = f["immhi"] << 2 | f["immlo"]
    e.write(f["Rd"], e.pc_relative(offset << 12, page=True) if f["op"] else e.pc_relative(offset))
