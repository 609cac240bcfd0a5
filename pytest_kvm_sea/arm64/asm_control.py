# SPDX-License-Identifier: GPL-2.0-only
"""Mnemonics of branches, exceptions and the system (Arm ARM C4.1.93), and addresses relative to the PC."""

from __future__ import annotations

from typing import TypeVar

from pytest_kvm_sea.arm64.emitter import Emitter, check, only64, zr
from pytest_kvm_sea.arm64.operands import X30, XZR, Cond, Reg, Target
from pytest_kvm_sea.arm64.sysregs import sysreg

_T = TypeVar("_T")

BARRIERS = {
    "oshld": 1,
    "oshst": 2,
    "osh": 3,
    "nshld": 5,
    "nshst": 6,
    "nsh": 7,
    "ishld": 9,
    "ishst": 10,
    "ish": 11,
    "ld": 13,
    "st": 14,
    "sy": 15,
}
"""Options of DSB and DMB."""

# name: (op1, CRn, CRm, op2), Arm ARM C5.3 to C5.5
SYSTEM_OPERATIONS = {
    "dc ivac": (0, 7, 6, 1),
    "dc isw": (0, 7, 6, 2),
    "dc csw": (0, 7, 10, 2),
    "dc cisw": (0, 7, 14, 2),
    "dc zva": (3, 7, 4, 1),
    "dc cvac": (3, 7, 10, 1),
    "dc cvau": (3, 7, 11, 1),
    "dc cvap": (3, 7, 12, 1),
    "dc civac": (3, 7, 14, 1),
    "ic ialluis": (0, 7, 1, 0),
    "ic iallu": (0, 7, 5, 0),
    "ic ivau": (3, 7, 5, 1),
    "at s1e1r": (0, 7, 8, 0),
    "at s1e1w": (0, 7, 8, 1),
    "at s1e0r": (0, 7, 8, 2),
    "at s1e0w": (0, 7, 8, 3),
    "at s1e1rp": (0, 7, 9, 0),
    "at s1e1wp": (0, 7, 9, 1),
    "tlbi vmalle1is": (0, 8, 3, 0),
    "tlbi vae1is": (0, 8, 3, 1),
    "tlbi aside1is": (0, 8, 3, 2),
    "tlbi vaae1is": (0, 8, 3, 3),
    "tlbi vale1is": (0, 8, 3, 5),
    "tlbi vaale1is": (0, 8, 3, 7),
    "tlbi vmalle1": (0, 8, 7, 0),
    "tlbi vae1": (0, 8, 7, 1),
    "tlbi aside1": (0, 8, 7, 2),
    "tlbi vaae1": (0, 8, 7, 3),
    "tlbi vale1": (0, 8, 7, 5),
    "tlbi vaale1": (0, 8, 7, 7),
}
"""SYS by the names that the assembly language has for it."""

# name: (op1, op2, greatest immediate)
PSTATE_FIELDS = {
    "uao": (0, 3, 1),
    "pan": (0, 4, 1),
    "spsel": (0, 5, 1),
    "ssbs": (3, 1, 1),
    "dit": (3, 2, 1),
    "daifset": (3, 6, 15),
    "daifclr": (3, 7, 15),
}
"""What MSR (immediate) can write."""


