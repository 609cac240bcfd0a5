# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: PLR0917 - operands stand in the order of the assembly language
"""Mnemonics of data processing (Arm ARM C4.1.92, C4.1.95). Operands stand in the order of the assembly language."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from pytest_kvm_sea.arm64.emitter import WORD, Emitter, check, only64, same_width, sp, zr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.arm64.operands import WZR, XZR, Cond, Extend, Reg, Shift, bitmask_immediate

Operand: TypeAlias = Reg | int

_AND, _ORR, _EOR, _ANDS = range(4)
_SBFM, _BFM, _UBFM = range(3)
_MOVN, _MOVZ, _MOVK = 0, 2, 3


def _zero(reg: Reg) -> Reg:
    return XZR if reg.bits == 64 else WZR


class DataProcessing(Emitter):
    """Arithmetic, logic, moves, bit fields, conditional selects."""

    # Arithmetic

    def add(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        """An immediate is 0 to 4095, or such a number times 4096. A register may be shifted."""
        self._addsub("add", 0, 0, rd, rn, op, shift, amount)

    def adds(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._addsub("adds", 0, 1, rd, rn, op, shift, amount)

    def sub(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._addsub("sub", 1, 0, rd, rn, op, shift, amount)

    def subs(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._addsub("subs", 1, 1, rd, rn, op, shift, amount)

    def cmp(self, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._addsub("cmp", 1, 1, _zero(rn), rn, op, shift, amount)

    def cmn(self, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._addsub("cmn", 0, 1, _zero(rn), rn, op, shift, amount)

    def neg(self, rd: Reg, rm: Reg) -> None:
        self._addsub("neg", 1, 0, rd, _zero(rd), rm, Shift.LSL, 0)

    def negs(self, rd: Reg, rm: Reg) -> None:
        self._addsub("negs", 1, 1, rd, _zero(rd), rm, Shift.LSL, 0)

    def add_extended(self, rd: Reg, rn: Reg, rm: Reg, extend: Extend, amount: int = 0) -> None:
        """Rm is extended, then shifted left by 0 to 4. Its width follows from the extension."""
        self._extended("add", 0, 0, rd, rn, rm, extend, amount)

    def adds_extended(self, rd: Reg, rn: Reg, rm: Reg, extend: Extend, amount: int = 0) -> None:
        self._extended("adds", 0, 1, rd, rn, rm, extend, amount)

    def sub_extended(self, rd: Reg, rn: Reg, rm: Reg, extend: Extend, amount: int = 0) -> None:
        self._extended("sub", 1, 0, rd, rn, rm, extend, amount)

    def subs_extended(self, rd: Reg, rn: Reg, rm: Reg, extend: Extend, amount: int = 0) -> None:
        self._extended("subs", 1, 1, rd, rn, rm, extend, amount)

    def adc(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._carry("adc", 0, 0, rd, rn, rm)

    def adcs(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._carry("adcs", 0, 1, rd, rn, rm)

    def sbc(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._carry("sbc", 1, 0, rd, rn, rm)

    def sbcs(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._carry("sbcs", 1, 1, rd, rn, rm)

    def _addsub(
        self, mnemonic: str, op: int, s: int, rd: Reg, rn: Reg, operand: Operand, shift: Shift, amount: int
    ) -> None:
        if isinstance(operand, int):
            self._addsub_imm(mnemonic, op, s, rd, rn, operand)
        elif rd.is_sp or rn.is_sp:
            if shift is not Shift.LSL:
                raise ValueError(f"{mnemonic}: with sp, shift is {shift.name}; it takes LSL")
            extend = Extend.UXTX if rn.bits == 64 else Extend.UXTW
            self._extended(mnemonic, op, s, rd, rn, operand, extend, amount)
        else:
            sf = same_width(mnemonic, rd, rn, operand)
            if shift is Shift.ROR:
                raise ValueError(f"{mnemonic}: shift is ROR; it takes LSL, LSR or ASR")
            self._emit(
                "ADDSUB_SHIFTED",
                sf=sf,
                op=op,
                S=s,
                shift=shift,
                Rm=zr(mnemonic, "rm", operand),
                imm6=check(mnemonic, "amount", amount, 0, rd.bits - 1),
                Rn=zr(mnemonic, "rn", rn),
                Rd=zr(mnemonic, "rd", rd),
            )

    def _addsub_imm(self, mnemonic: str, op: int, s: int, rd: Reg, rn: Reg, imm: int) -> None:
        high = imm > 4095 and imm % 4096 == 0
        if not 0 <= imm <= 4095 << 12 or (imm > 4095 and not high):
            raise ValueError(f"{mnemonic}: imm is {imm}; it takes 0 to 4095, or a multiple of 4096 up to {4095 << 12}")
        self._emit(
            "ADDSUB_IMM",
            sf=same_width(mnemonic, rd, rn),
            op=op,
            S=s,
            sh=int(high),
            imm12=imm >> 12 if high else imm,
            Rn=sp(mnemonic, "rn", rn),
            Rd=(zr if s else sp)(mnemonic, "rd", rd),
        )

    def _extended(self, mnemonic: str, op: int, s: int, rd: Reg, rn: Reg, rm: Reg, extend: Extend, amount: int) -> None:
        if rm.sf != (rd.sf and extend & 3 == Extend.UXTX):
            raise ValueError(f"{mnemonic}: rm is {rm}; {extend.name} to {rd.bits} bits takes the other width")
        self._emit(
            "ADDSUB_EXTENDED",
            sf=same_width(mnemonic, rd, rn),
            op=op,
            S=s,
            Rm=zr(mnemonic, "rm", rm),
            option=extend,
            imm3=check(mnemonic, "amount", amount, 0, 4),
            Rn=sp(mnemonic, "rn", rn),
            Rd=(zr if s else sp)(mnemonic, "rd", rd),
        )

    def _carry(self, mnemonic: str, op: int, s: int, rd: Reg, rn: Reg, rm: Reg) -> None:
        sf, numbers = self._three(mnemonic, rd, rn, rm)
        self._emit("ADDSUB_CARRY", sf=sf, op=op, S=s, **numbers)

    # Logic

    def and_(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        """An immediate is a repeated, rotated run of ones (`bitmask_immediate`)."""
        self._logical("and", _AND, 0, rd, rn, op, shift, amount)

    def ands(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("ands", _ANDS, 0, rd, rn, op, shift, amount)

    def tst(self, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("tst", _ANDS, 0, _zero(rn), rn, op, shift, amount)

    def orr(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("orr", _ORR, 0, rd, rn, op, shift, amount)

    def eor(self, rd: Reg, rn: Reg, op: Operand, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("eor", _EOR, 0, rd, rn, op, shift, amount)

    def bic(self, rd: Reg, rn: Reg, rm: Reg, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("bic", _AND, 1, rd, rn, rm, shift, amount)

    def bics(self, rd: Reg, rn: Reg, rm: Reg, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("bics", _ANDS, 1, rd, rn, rm, shift, amount)

    def orn(self, rd: Reg, rn: Reg, rm: Reg, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("orn", _ORR, 1, rd, rn, rm, shift, amount)

    def eon(self, rd: Reg, rn: Reg, rm: Reg, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("eon", _EOR, 1, rd, rn, rm, shift, amount)

    def mvn(self, rd: Reg, rm: Reg, shift: Shift = Shift.LSL, amount: int = 0) -> None:
        self._logical("mvn", _ORR, 1, rd, _zero(rd), rm, shift, amount)

    def _logical(
        self, mnemonic: str, opc: int, n: int, rd: Reg, rn: Reg, operand: Operand, shift: Shift, amount: int
    ) -> None:
        if isinstance(operand, int):
            self._logical_imm(mnemonic, opc, rd, rn, operand)
            return
        self._emit(
            "LOGICAL_SHIFTED",
            sf=same_width(mnemonic, rd, rn, operand),
            opc=opc,
            shift=shift,
            N=n,
            Rm=zr(mnemonic, "rm", operand),
            imm6=check(mnemonic, "amount", amount, 0, rd.bits - 1),
            Rn=zr(mnemonic, "rn", rn),
            Rd=zr(mnemonic, "rd", rd),
        )

    def _logical_imm(self, mnemonic: str, opc: int, rd: Reg, rn: Reg, imm: int) -> None:
        sf = same_width(mnemonic, rd, rn)
        encoded = bitmask_immediate(imm & (1 << rd.bits) - 1 if -(1 << rd.bits - 1) <= imm < 0 else imm, rd.bits)
        if encoded is None:
            raise ValueError(
                f"{mnemonic}: imm is {imm:#x}; it takes a run of ones, rotated, repeated in elements of 2 to {rd.bits} "
                "bits, and neither 0 nor all ones"
            )
        n, immr, imms = encoded
        number = (zr if opc == _ANDS else sp)(mnemonic, "rd", rd)
        self._emit("LOGICAL_IMM", sf=sf, opc=opc, N=n, immr=immr, imms=imms, Rn=zr(mnemonic, "rn", rn), Rd=number)

    # Moves

    def mov(self, rd: Reg, op: Operand) -> None:
        """From a register (sp included), or any constant of the register's width in the fewest instructions."""
        if isinstance(op, int):
            self._mov_constant(rd, op)
        elif rd.is_sp or op.is_sp:
            self.add(rd, op, 0)
        else:
            self.orr(rd, _zero(rd), op)

    def movz(self, rd: Reg, imm: int, shift: int = 0) -> None:
        self._move_wide("movz", _MOVZ, rd, imm, shift)

    def movn(self, rd: Reg, imm: int, shift: int = 0) -> None:
        self._move_wide("movn", _MOVN, rd, imm, shift)

    def movk(self, rd: Reg, imm: int, shift: int = 0) -> None:
        self._move_wide("movk", _MOVK, rd, imm, shift)

    def _move_wide(self, mnemonic: str, opc: int, rd: Reg, imm: int, shift: int) -> None:
        self._emit(
            "MOVE_WIDE",
            sf=rd.sf,
            opc=opc,
            hw=check(mnemonic, "shift", shift, 0, rd.bits - 16, 16) // 16,
            imm16=check(mnemonic, "imm", imm, 0, 0xFFFF),
            Rd=zr(mnemonic, "rd", rd),
        )

    def _mov_constant(self, rd: Reg, value: int) -> None:
        check("mov", "constant", value, -(1 << rd.bits - 1), (1 << rd.bits) - 1)
        self.raw(_constant(zr("mov", "rd", rd), rd.bits, value & (1 << rd.bits) - 1))

    # Bit fields and shifts

    def sbfm(self, rd: Reg, rn: Reg, immr: int, imms: int) -> None:
        self._bitfield("sbfm", _SBFM, rd, rn, immr, imms)

    def bfm(self, rd: Reg, rn: Reg, immr: int, imms: int) -> None:
        self._bitfield("bfm", _BFM, rd, rn, immr, imms)

    def ubfm(self, rd: Reg, rn: Reg, immr: int, imms: int) -> None:
        self._bitfield("ubfm", _UBFM, rd, rn, immr, imms)

    def ubfx(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._extract("ubfx", _UBFM, rd, rn, lsb, count)

    def sbfx(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._extract("sbfx", _SBFM, rd, rn, lsb, count)

    def bfxil(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._extract("bfxil", _BFM, rd, rn, lsb, count)

    def ubfiz(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._insert("ubfiz", _UBFM, rd, rn, lsb, count)

    def sbfiz(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._insert("sbfiz", _SBFM, rd, rn, lsb, count)

    def bfi(self, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        self._insert("bfi", _BFM, rd, rn, lsb, count)

    def sxtb(self, rd: Reg, rn: Reg) -> None:
        self._bitfield("sxtb", _SBFM, rd, rn, 0, 7)

    def sxth(self, rd: Reg, rn: Reg) -> None:
        self._bitfield("sxth", _SBFM, rd, rn, 0, 15)

    def sxtw(self, rd: Reg, rn: Reg) -> None:
        self._bitfield("sxtw", _SBFM, only64("sxtw", "rd", rd), rn, 0, 31)

    def uxtb(self, rd: Reg, rn: Reg) -> None:
        self._bitfield("uxtb", _UBFM, rd, rn, 0, 7)

    def uxth(self, rd: Reg, rn: Reg) -> None:
        self._bitfield("uxth", _UBFM, rd, rn, 0, 15)

    def lsl(self, rd: Reg, rn: Reg, op: Operand) -> None:
        """By an immediate, or by a register modulo the width."""
        if isinstance(op, int):
            check("lsl", "imm", op, 0, rd.bits - 1)
            self._bitfield("lsl", _UBFM, rd, rn, -op % rd.bits, rd.bits - 1 - op)
        else:
            self._shift_variable("lsl", Shift.LSL, rd, rn, op)

    def lsr(self, rd: Reg, rn: Reg, op: Operand) -> None:
        if isinstance(op, int):
            self._bitfield("lsr", _UBFM, rd, rn, check("lsr", "imm", op, 0, rd.bits - 1), rd.bits - 1)
        else:
            self._shift_variable("lsr", Shift.LSR, rd, rn, op)

    def asr(self, rd: Reg, rn: Reg, op: Operand) -> None:
        if isinstance(op, int):
            self._bitfield("asr", _SBFM, rd, rn, check("asr", "imm", op, 0, rd.bits - 1), rd.bits - 1)
        else:
            self._shift_variable("asr", Shift.ASR, rd, rn, op)

    def ror(self, rd: Reg, rn: Reg, op: Operand) -> None:
        if isinstance(op, int):
            self.extr(rd, rn, rn, op)
        else:
            self._shift_variable("ror", Shift.ROR, rd, rn, op)

    def extr(self, rd: Reg, rn: Reg, rm: Reg, lsb: int) -> None:
        sf, numbers = self._three("extr", rd, rn, rm)
        self._emit("EXTR", sf=sf, N=sf, imms=check("extr", "lsb", lsb, 0, rd.bits - 1), **numbers)

    def _bitfield(self, mnemonic: str, opc: int, rd: Reg, rn: Reg, immr: int, imms: int) -> None:
        self._emit(
            "BITFIELD",
            sf=rd.sf,
            opc=opc,
            N=rd.sf,
            immr=check(mnemonic, "immr", immr, 0, rd.bits - 1),
            imms=check(mnemonic, "imms", imms, 0, rd.bits - 1),
            Rn=zr(mnemonic, "rn", rn),
            Rd=zr(mnemonic, "rd", rd),
        )

    def _extract(self, mnemonic: str, opc: int, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        check(mnemonic, "lsb", lsb, 0, rd.bits - 1)
        check(mnemonic, "width", count, 1, rd.bits - lsb)
        self._bitfield(mnemonic, opc, rd, rn, lsb, lsb + count - 1)

    def _insert(self, mnemonic: str, opc: int, rd: Reg, rn: Reg, lsb: int, count: int) -> None:
        check(mnemonic, "lsb", lsb, 0, rd.bits - 1)
        check(mnemonic, "width", count, 1, rd.bits - lsb)
        self._bitfield(mnemonic, opc, rd, rn, -lsb % rd.bits, count - 1)

    def _shift_variable(self, mnemonic: str, op2: int, rd: Reg, rn: Reg, rm: Reg) -> None:
        sf, numbers = self._three(mnemonic, rd, rn, rm)
        self._emit("SHIFT_VARIABLE", sf=sf, op2=op2, **numbers)

    # Multiplication, division, checksums, bit counts

    def madd(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._madd("madd", 0, rd, rn, rm, ra)

    def msub(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._madd("msub", 1, rd, rn, rm, ra)

    def mul(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._madd("mul", 0, rd, rn, rm, _zero(rd))

    def mneg(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._madd("mneg", 1, rd, rn, rm, _zero(rd))

    def smaddl(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._maddl("smaddl", 0, 0, rd, rn, rm, ra)

    def smsubl(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._maddl("smsubl", 0, 1, rd, rn, rm, ra)

    def umaddl(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._maddl("umaddl", 1, 0, rd, rn, rm, ra)

    def umsubl(self, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        self._maddl("umsubl", 1, 1, rd, rn, rm, ra)

    def smull(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._maddl("smull", 0, 0, rd, rn, rm, XZR)

    def umull(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._maddl("umull", 1, 0, rd, rn, rm, XZR)

    def smulh(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._mulh("smulh", 0, rd, rn, rm)

    def umulh(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        self._mulh("umulh", 1, rd, rn, rm)

    def udiv(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        """Division by zero gives 0."""
        sf, numbers = self._three("udiv", rd, rn, rm)
        self._emit("DIV", sf=sf, o1=0, **numbers)

    def sdiv(self, rd: Reg, rn: Reg, rm: Reg) -> None:
        sf, numbers = self._three("sdiv", rd, rn, rm)
        self._emit("DIV", sf=sf, o1=1, **numbers)

    def crc32(self, rd: Reg, rn: Reg, rm: Reg, size: int, *, castagnoli: bool = False) -> None:
        """CRC32B, H, W, X (CRC32CB, … if ``castagnoli``) by the size of Rm in bytes, 1, 2, 4 or 8."""
        if size not in {1, 2, 4, 8}:
            raise ValueError(f"crc32: size is {size}; it takes 1, 2, 4 or 8")
        if rd.sf or rn.sf or rm.sf != (size == 8):
            raise ValueError(
                f"crc32: registers are {rd}, {rn}, {rm}; rd and rn have 32 bits, rm 64 for size 8, else 32"
            )
        self._emit(
            "CRC32",
            sf=rm.sf,
            Rm=zr("crc32", "rm", rm),
            C=int(castagnoli),
            sz=size.bit_length() - 1,
            Rn=zr("crc32", "rn", rn),
            Rd=zr("crc32", "rd", rd),
        )

    def rbit(self, rd: Reg, rn: Reg) -> None:
        self._one_source("rbit", 0, rd, rn)

    def rev16(self, rd: Reg, rn: Reg) -> None:
        self._one_source("rev16", 1, rd, rn)

    def rev32(self, rd: Reg, rn: Reg) -> None:
        self._one_source("rev32", 2, only64("rev32", "rd", rd), rn)

    def rev(self, rd: Reg, rn: Reg) -> None:
        self._one_source("rev", 2 + rd.sf, rd, rn)

    def clz(self, rd: Reg, rn: Reg) -> None:
        self._one_source("clz", 4, rd, rn)

    def cls(self, rd: Reg, rn: Reg) -> None:
        self._one_source("cls", 5, rd, rn)

    def _madd(self, mnemonic: str, o0: int, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        same_width(mnemonic, rd, ra)
        sf, numbers = self._three(mnemonic, rd, rn, rm)
        self._emit("MADD", sf=sf, o0=o0, Ra=zr(mnemonic, "ra", ra), **numbers)

    def _maddl(self, mnemonic: str, u: int, o0: int, rd: Reg, rn: Reg, rm: Reg, ra: Reg) -> None:
        if same_width(mnemonic, rd, ra) != 1 or same_width(mnemonic, rn, rm) != 0:
            raise ValueError(f"{mnemonic}: registers are {rd}, {rn}, {rm}, {ra}; rd and ra have 64 bits, rn and rm 32")
        numbers = {"Rm": zr(mnemonic, "rm", rm), "Rn": zr(mnemonic, "rn", rn), "Rd": zr(mnemonic, "rd", rd)}
        self._emit("MADDL", U=u, o0=o0, Ra=zr(mnemonic, "ra", ra), **numbers)

    def _mulh(self, mnemonic: str, u: int, rd: Reg, rn: Reg, rm: Reg) -> None:
        _, numbers = self._three(mnemonic, only64(mnemonic, "rd", rd), rn, rm)
        self._emit("MULH", U=u, **numbers)

    def _one_source(self, mnemonic: str, opcode: int, rd: Reg, rn: Reg) -> None:
        sf = same_width(mnemonic, rd, rn)
        self._emit("ONE_SOURCE", sf=sf, opcode=opcode, Rn=zr(mnemonic, "rn", rn), Rd=zr(mnemonic, "rd", rd))

    def _three(self, mnemonic: str, rd: Reg, rn: Reg, rm: Reg) -> tuple[int, dict[str, int]]:
        sf = same_width(mnemonic, rd, rn, rm)
        return sf, {"Rm": zr(mnemonic, "rm", rm), "Rn": zr(mnemonic, "rn", rn), "Rd": zr(mnemonic, "rd", rd)}

    # Conditions

    def csel(self, rd: Reg, rn: Reg, rm: Reg, cond: Cond) -> None:
        self._csel("csel", 0, 0, rd, rn, rm, cond)

    def csinc(self, rd: Reg, rn: Reg, rm: Reg, cond: Cond) -> None:
        self._csel("csinc", 0, 1, rd, rn, rm, cond)

    def csinv(self, rd: Reg, rn: Reg, rm: Reg, cond: Cond) -> None:
        self._csel("csinv", 1, 0, rd, rn, rm, cond)

    def csneg(self, rd: Reg, rn: Reg, rm: Reg, cond: Cond) -> None:
        self._csel("csneg", 1, 1, rd, rn, rm, cond)

    def cset(self, rd: Reg, cond: Cond) -> None:
        self._csel("cset", 0, 1, rd, _zero(rd), _zero(rd), _invertible("cset", cond).inverse)

    def csetm(self, rd: Reg, cond: Cond) -> None:
        self._csel("csetm", 1, 0, rd, _zero(rd), _zero(rd), _invertible("csetm", cond).inverse)

    def cinc(self, rd: Reg, rn: Reg, cond: Cond) -> None:
        self._csel("cinc", 0, 1, rd, rn, rn, _invertible("cinc", cond).inverse)

    def ccmp(self, rn: Reg, op: Operand, nzcv: int, cond: Cond) -> None:
        """If the condition holds compare, otherwise set the flags to ``nzcv``; an immediate is 0 to 31."""
        self._ccmp("ccmp", 1, rn, op, nzcv, cond)

    def ccmn(self, rn: Reg, op: Operand, nzcv: int, cond: Cond) -> None:
        self._ccmp("ccmn", 0, rn, op, nzcv, cond)

    def _csel(self, mnemonic: str, op: int, o2: int, rd: Reg, rn: Reg, rm: Reg, cond: Cond) -> None:
        sf, numbers = self._three(mnemonic, rd, rn, rm)
        self._emit("CSEL", sf=sf, op=op, o2=o2, cond=cond, **numbers)

    def _ccmp(self, mnemonic: str, op: int, rn: Reg, operand: Operand, nzcv: int, cond: Cond) -> None:
        check(mnemonic, "nzcv", nzcv, 0, 15)
        common = {"sf": rn.sf, "op": op, "cond": int(cond), "Rn": zr(mnemonic, "rn", rn), "nzcv": nzcv}
        if isinstance(operand, int):
            self._emit("CCMP_IMM", imm5=check(mnemonic, "imm", operand, 0, 31), **common)
        else:
            same_width(mnemonic, rn, operand)
            self._emit("CCMP_REG", Rm=zr(mnemonic, "rm", operand), **common)


@lru_cache(maxsize=4096)
def _constant(rd: int, bits: int, value: int) -> bytes:
    """The shortest code for a constant: MOVZ or MOVN with MOVKs, or ORR where an immediate can hold it."""
    sf = bits >> 6
    halves = [(value >> 16 * hw & 0xFFFF, hw) for hw in range(bits // 16)]
    ones = sum(half == 0xFFFF for half, _ in halves)
    zeros = sum(half == 0 for half, _ in halves)
    encoded = bitmask_immediate(value, bits) if max(zeros, ones) < len(halves) - 1 else None
    if encoded is not None:
        n, immr, imms = encoded
        words = [encode("LOGICAL_IMM", sf=sf, opc=_ORR, N=n, immr=immr, imms=imms, Rn=31, Rd=rd)]
    else:
        background, opc = (0xFFFF, _MOVN) if ones > zeros else (0, _MOVZ)
        parts = [(half, hw) for half, hw in halves if half != background] or [halves[0]]
        words = [encode("MOVE_WIDE", sf=sf, opc=opc, hw=parts[0][1], imm16=parts[0][0] ^ background, Rd=rd)]
        words += [encode("MOVE_WIDE", sf=sf, opc=_MOVK, hw=hw, imm16=half, Rd=rd) for half, hw in parts[1:]]
    return b"".join(word.to_bytes(WORD, "little") for word in words)


def _invertible(mnemonic: str, cond: Cond) -> Cond:
    if cond is Cond.AL:
        raise ValueError(f"{mnemonic}: cond is AL; it takes a condition that has an inverse")
    return cond
