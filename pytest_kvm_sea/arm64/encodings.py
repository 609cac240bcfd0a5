# SPDX-License-Identifier: GPL-2.0-only
"""The encodings of A64 instructions, as one table (Arm ARM, C4 and C6).

Whoever makes instruction words and whoever decodes them reads this table; no other place knows where a field lies.
How a pattern is written stands in `encoding`.

Names follow the architecture's encoding classes, field names the manual's. Where a class holds several instructions its
fields tell them apart, and `Encoding.summary` names them in the order of that field.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvm_sea.arm64.encoding import WORD_BITS, Encoding

__all__ = ["ENCODINGS", "WORD_BITS", "Encoding", "SimdSpace", "encode"]


@dataclass(frozen=True, slots=True)
class SimdSpace(Encoding):
    """The part of the encoding space that floating point and Advanced SIMD have; its rows are in `simd_encodings`."""

    def has(self, word: int) -> bool:
        """Whether this word is one of its instructions."""
        if word & self.mask != self.match:
            return False
        # Most guests have none: the tables are parsed for the first word
        from pytest_kvm_sea.arm64.simd_encodings import encoding_of  # noqa: PLC0415

        return encoding_of(word) is not None

    def encode(self, **values: int) -> int:
        """The word with these fields. Raises ValueError as `Encoding.encode`."""
        # Not super(): a dataclass with slots is another class than the one that is defined here
        word = Encoding.encode(self, **values)
        if not self.has(word):
            raise ValueError(f"{self.name}: {word:#010x} is not an instruction (unallocated)")
        return word


_SF_SHIFT = ("sf=0 imm6=1xxxxx",)
_PRFM = "size=11 opc=10"
_LOADS = ("size=1x opc=11", _PRFM)

_TABLE = (
    # Data processing, immediate (C4.1.92)
    ("ADR", "op immlo:2 10000 immhi:19s Rd:5", "ADR, ADRP"),
    ("ADDSUB_IMM", "sf op S 100010 sh imm12:12 Rn:5 Rd:5", "ADD, SUB by op; S sets flags; sh: imm12 << 12"),
    (
        "LOGICAL_IMM",
        "sf opc:2 100100 N immr:6 imms:6 Rn:5 Rd:5",
        "AND, ORR, EOR, ANDS",
        "sf=0 N=1",
        "N=1 imms=111111",
        "N=0 imms=011111",
        "N=0 imms=101111",
        "N=0 imms=110111",
        "N=0 imms=111011",
        "N=0 imms=111101",
        "N=0 imms=11111x",
    ),
    ("MOVE_WIDE", "sf opc:2 100101 hw:2 imm16:16 Rd:5", "MOVN, -, MOVZ, MOVK", "opc=01", "sf=0 hw=1x"),
    (
        "BITFIELD",
        "sf opc:2 100110 N immr:6 imms:6 Rn:5 Rd:5",
        "SBFM, BFM, UBFM",
        "opc=11",
        "sf=0 N=1",
        "sf=1 N=0",
        "sf=0 immr=1xxxxx",
        "sf=0 imms=1xxxxx",
    ),
    (
        "EXTR",
        "sf 00 100111 N 0 Rm:5 imms:6 Rn:5 Rd:5",
        "EXTR",
        "sf=0 N=1",
        "sf=1 N=0",
        "sf=0 imms=1xxxxx",
    ),
    # Branches, exception generation, system (C4.1.93)
    ("B_COND", "01010100 imm19:19s 0 cond:4", "B.cond"),
    ("B", "op 00101 imm26:26s", "B, BL"),
    ("CBZ", "sf 011010 op imm19:19s Rt:5", "CBZ, CBNZ"),
    ("TBZ", "b5 011011 op b40:5 imm14:14s Rt:5", "TBZ, TBNZ"),
    ("BR", "1101011 00 opc:2 11111 000000 Rn:5 00000", "BR, BLR, RET", "opc=11"),
    ("ERET", "11010110100 11111 000000 11111 00000", "ERET"),
    ("UDF", "0000000000000000 imm16:16", "UDF"),
    ("SVC", "11010100 000 imm16:16 000 01", "SVC"),
    ("HVC", "11010100 000 imm16:16 000 10", "HVC"),
    ("SMC", "11010100 000 imm16:16 000 11", "SMC"),
    ("BRK", "11010100 001 imm16:16 000 00", "BRK"),
    ("HLT", "11010100 010 imm16:16 000 00", "HLT"),
    (
        "HINT",
        "11010101000000110010 CRm:4 op2:3 11111",
        "NOP 0:0, YIELD 0:1, WFE 0:2, WFI 0:3, SEV 0:4, ESB 2:0, BTI 4:…",
    ),
    ("CLREX", "11010101000000110011 CRm:4 010 11111", "CLREX"),
    ("DSB", "11010101000000110011 CRm:4 100 11111", "DSB; CRm is the option: 15 SY, 11 ISH, 9 ISHLD, 10 ISHST, …"),
    ("DMB", "11010101000000110011 CRm:4 101 11111", "DMB"),
    ("ISB", "11010101000000110011 CRm:4 110 11111", "ISB"),
    ("SB", "11010101000000110011 (0000) 111 11111", "SB"),
    (
        "MSR_IMM",
        "1101010100000 op1:3 0100 CRm:4 op2:3 11111",
        "MSR (immediate): DAIFSet 3:6, DAIFClr 3:7, SPSel 0:5, PAN 0:4",
    ),
    ("SYS", "1101010100001 op1:3 CRn:4 CRm:4 op2:3 Rt:5", "SYS: AT, DC, IC, TLBI"),
    ("SYSL", "1101010100101 op1:3 CRn:4 CRm:4 op2:3 Rt:5", "SYSL"),
    ("MSR", "11010101000 1 sysreg:15 Rt:5", "MSR (register); sysreg is the low 15 bits of a SysReg"),
    ("MRS", "11010101001 1 sysreg:15 Rt:5", "MRS"),
    # Data processing, register (C4.1.95)
    (
        "LOGICAL_SHIFTED",
        "sf opc:2 01010 shift:2 N Rm:5 imm6:6 Rn:5 Rd:5",
        "AND, ORR, EOR, ANDS; N inverts Rm",
        *_SF_SHIFT,
    ),
    ("ADDSUB_SHIFTED", "sf op S 01011 shift:2 0 Rm:5 imm6:6 Rn:5 Rd:5", "ADD, SUB", "shift=11", *_SF_SHIFT),
    ("ADDSUB_EXTENDED", "sf op S 01011 001 Rm:5 option:3 imm3:3 Rn:5 Rd:5", "ADD, SUB", "imm3=11x", "imm3=101"),
    ("ADDSUB_CARRY", "sf op S 11010000 Rm:5 000000 Rn:5 Rd:5", "ADC, SBC"),
    ("CCMP_REG", "sf op 1 11010010 Rm:5 cond:4 00 Rn:5 0 nzcv:4", "CCMN, CCMP"),
    ("CCMP_IMM", "sf op 1 11010010 imm5:5 cond:4 10 Rn:5 0 nzcv:4", "CCMN, CCMP"),
    ("CSEL", "sf op 0 11010100 Rm:5 cond:4 0 o2 Rn:5 Rd:5", "op:o2 CSEL, CSINC, CSINV, CSNEG"),
    ("MADD", "sf 00 11011 000 Rm:5 o0 Ra:5 Rn:5 Rd:5", "MADD, MSUB"),
    ("MADDL", "100 11011 U 01 Rm:5 o0 Ra:5 Rn:5 Rd:5", "U:o0 SMADDL, SMSUBL, UMADDL, UMSUBL"),
    ("MULH", "100 11011 U 10 Rm:5 0 (11111) Rn:5 Rd:5", "SMULH, UMULH"),
    ("DIV", "sf 00 11010110 Rm:5 00001 o1 Rn:5 Rd:5", "UDIV, SDIV"),
    ("SHIFT_VARIABLE", "sf 00 11010110 Rm:5 0010 op2:2 Rn:5 Rd:5", "LSLV, LSRV, ASRV, RORV"),
    (
        "CRC32",
        "sf 00 11010110 Rm:5 010 C sz:2 Rn:5 Rd:5",
        "CRC32B, H, W, X; C: CRC32C",
        "sf=0 sz=11",
        "sf=1 sz=0x",
        "sf=1 sz=10",
    ),
    (
        "ONE_SOURCE",
        "sf 10 11010110 00000 000 opcode:3 Rn:5 Rd:5",
        "RBIT, REV16, REV (sf=0) or REV32, REV (sf=1), CLZ, CLS",
        "opcode=11x",
        "sf=0 opcode=011",
    ),
    # Loads and stores (C4.1.94)
    (
        "LDST_UIMM",
        "size:2 111 0 01 opc:2 imm12:12 Rn:5 Rt:5",
        "STR, LDR, LDRS* (64 bit), LDRS* (32 bit); size 0 byte to 3 doubleword; imm12 is scaled by the size",
        *_LOADS,
    ),
    ("LDST_UNSCALED", "size:2 111 0 00 opc:2 0 imm9:9s 00 Rn:5 Rt:5", "STUR, LDUR, LDURS*; imm9 in bytes", *_LOADS),
    ("LDST_POST", "size:2 111 0 00 opc:2 0 imm9:9s 01 Rn:5 Rt:5", "as LDST_UNSCALED, post-index", *_LOADS),
    ("LDST_UNPRIVILEGED", "size:2 111 0 00 opc:2 0 imm9:9s 10 Rn:5 Rt:5", "STTR, LDTR, LDTRS*", *_LOADS),
    ("LDST_PRE", "size:2 111 0 00 opc:2 0 imm9:9s 11 Rn:5 Rt:5", "as LDST_UNSCALED, pre-index", *_LOADS),
    (
        "LDST_REG",
        "size:2 111 0 00 opc:2 1 Rm:5 option:3 S 10 Rn:5 Rt:5",
        "register offset; option 2 UXTW, 3 LSL, 6 SXTW, 7 SXTX; S scales by the size",
        "option=x0x",
        *_LOADS,
    ),
    ("LDR_LITERAL", "opc:2 011 0 00 imm19:19s Rt:5", "LDR (32 bit), LDR (64 bit), LDRSW", "opc=11"),
    ("PRFM_UIMM", "11 111 0 01 10 imm12:12 Rn:5 prfop:5", "PRFM (immediate)"),
    ("PRFM_UNSCALED", "11 111 0 00 10 0 imm9:9s 00 Rn:5 prfop:5", "PRFUM"),
    ("PRFM_REG", "11 111 0 00 10 1 Rm:5 option:3 S 10 Rn:5 prfop:5", "PRFM (register)", "option=x0x"),
    ("PRFM_LITERAL", "11 011 0 00 imm19:19s prfop:5", "PRFM (literal)"),
    (
        "LDST_PAIR",
        "opc:2 101 0 0 mode:2 L imm7:7s Rt2:5 Rn:5 Rt:5",
        "STP, LDP by L; opc 0 32 bit, 1 LDPSW, 2 64 bit; mode 0 LDNP, 1 post-index, 2 offset, 3 pre-index; imm7 scaled",
        "opc=11",
        "opc=01 L=0",
        "opc=01 mode=00",
    ),
    (
        "EXCLUSIVE",
        "size:2 001000 0 L 0 Rs:5 o0 (11111) Rn:5 Rt:5",
        "STXR, LDXR by L; o0: STLXR, LDAXR; Rs is the status register, 31 for loads",
    ),
    (
        "EXCLUSIVE_PAIR",
        "1 sz 001000 0 L 1 Rs:5 o0 Rt2:5 Rn:5 Rt:5",
        "STXP, LDXP by L; o0: STLXP, LDAXP",
    ),
    ("ORDERED", "size:2 001000 1 L 0 (11111) o0 (11111) Rn:5 Rt:5", "STLR, LDAR by L; o0=0: STLLR, LDLAR"),
    ("CAS", "size:2 001000 1 L 1 Rs:5 o0 11111 Rn:5 Rt:5", "CAS; L acquires, o0 releases"),
    ("CASP", "0 sz 001000 0 L 1 Rs:5 o0 11111 Rn:5 Rt:5", "CASP; Rs and Rt even", "Rs=xxxx1", "Rt=xxxx1"),
    (
        "ATOMIC",
        "size:2 111 0 00 A R 1 Rs:5 0 opc:3 00 Rn:5 Rt:5",
        "LDADD, LDCLR, LDEOR, LDSET, LDSMAX, LDSMIN, LDUMAX, LDUMIN; A acquires, R releases",
    ),
    ("SWP", "size:2 111 0 00 A R 1 Rs:5 1 000 00 Rn:5 Rt:5", "SWP"),
    ("LDAPR", "size:2 111 0 00 1 0 1 (11111) 1 100 00 Rn:5 Rt:5", "LDAPR"),
    (
        "LDAPR_UNSCALED",
        "size:2 011 0 01 opc:2 0 imm9:9s 00 Rn:5 Rt:5",
        "STLUR, LDAPUR, LDAPURS* (64 bit), LDAPURS* (32 bit)",
        "size=11 opc=1x",
        "size=10 opc=11",
    ),
)

ENCODINGS: dict[str, Encoding] = {
    name: Encoding(name, pattern, summary, tuple(rules)) for name, pattern, summary, *rules in _TABLE
} | {
    # Trapped, not executed
    "FP_SIMD": SimdSpace("FP_SIMD", "high:4 11 low:26", "any floating-point or SIMD instruction"),
}


def encode(name: str, **fields: int) -> int:
    """The 32-bit word of an instruction of this class.

    Every field must be given; signed fields take negative numbers. Raises KeyError for an unknown class, ValueError for
    a field that is missing, unknown or out of range, and for combinations that are not allocated.
    """
    return ENCODINGS[name].encode(**fields)
