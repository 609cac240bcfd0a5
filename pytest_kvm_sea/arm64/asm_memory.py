# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: PLR0917 - operands stand in the order of the assembly language
"""Mnemonics of loads and stores (Arm ARM C4.1.94)."""

from __future__ import annotations

from typing import TypeAlias

from pytest_kvm_sea.arm64.emitter import Emitter, check, only64, same_width, sp, zr
from pytest_kvm_sea.arm64.operands import Address, Indexed, Offset, Post, Pre, Reg, Target

Name: TypeAlias = str
"""A mnemonic. Within `LoadsStores` the word str is one."""

# mnemonic: (log2 of the size, opc for a 64-bit register, opc for a 32-bit register); None: no such form
_SINGLE: dict[str, tuple[int, int | None, int | None]] = {
    "strb": (0, None, 0),
    "ldrb": (0, None, 1),
    "ldrsb": (0, 2, 3),
    "strh": (1, None, 0),
    "ldrh": (1, None, 1),
    "ldrsh": (1, 2, 3),
    "ldrsw": (2, 2, None),
}
_ATOMIC = ("add", "clr", "eor", "set", "smax", "smin", "umax", "umin")
_ORDER = {"": (0, 0), "a": (1, 0), "l": (0, 1), "al": (1, 1)}
_SUFFIX = {"b": 0, "h": 1, "": None}
_PREFETCH = {
    f"p{kind}l{level}{policy}": kind_bits << 3 | level - 1 << 1 | policy_bit
    for kind_bits, kind in enumerate(("ld", "li", "st"))
    for level in (1, 2, 3)
    for policy_bit, policy in enumerate(("keep", "strm"))
}
_PAIR_MODES = {Post: 1, Offset: 2, Pre: 3}


def _atomics() -> dict[str, tuple[str, dict[str, int], int | None]]:
    table: dict[str, tuple[str, dict[str, int], int | None]] = {}
    for order, (acquire, release) in _ORDER.items():
        for suffix, size in _SUFFIX.items():
            fields = {"A": acquire, "R": release}
            table[f"swp{order}{suffix}"] = ("SWP", fields, size)
            table[f"cas{order}{suffix}"] = ("CAS", {"L": acquire, "o0": release}, size)
            for opc, operation in enumerate(_ATOMIC):
                table[f"ld{operation}{order}{suffix}"] = ("ATOMIC", {**fields, "opc": opc}, size)
    return table


ATOMICS = _atomics()
"""Atomic instructions by mnemonic, ``ldadd``, ``swpal``, ``casab``, …: class, fields, size (None: the register's)."""

# mnemonic: (L, o0)
_EXCLUSIVES = {"stxr": (0, 0), "stlxr": (0, 1), "ldxr": (1, 0), "ldaxr": (1, 1)}
_ORDERED = {"stllr": (0, 0), "stlr": (0, 1), "ldlar": (1, 0), "ldar": (1, 1)}


