# SPDX-License-Identifier: GPL-2.0-only
"""Exclusives, acquire and release, atomics (Arm ARM, C4.1.94). One processor: order needs no work, alignment does."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import ZERO_REGISTER, Emitter, Fields, Way, semantics
from pytest_kvm_sea.cpu.semantics.transfers import transfer


def _base(e: Emitter, f: Fields) -> str:
    if f["Rn"] == ZERO_REGISTER:
        e.check_sp()
    return e.read_sp(f["Rn"])


@semantics("ORDERED")
def ordered(e: Emitter, f: Fields) -> None:
    """LDAR, STLR, LDLAR, STLLR."""
    fields = {"size": f["size"], "opc": f["L"], "Rt": f["Rt"]}
    transfer(e, fields, e.read_sp(f["Rn"]), base_sp=f["Rn"] == ZERO_REGISTER, way=Way.ORDERED)


@semantics("LDAPR")
def load_acquire_rcpc(e: Emitter, f: Fields) -> None:
    fields = {"size": f["size"], "opc": 1, "Rt": f["Rt"]}
    transfer(e, fields, e.read_sp(f["Rn"]), base_sp=f["Rn"] == ZERO_REGISTER, way=Way.ORDERED)


@semantics("EXCLUSIVE")
def exclusive(e: Emitter, f: Fields) -> None:
    """LDXR, LDAXR, STXR, STLXR."""
    size = str(1 << f["size"])
    address = _base(e, f)
    if f["L"]:
        e.write(f["Rt"], e.let("t", e.call_value("load_exclusive", address, size)), narrow=f["size"] < 3)
    else:
        failed = e.call_value("store_exclusive", address, size, e.read(f["Rt"]))
        e.write(f["Rs"], e.let("t", failed), narrow=True)


@semantics("EXCLUSIVE_PAIR")
def exclusive_pair(e: Emitter, f: Fields) -> None:
    """LDXP, LDAXP, STXP, STLXP."""
    size = 8 if f["sz"] else 4
    address = _base(e, f)
    low, high = e.read(f["Rt"], f["sz"]), e.read(f["Rt2"], f["sz"])
    if f["L"]:
        value = e.let("t", e.call_value("load_exclusive", address, str(size * 2)))
        e.write(f["Rt"], f"{value} & {(1 << size * 8) - 1:#x}", narrow=size == 4)
        e.write(f["Rt2"], f"{value} >> {size * 8}", narrow=size == 4)
    else:
        both = f"{low} | {high} << {size * 8}"
        e.write(f["Rs"], e.let("t", e.call_value("store_exclusive", address, str(size * 2), both)), narrow=True)


@semantics("ATOMIC")
def atomic(e: Emitter, f: Fields) -> None:
    """LDADD, LDCLR, LDEOR, LDSET, LDSMAX, LDSMIN, LDUMAX, LDUMIN."""
    e.call_only("require", "'lse'")
    address = _base(e, f)
    old = e.call_value("atomic", address, str(1 << f["size"]), e.read(f["Rs"]), str(f["opc"]))
    e.write(f["Rt"], e.let("t", old), narrow=f["size"] < 3)


_SWAP = 8


@semantics("SWP")
def swap(e: Emitter, f: Fields) -> None:
    e.call_only("require", "'lse'")
    address = _base(e, f)
    old = e.call_value("atomic", address, str(1 << f["size"]), e.read(f["Rs"]), str(_SWAP))
    e.write(f["Rt"], e.let("t", old), narrow=f["size"] < 3)


@semantics("CAS")
def compare_and_swap(e: Emitter, f: Fields) -> None:
    e.call_only("require", "'lse'")
    address = _base(e, f)
    old = e.call_value("compare_and_swap", address, str(1 << f["size"]), e.read(f["Rs"]), e.read(f["Rt"]))
    e.write(f["Rs"], e.let("t", old), narrow=f["size"] < 3)


@semantics("CASP")
def compare_and_swap_pair(e: Emitter, f: Fields) -> None:
    e.call_only("require", "'lse'")
    address = _base(e, f)
    bits = 64 if f["sz"] else 32
    expected = f"{e.read(f['Rs'], f['sz'])} | {_second(e, f['Rs'], f['sz'])} << {bits}"
    new = f"{e.read(f['Rt'], f['sz'])} | {_second(e, f['Rt'], f['sz'])} << {bits}"
    old = e.let("t", e.call_value("compare_and_swap", address, str(bits // 4), expected, new))
    e.write(f["Rs"], f"{old} & {(1 << bits) - 1:#x}", narrow=bits == 32)
    e.write(f["Rs"] + 1, f"{old} >> {bits}", narrow=bits == 32)


def _second(e: Emitter, number: int, sf: int) -> str:
    return e.read(number + 1, sf)
