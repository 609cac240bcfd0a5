# SPDX-License-Identifier: GPL-2.0-only
"""Logic, moves, bit fields, shifts, and what reorders or counts bits (Arm ARM, C4.1.92 and C4.1.95)."""

from __future__ import annotations

from functools import cache

from pytest_kvm_sea.cpu.emitter import ZERO_REGISTER, Emitter, Fields, mask, semantics
from pytest_kvm_sea.cpu.pstate import LOGIC32, LOGIC64
from pytest_kvm_sea.cpu.semantics.operands import shifted

_OPERATORS = ("&", "|", "^", "&")
_ORR = 1
_ANDS = 3


@cache
def bit_mask(n: int, imms: int, immr: int) -> int:
    """The 64-bit immediate of a logical instruction (Arm ARM, aarch64/instrs/integer/bitmasks/DecodeBitMasks)."""
    length = (n << 6 | ~imms & 0x3F).bit_length() - 1
    size = 1 << length
    ones = (imms & size - 1) + 1
    rotation = immr & size - 1
    element = (1 << ones) - 1
    element = (element >> rotation | element << size - rotation) & (1 << size) - 1
    return int(f"{element:0{size}b}" * (64 // size), 2)


def _logical(e: Emitter, f: Fields, a: str, b: str, *, to_sp: bool) -> None:
    value = b if f["opc"] == _ORR and a == "0" else f"{a} {_OPERATORS[f['opc']]} {b}"
    if f["opc"] == _ANDS:
        value, _ = e.flags(LOGIC64 if f["sf"] else LOGIC32, value)
        e.write(f["Rd"], value, narrow=not f["sf"])
    elif to_sp:
        e.write_sp(f["Rd"], value, narrow=not f["sf"])
    else:
        e.write(f["Rd"], value, narrow=not f["sf"])


@semantics("LOGICAL_IMM")
def logical_immediate(e: Emitter, f: Fields) -> None:
    immediate = bit_mask(f["N"], f["imms"], f["immr"]) & (0xFFFFFFFFFFFFFFFF if f["sf"] else 0xFFFFFFFF)
    _logical(e, f, e.read(f["Rn"], f["sf"]), e.constant(immediate), to_sp=True)


@semantics("LOGICAL_SHIFTED")
def logical_shifted(e: Emitter, f: Fields) -> None:
    b = shifted(e, f["Rm"], f["shift"], f["imm6"], f["sf"])
    if f["N"]:
        b = f"({b} ^ {mask(f['sf'])})"
    _logical(e, f, e.read(f["Rn"], f["sf"]), b, to_sp=False)


@semantics("MOVE_WIDE")
def move_wide(e: Emitter, f: Fields) -> None:
    """MOVN, MOVZ, MOVK."""
    shift = 16 * f["hw"]
    ones = 0xFFFFFFFFFFFFFFFF if f["sf"] else 0xFFFFFFFF
    immediate = f["imm16"] << shift
    if f["opc"] == 3:
        keep = ones ^ 0xFFFF << shift
        value = f"{e.read(f['Rd'])} & {e.constant(keep)} | {e.constant(immediate)}"
    else:
        value = e.constant(immediate ^ ones if f["opc"] == 0 else immediate)
    e.write(f["Rd"], value, narrow=not f["sf"])


@semantics("BITFIELD")
def bit_field(e: Emitter, f: Fields) -> None:
    """SBFM, BFM, UBFM: a field of the source goes to the bottom (imms >= immr) or up to bit width - immr."""
    sf, immr, imms = f["sf"], f["immr"], f["imms"]
    bits = 64 if sf else 32
    if imms >= immr:
        width, at = imms - immr + 1, 0
        source = e.read(f["Rn"], sf)
        moved = f"{source} >> {e.constant(immr)}" if immr else source
    else:
        width, at = imms + 1, bits - immr
        moved = e.read(f["Rn"], sf)
    field = (1 << width) - 1
    if f["opc"] == 0:
        value = f"sign_extend({moved}, {e.constant(width)})"
        value = f"{value} << {e.constant(at)} & {mask(sf)}" if at else f"{value} & {mask(sf)}"
    else:
        whole = at == 0 and imms == bits - 1
        value = f"({moved})" if whole else f"({moved} & {e.constant(field)})"
        value = f"({value} << {e.constant(at)})" if at else value
        if f["opc"] == 1:
            keep = ((1 << bits) - 1) ^ field << at
            value = f"{e.read(f['Rd'], sf)} & {e.constant(keep)} | {value}"
    e.write(f["Rd"], value, narrow=not sf)


@semantics("EXTR")
def extract(e: Emitter, f: Fields) -> None:
    sf, lsb = f["sf"], f["imms"]
    high, low = e.read(f["Rn"], sf), e.read(f["Rm"], sf)
    if lsb == 0:
        e.write(f["Rd"], low, narrow=not sf)
        return
    bits = 64 if sf else 32
    e.write(
        f["Rd"],
        f"({high} << {e.constant(bits - lsb)} | {low} >> {e.constant(lsb)}) & {mask(sf)}",
        narrow=not sf,
    )


@semantics("SHIFT_VARIABLE")
def shift_variable(e: Emitter, f: Fields) -> None:
    """LSLV, LSRV, ASRV, RORV."""
    sf = f["sf"]
    bits = 64 if sf else 32
    value = e.read(f["Rn"], sf)
    by = f"({e.read(f['Rm'])} & {bits - 1})"
    e.write(
        f["Rd"],
        (
            f"{value} << {by} & {mask(sf)}",
            f"{value} >> {by}",
            f"asr({value}, {by}, {bits})",
            f"ror({value}, {by}, {bits})",
        )[f["op2"]],
        narrow=not sf,
    )


@semantics("ONE_SOURCE")
def one_source(e: Emitter, f: Fields) -> None:
    """RBIT, REV16, REV32, REV, CLZ, CLS."""
    sf = f["sf"]
    size = 8 if sf else 4
    value = e.read(f["Rn"], sf)
    e.write(
        f["Rd"],
        (
            f"bit_reverse({value}, {size})",
            f"reverse_bytes({value}, {size}, 2)",
            f"reverse_bytes({value}, {size}, 4)",
            f"reverse_bytes({value}, {size}, 8)",
            f"{size * 8} - {value}.bit_length()" if f["Rn"] != ZERO_REGISTER else f"{size * 8}",
            f"leading_signs({value}, {size * 8})",
        )[f["opcode"]],
        narrow=not sf,
    )


@semantics("CRC32")
def crc32(e: Emitter, f: Fields) -> None:
    """CRC32B to CRC32X, CRC32CB to CRC32CX."""
    call = f"crc32({e.read(f['Rn'], 0)}, {e.read(f['Rm'])}, {1 << f['sz']}, {f['C']})"
    e.write(f["Rd"], call, narrow=True)