class LoadsStores(Emitter):
    """Loads and stores of all sizes and addressing modes, pairs, exclusives, ordered and atomic accesses."""

    def ldr(self, rt: Reg, address: Address) -> None:
        """An offset that has no scaled form is encoded unscaled (LDUR), as assemblers do."""
        self._access("ldr", 2 + rt.sf, 1, rt, address)

    def str(self, rt: Reg, address: Address) -> None:
        self._access("str", 2 + rt.sf, 0, rt, address)

    def ldrb(self, rt: Reg, address: Address) -> None:
        self._single("ldrb", rt, address)

    def ldrh(self, rt: Reg, address: Address) -> None:
        self._single("ldrh", rt, address)

    def ldrsb(self, rt: Reg, address: Address) -> None:
        self._single("ldrsb", rt, address)

    def ldrsh(self, rt: Reg, address: Address) -> None:
        self._single("ldrsh", rt, address)

    def ldrsw(self, rt: Reg, address: Address) -> None:
        self._single("ldrsw", rt, address)

    def strb(self, rt: Reg, address: Address) -> None:
        self._single("strb", rt, address)

    def strh(self, rt: Reg, address: Address) -> None:
        self._single("strh", rt, address)

    def ldtr(self, rt: Reg, base: Reg, imm: int = 0) -> None:
        """With the permissions of EL0."""
        self._imm9("LDST_UNPRIVILEGED", "ldtr", 2 + rt.sf, 1, rt, base, imm)

    def sttr(self, rt: Reg, base: Reg, imm: int = 0) -> None:
        self._imm9("LDST_UNPRIVILEGED", "sttr", 2 + rt.sf, 0, rt, base, imm)

    def ldapur(self, rt: Reg, base: Reg, imm: int = 0) -> None:
        self._imm9("LDAPR_UNSCALED", "ldapur", 2 + rt.sf, 1, rt, base, imm)

    def stlur(self, rt: Reg, base: Reg, imm: int = 0) -> None:
        self._imm9("LDAPR_UNSCALED", "stlur", 2 + rt.sf, 0, rt, base, imm)

    def _single(self, mnemonic: Name, rt: Reg, address: Address) -> None:
        size, opc64, opc32 = _SINGLE[mnemonic]
        opc = opc64 if rt.sf else opc32
        if opc is None:
            raise ValueError(f"{mnemonic}: rt is {rt}; it takes a {32 if rt.sf else 64}-bit register")
        self._access(mnemonic, size, opc, rt, address)

    def _access(self, mnemonic: Name, size: int, opc: int, rt: Reg, address: Address) -> None:
        if isinstance(address, Reg):
            address = Offset(address)
        if isinstance(address, Offset):
            self._offset(mnemonic, size, opc, rt, address)
        elif isinstance(address, Indexed):
            self._indexed(mnemonic, size, opc, rt, address)
        else:
            if rt.number == address.base.number != 31:
                raise ValueError(f"{mnemonic}: rt is {rt}, the base that is written back; it takes another register")
            name = "LDST_PRE" if isinstance(address, Pre) else "LDST_POST"
            self._imm9(name, mnemonic, size, opc, rt, address.base, address.imm)

    def _offset(self, mnemonic: Name, size: int, opc: int, rt: Reg, address: Offset) -> None:
        imm, scale = address.imm, 1 << size
        if imm % scale == 0 and 0 <= imm <= 4095 * scale:
            self._emit(
                "LDST_UIMM",
                size=size,
                opc=opc,
                imm12=imm >> size,
                Rn=_base(mnemonic, address.base),
                Rt=zr(mnemonic, "rt", rt),
            )
            return
        if not -256 <= imm <= 255:
            raise ValueError(
                f"{mnemonic}: offset is {imm}; it takes -256 to 255, or 0 to {4095 * scale} in multiples of {scale}"
            )
        self._imm9("LDST_UNSCALED", mnemonic, size, opc, rt, address.base, imm)

    def _imm9(self, name: Name, mnemonic: Name, size: int, opc: int, rt: Reg, base: Reg, imm: int) -> None:
        self._emit(
            name,
            size=size,
            opc=opc,
            imm9=check(mnemonic, "offset", imm, -256, 255),
            Rn=_base(mnemonic, base),
            Rt=zr(mnemonic, "rt", rt),
        )

    def _indexed(self, mnemonic: Name, size: int, opc: int, rt: Reg, address: Indexed) -> None:
        if not address.extend & 2:
            raise ValueError(f"{mnemonic}: extend is {address.extend.name}; it takes UXTW, UXTX (LSL), SXTW or SXTX")
        if address.index.sf != address.extend & 1:
            raise ValueError(f"{mnemonic}: index is {address.index}; {address.extend.name} takes the other width")
        self._emit(
            "LDST_REG",
            size=size,
            opc=opc,
            Rm=zr(mnemonic, "index", address.index),
            option=address.extend,
            S=int(address.shifted),
            Rn=_base(mnemonic, address.base),
            Rt=zr(mnemonic, "rt", rt),
        )

    # Literals and prefetch

    def ldr_literal(self, rt: Reg, target: Target, addend: int = 0) -> None:
        """From a label, up to 1 MiB away."""
        self._emit_relative("ldr", "ldr", target, addend, opc=rt.sf, Rt=zr("ldr", "rt", rt))

    def ldrsw_literal(self, rt: Reg, target: Target, addend: int = 0) -> None:
        rt = only64("ldrsw", "rt", rt)
        self._emit_relative("ldr", "ldrsw", target, addend, opc=2, Rt=zr("ldrsw", "rt", rt))

    def prfm(self, operation: Name, base: Reg, imm: int = 0) -> None:
        """Prefetch: ``pldl1keep`` and its kin."""
        prfop = _PREFETCH.get(operation)
        if prfop is None:
            raise ValueError(f"prfm: operation is {operation!r}; it takes {', '.join(_PREFETCH)}")
        imm12 = check("prfm", "offset", imm, 0, 4095 * 8, 8) >> 3
        self._emit("PRFM_UIMM", imm12=imm12, Rn=_base("prfm", base), prfop=prfop)

    # Pairs

    def ldp(self, rt: Reg, rt2: Reg, address: Reg | Offset | Pre | Post) -> None:
        self._pair("ldp", 2 * same_width("ldp", rt, rt2), 1, rt, rt2, address)

    def stp(self, rt: Reg, rt2: Reg, address: Reg | Offset | Pre | Post) -> None:
        self._pair("stp", 2 * same_width("stp", rt, rt2), 0, rt, rt2, address)

    def ldpsw(self, rt: Reg, rt2: Reg, address: Reg | Offset | Pre | Post) -> None:
        self._pair("ldpsw", 1, 1, only64("ldpsw", "rt", rt), only64("ldpsw", "rt2", rt2), address)

    def ldnp(self, rt: Reg, rt2: Reg, address: Reg | Offset) -> None:
        """A non-temporal pair."""
        self._pair("ldnp", 2 * same_width("ldnp", rt, rt2), 1, rt, rt2, address, mode=0)

    def stnp(self, rt: Reg, rt2: Reg, address: Reg | Offset) -> None:
        self._pair("stnp", 2 * same_width("stnp", rt, rt2), 0, rt, rt2, address, mode=0)

    def _pair(
        self,
        mnemonic: Name,
        opc: int,
        load: int,
        rt: Reg,
        rt2: Reg,
        address: Reg | Offset | Pre | Post,
        mode: int | None = None,
    ) -> None:
        if isinstance(address, Reg):
            address = Offset(address)
        numbers = {"Rt2": zr(mnemonic, "rt2", rt2), "Rt": zr(mnemonic, "rt", rt)}
        base = address.base.number
        if load and rt.number == rt2.number:
            raise ValueError(f"{mnemonic}: rt and rt2 are both {rt}; it takes different registers")
        if not isinstance(address, Offset) and base != 31 and base in numbers.values():
            raise ValueError(f"{mnemonic}: rt or rt2 is {address.base}, the base that is written back")
        scale = 8 if opc == 2 else 4
        self._emit(
            "LDST_PAIR",
            opc=opc,
            mode=_PAIR_MODES[type(address)] if mode is None else mode,
            L=load,
            imm7=check(mnemonic, "offset", address.imm, -64 * scale, 63 * scale, scale) // scale,
            Rn=_base(mnemonic, address.base),
            **numbers,
        )

    # Exclusives, ordered and atomic accesses: the base is a register alone

    def ldxr(self, rt: Reg, base: Reg, *, size: int | None = None, acquire: bool = False) -> None:
        """``size`` in bytes is that of the register unless it is given as 1 or 2 (LDXRB, LDXRH)."""
        self._exclusive("ldaxr" if acquire else "ldxr", None, rt, base, size)

    def stxr(self, rs: Reg, rt: Reg, base: Reg, *, size: int | None = None, release: bool = False) -> None:
        """Rs, 32 bits, becomes 0 if the store was made, otherwise 1."""
        self._exclusive("stlxr" if release else "stxr", rs, rt, base, size)

    def ldxp(self, rt: Reg, rt2: Reg, base: Reg, *, acquire: bool = False) -> None:
        self._exclusive_pair("ldaxp" if acquire else "ldxp", 1, int(acquire), None, rt, rt2, base)

    def stxp(self, rs: Reg, rt: Reg, rt2: Reg, base: Reg, *, release: bool = False) -> None:
        self._exclusive_pair("stlxp" if release else "stxp", 0, int(release), rs, rt, rt2, base)

    def ldar(self, rt: Reg, base: Reg, *, size: int | None = None) -> None:
        self._ordered("ldar", rt, base, size)

    def stlr(self, rt: Reg, base: Reg, *, size: int | None = None) -> None:
        self._ordered("stlr", rt, base, size)

    def ldlar(self, rt: Reg, base: Reg, *, size: int | None = None) -> None:
        self._ordered("ldlar", rt, base, size)

    def stllr(self, rt: Reg, base: Reg, *, size: int | None = None) -> None:
        self._ordered("stllr", rt, base, size)

    def ldapr(self, rt: Reg, base: Reg, *, size: int | None = None) -> None:
        self._emit("LDAPR", size=_size("ldapr", rt, size), Rn=_base("ldapr", base), Rt=zr("ldapr", "rt", rt))

    def atomic(self, mnemonic: Name, rs: Reg, rt: Reg, base: Reg) -> None:
        """One of `ATOMICS`: ``atomic("ldaddal", X1, X2, X0)`` is LDADDAL X1, X2, [X0]."""
        found = ATOMICS.get(mnemonic)
        if found is None:
            raise ValueError(f"atomic: mnemonic is {mnemonic!r}; it takes {', '.join(ATOMICS)}")
        name, fields, size = found
        sf = same_width(mnemonic, rs, rt)
        if size is not None and sf:
            raise ValueError(f"{mnemonic}: registers are {rs}, {rt}; it takes 32-bit registers")
        numbers = {"Rs": zr(mnemonic, "rs", rs), "Rn": _base(mnemonic, base), "Rt": zr(mnemonic, "rt", rt)}
        self._emit(name, size=2 + sf if size is None else size, **fields, **numbers)

    def casp(self, rs: Reg, rt: Reg, base: Reg, *, acquire: bool = False, release: bool = False) -> None:
        """Compares Rs and its successor, stores Rt and its successor; both are even."""
        for operand, reg in (("rs", rs), ("rt", rt)):
            if reg.number % 2:
                raise ValueError(f"casp: {operand} is {reg}; it takes a register with an even number")
        self._emit(
            "CASP",
            sz=same_width("casp", rs, rt),
            L=int(acquire),
            Rs=zr("casp", "rs", rs),
            o0=int(release),
            Rn=_base("casp", base),
            Rt=zr("casp", "rt", rt),
        )

    def _exclusive(self, mnemonic: Name, rs: Reg | None, rt: Reg, base: Reg, size: int | None) -> None:
        load, o0 = _EXCLUSIVES[mnemonic]
        self._emit(
            "EXCLUSIVE",
            size=_size(mnemonic, rt, size),
            L=load,
            Rs=_status(mnemonic, rs, rt, base),
            o0=o0,
            Rn=_base(mnemonic, base),
            Rt=zr(mnemonic, "rt", rt),
        )

    def _exclusive_pair(
        self,
        mnemonic: Name,
        load: int,
        o0: int,
        rs: Reg | None,
        rt: Reg,
        rt2: Reg,
        base: Reg,
    ) -> None:
        if load and rt.number == rt2.number:
            raise ValueError(f"{mnemonic}: rt and rt2 are both {rt}; it takes different registers")
        self._emit(
            "EXCLUSIVE_PAIR",
            sz=same_width(mnemonic, rt, rt2),
            L=load,
            Rs=_status(mnemonic, rs, rt, base, rt2),
            o0=o0,
            Rt2=zr(mnemonic, "rt2", rt2),
            Rn=_base(mnemonic, base),
            Rt=zr(mnemonic, "rt", rt),
        )

    def _ordered(self, mnemonic: Name, rt: Reg, base: Reg, size: int | None) -> None:
        load, o0 = _ORDERED[mnemonic]
        number = zr(mnemonic, "rt", rt)
        self._emit("ORDERED", size=_size(mnemonic, rt, size), L=load, o0=o0, Rn=_base(mnemonic, base), Rt=number)


def _base(mnemonic: Name, base: Reg) -> int:
    return sp(mnemonic, "base", only64(mnemonic, "base", base))


def _size(mnemonic: Name, rt: Reg, size: int | None) -> int:
    if size is None:
        return 2 + rt.sf
    if size not in {1, 2} or rt.sf:
        raise ValueError(f"{mnemonic}: size is {size} with {rt}; it takes 1 or 2 with a 32-bit register, or none")
    return size - 1


def _status(mnemonic: Name, rs: Reg | None, *others: Reg) -> int:
    if rs is None:
        return 31
    if rs.sf:
        raise ValueError(f"{mnemonic}: rs is {rs}; it takes a 32-bit register")
    if rs.number != 31 and rs.number in {other.number for other in others}:
        raise ValueError(f"{mnemonic}: rs is {rs}, which is another operand too; it takes a register of its own")
    return zr(mnemonic, "rs", rs)