class Control(Emitter):
    """Branches, exception generation, barriers, system registers, ADR."""

    # Branches

    def b(self, target: Target) -> None:
        self._emit_relative("b", "b", target, op=0)

    def bl(self, target: Target) -> None:
        self._emit_relative("b", "bl", target, op=1)

    def b_cond(self, cond: Cond, target: Target) -> None:
        self._emit_relative("b.cond", f"b.{cond.name.lower()}", target, cond=cond)

    def cbz(self, rt: Reg, target: Target) -> None:
        self._emit_relative("cbz", "cbz", target, sf=rt.sf, op=0, Rt=zr("cbz", "rt", rt))

    def cbnz(self, rt: Reg, target: Target) -> None:
        self._emit_relative("cbz", "cbnz", target, sf=rt.sf, op=1, Rt=zr("cbnz", "rt", rt))

    def tbz(self, rt: Reg, bit: int, target: Target) -> None:
        self._test("tbz", 0, rt, bit, target)

    def tbnz(self, rt: Reg, bit: int, target: Target) -> None:
        self._test("tbnz", 1, rt, bit, target)

    def _test(self, mnemonic: str, op: int, rt: Reg, bit: int, target: Target) -> None:
        check(mnemonic, "bit", bit, 0, rt.bits - 1)
        self._emit_relative("tbz", mnemonic, target, b5=bit >> 5, op=op, b40=bit & 31, Rt=zr(mnemonic, "rt", rt))

    def br(self, rn: Reg) -> None:
        self._branch_register("br", 0, rn)

    def blr(self, rn: Reg) -> None:
        self._branch_register("blr", 1, rn)

    def ret(self, rn: Reg = X30) -> None:
        self._branch_register("ret", 2, rn)

    def _branch_register(self, mnemonic: str, opc: int, rn: Reg) -> None:
        self._emit("BR", opc=opc, Rn=zr(mnemonic, "rn", only64(mnemonic, "rn", rn)))

    # Addresses

    def adr(self, rd: Reg, target: Target, addend: int = 0) -> None:
        """The address of a label, up to 1 MiB away."""
        self._emit_relative("adr", "adr", target, addend, op=0, Rd=zr("adr", "rd", only64("adr", "rd", rd)))

    def adrp(self, rd: Reg, target: Target, addend: int = 0) -> None:
        """The 4 KiB page of a label, up to 4 GiB away."""
        self._emit_relative("adrp", "adrp", target, addend, op=1, Rd=zr("adrp", "rd", only64("adrp", "rd", rd)))

    # Exceptions

    def svc(self, imm: int = 0) -> None:
        self._emit("SVC", imm16=check("svc", "imm", imm, 0, 0xFFFF))

    def hvc(self, imm: int = 0) -> None:
        self._emit("HVC", imm16=check("hvc", "imm", imm, 0, 0xFFFF))

    def smc(self, imm: int = 0) -> None:
        self._emit("SMC", imm16=check("smc", "imm", imm, 0, 0xFFFF))

    def brk(self, imm: int = 0) -> None:
        self._emit("BRK", imm16=check("brk", "imm", imm, 0, 0xFFFF))

    def hlt(self, imm: int = 0) -> None:
        self._emit("HLT", imm16=check("hlt", "imm", imm, 0, 0xFFFF))

    def udf(self, imm: int = 0) -> None:
        self._emit("UDF", imm16=check("udf", "imm", imm, 0, 0xFFFF))

    def eret(self) -> None:
        self._emit("ERET")

    # Hints and barriers

    def hint(self, imm: int) -> None:
        check("hint", "imm", imm, 0, 127)
        self._emit("HINT", CRm=imm >> 3, op2=imm & 7)

    def nop(self) -> None:
        self.hint(0)

    def yield_(self) -> None:
        self.hint(1)

    def wfe(self) -> None:
        self.hint(2)

    def wfi(self) -> None:
        self.hint(3)

    def sev(self) -> None:
        self.hint(4)

    def esb(self) -> None:
        self.hint(16)

    def clrex(self, imm: int = 15) -> None:
        self._emit("CLREX", CRm=check("clrex", "imm", imm, 0, 15))

    def dsb(self, option: str = "sy") -> None:
        self._emit("DSB", CRm=_choice("dsb", "option", option, BARRIERS))

    def dmb(self, option: str = "sy") -> None:
        self._emit("DMB", CRm=_choice("dmb", "option", option, BARRIERS))

    def isb(self) -> None:
        self._emit("ISB", CRm=15)

    def sb(self) -> None:
        self._emit("SB")

    # System registers

    def mrs(self, rt: Reg, name: str) -> None:
        """The register is named as in `sysregs.sysreg`."""
        self._emit("MRS", sysreg=sysreg(name) & 0x7FFF, Rt=zr("mrs", "rt", only64("mrs", "rt", rt)))

    def msr(self, name: str, rt: Reg) -> None:
        self._emit("MSR", sysreg=sysreg(name) & 0x7FFF, Rt=zr("msr", "rt", only64("msr", "rt", rt)))

    def msr_imm(self, field: str, imm: int) -> None:
        """A field of PSTATE, one of `PSTATE_FIELDS`."""
        op1, op2, greatest = _choice("msr", "field", field, PSTATE_FIELDS)
        self._emit("MSR_IMM", op1=op1, CRm=check(f"msr {field}", "imm", imm, 0, greatest), op2=op2)

    def system(self, operation: str, rt: Reg = XZR) -> None:
        """AT, DC, IC and TLBI by name, one of `SYSTEM_OPERATIONS`, e.g. ``dc civac``."""
        op1, crn, crm, op2 = _choice("sys", "operation", operation, SYSTEM_OPERATIONS)
        self._emit("SYS", op1=op1, CRn=crn, CRm=crm, op2=op2, Rt=zr(operation, "rt", only64(operation, "rt", rt)))


def _choice(mnemonic: str, operand: str, value: str, table: dict[str, _T]) -> _T:
    found = table.get(value)
    if found is None:
        raise ValueError(f"{mnemonic}: {operand} is {value!r}; it takes {', '.join(table)}")
    return found
