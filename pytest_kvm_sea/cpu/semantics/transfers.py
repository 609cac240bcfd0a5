# SPDX-License-Identifier: GPL-2.0-only
"""Loads and stores of one register and of pairs, prefetch (Arm ARM, C4.1.94)."""

from __future__ import annotations

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.cpu.emitter import M64, ZERO_REGISTER, Emitter, Fields, Way, semantics
from pytest_kvm_sea.cpu.semantics.operands import extended

_NO_SYNDROME = 0


def syndrome(size: int, register: int, *, wide: bool, signed: bool = False, ordered: bool = False) -> int:
    """ISS bits 24:14 of a trapped load or store of one register (Arm ARM, D24.2.40, ISV to AR). Size in bytes."""
    return (
        esr.ISV
        | (size.bit_length() - 1) << esr.SAS_SHIFT
        | (esr.SSE if signed else 0)
        | register << esr.SRT_SHIFT
        | (esr.SF if wide else 0)
        | (esr.AR if ordered else 0)
    )


def transfer(
    e: Emitter, f: Fields, address: str, *, base_sp: bool, way: Way = Way.PLAIN, writes_back: bool = False
) -> None:
    """A load or store by ``size`` and ``opc``: store, load, load signed to 64 bits, load signed to 32 bits.

    With writeback the syndrome of a trap has no ISV (the hypervisor cannot complete such an instruction).
    """
    size, signed = 1 << f["size"], (0, 0, 64, 32)[f["opc"]]
    wide = signed == 64 or (not signed and f["size"] == 3)
    ordered = way is Way.ORDERED
    iss = _NO_SYNDROME if writes_back else syndrome(size, f["Rt"], wide=wide, signed=bool(signed), ordered=ordered)
    if f["opc"]:
        e.load(f["Rt"], address, size, signed=signed, iss=iss, base_sp=base_sp, way=way)
    else:
        e.store(f["Rt"], address, size, iss=iss, base_sp=base_sp, way=way)


def _offset(e: Emitter, f: Fields, offset: int) -> tuple[str, bool]:
    base = e.read_sp(f["Rn"])
    return f"{base} + {e.constant(offset)}" if offset else base, f["Rn"] == ZERO_REGISTER


@semantics("LDST_UIMM")
def unsigned_offset(e: Emitter, f: Fields) -> None:
    address, base_sp = _offset(e, f, f["imm12"] << f["size"])
    transfer(e, f, address, base_sp=base_sp)


@semantics("LDST_UNSCALED")
def unscaled(e: Emitter, f: Fields) -> None:
    address, base_sp = _offset(e, f, f["imm9"])
    transfer(e, f, address, base_sp=base_sp)


@semantics("LDST_UNPRIVILEGED")
def unprivileged(e: Emitter, f: Fields) -> None:
    address, base_sp = _offset(e, f, f["imm9"])
    transfer(e, f, address, base_sp=base_sp, way=Way.UNPRIVILEGED)


@semantics("LDAPR_UNSCALED")
def ordered_unscaled(e: Emitter, f: Fields) -> None:
    address, base_sp = _offset(e, f, f["imm9"])
    transfer(e, f, address, base_sp=base_sp, way=Way.ORDERED)


def _written_back(e: Emitter, base: str, offset: int) -> str:
    return f"{base} + {e.constant(offset)} & {M64}"


def _base_before(e: Emitter, base: int, loaded: set[int]) -> str:
    """The base register as it was before these registers were loaded."""
    return e.let("d", e.read_sp(base)) if base in loaded else e.read_sp(base)


@semantics("LDST_PRE")
def pre_index(e: Emitter, f: Fields) -> None:
    address = e.let("d", _written_back(e, e.read_sp(f["Rn"]), f["imm9"]))
    transfer(e, f, address, base_sp=f["Rn"] == ZERO_REGISTER, writes_back=True)
    e.write_sp(f["Rn"], address)


@semantics("LDST_POST")
def post_index(e: Emitter, f: Fields) -> None:
    address = _base_before(e, f["Rn"], {f["Rt"]} if f["opc"] else set())
    transfer(e, f, address, base_sp=f["Rn"] == ZERO_REGISTER, writes_back=True)
    e.write_sp(f["Rn"], _written_back(e, address, f["imm9"]))


@semantics("LDST_REG")
def register_offset(e: Emitter, f: Fields) -> None:
    offset = extended(e, f["Rm"], f["option"], f["size"] if f["S"] else 0)
    transfer(e, f, f"{e.read_sp(f['Rn'])} + {offset}", base_sp=f["Rn"] == ZERO_REGISTER)


@semantics("LDR_LITERAL")
def literal(e: Emitter, f: Fields) -> None:
    """LDR and LDRSW (literal)."""
    size, signed = (4, 8, 4)[f["opc"]], (0, 0, 64)[f["opc"]]
    iss = syndrome(size, f["Rt"], wide=f["opc"] != 0, signed=bool(signed))
    address = e.pc_relative(f["imm19"] * 4)
    e.load(f["Rt"], address, size, signed=signed, iss=iss, base_sp=False, way=Way.PLAIN)


@semantics("LDST_PAIR")
def pair(e: Emitter, f: Fields) -> None:
    """LDP, LDPSW, LDNP, STP, STNP."""
    post, pre = f["mode"] == 1, f["mode"] == 3
    size = 8 if f["opc"] == 2 else 4
    offset = f["imm7"] * size
    base_sp = f["Rn"] == ZERO_REGISTER
    if post:
        address = _base_before(e, f["Rn"], {f["Rt"], f["Rt2"]} if f["L"] else set())
    elif pre:
        address = e.let("d", _written_back(e, e.read_sp(f["Rn"]), offset))
    else:
        address, base_sp = _offset(e, f, offset)
    if f["L"]:
        e.load_pair(f["Rt"], f["Rt2"], address, size, signed=f["opc"] == 1, base_sp=base_sp)
    else:
        e.store_pair(f["Rt"], f["Rt2"], address, size, base_sp=base_sp)
    if post:
        e.write_sp(f["Rn"], _written_back(e, address, offset))
    elif pre:
        e.write_sp(f["Rn"], address)


@semantics("PRFM_UIMM")
@semantics("PRFM_UNSCALED")
@semantics("PRFM_REG")
@semantics("PRFM_LITERAL")
def prefetch(e: Emitter, f: Fields) -> None:
    """A hint; nothing is fetched, and it never faults."""
