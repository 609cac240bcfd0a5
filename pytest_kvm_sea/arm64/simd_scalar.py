# SPDX-License-Identifier: GPL-2.0-only
"""Scalar instructions: floating point (Arm ARM, C4.1.96, from "Conversion between floating-point and fixed-point" on),
the scalar half of Advanced SIMD, and SHA1 and SHA256, which lie there."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.simd_encodings import Rows

_TYPES: Final = "!ptype=10"
"""00 single precision, 01 double, 11 half (FEAT_FP16)."""
_HALF_WORD: Final = "size=01|10"
_INDEXED: Final = "01 U 11111 size:2 L M Rm:4 opcode:4 H 0 Rn:5 Rd:5"
_MISC: Final = "01 U 11110 size:2 10000 opcode:5 10 Rn:5 Rd:5"
_SHIFT: Final = "01 U 111110 immh:4 immb:3 opcode:5 1 Rn:5 Rd:5"
_THREE: Final = "01 U 11110 size:2 1 Rm:5 opcode:5 1 Rn:5 Rd:5"

_FLOATING_POINT: Final[Rows] = (
    (
        "FP_FIXED",
        "sf 0 0 11110 ptype:2 0 rmode:2 opcode:3 scale:6 Rn:5 Rd:5",
        "SCVTF, UCVTF, FCVTZS, FCVTZU (fixed-point)",
        "rmode=00 opcode=01x",
        "rmode=11 opcode=00x",
        _TYPES,
        "!sf=0 scale=0xxxxx",
    ),
    (
        "FP_INTEGER",
        "sf 0 0 11110 ptype:2 1 rmode:2 opcode:3 000000 Rn:5 Rd:5",
        "FCVT{N,P,M,Z,A}{S,U}, SCVTF, UCVTF",
        "opcode=00x",
        "rmode=00 opcode=01x|10x",
        _TYPES,
    ),
    (
        "FP_MOVE",
        "sf 0 0 11110 ptype:2 1 0 top 11 op 000000 Rn:5 Rd:5",
        "FMOV (general); top: the upper half of a vector register",
        "top=0 sf=0 ptype=00|11",
        "top=0 sf=1 ptype=01|11",
        "top=1 sf=1 ptype=10",
    ),
    (
        "FP_ONE_SOURCE",
        "000 11110 ptype:2 1 opcode:6 10000 Rn:5 Rd:5",
        "FMOV, FABS, FNEG, FSQRT, FRINT*",
        "opcode=0000xx|0010xx|00110x|00111x",
        _TYPES,
        "!opcode=001101",
    ),
    (
        "FP_PRECISION",
        "000 11110 ptype:2 1 0001 to:2 10000 Rn:5 Rd:5",
        "FCVT",
        "ptype=00 to=01|11",
        "ptype=01 to=00|11",
        "ptype=11 to=00|01",
    ),
    ("FP_COMPARE", "000 11110 ptype:2 1 Rm:5 00 1000 Rn:5 signal zero 000", "FCMP, FCMPE", _TYPES),
    ("FP_IMMEDIATE", "000 11110 ptype:2 1 imm8:8 100 00000 Rd:5", "FMOV (scalar, immediate)", _TYPES),
    ("FP_CONDITIONAL_COMPARE", "000 11110 ptype:2 1 Rm:5 cond:4 01 Rn:5 op nzcv:4", "FCCMP, FCCMPE", _TYPES),
    (
        "FP_TWO_SOURCE",
        "000 11110 ptype:2 1 Rm:5 opcode:4 10 Rn:5 Rd:5",
        "FMUL, FDIV, FADD, FSUB, FMAX, FMIN, FMAXNM, FMINNM, FNMUL",
        "opcode=0xxx|1000",
        _TYPES,
    ),
    ("FP_SELECT", "000 11110 ptype:2 1 Rm:5 cond:4 11 Rn:5 Rd:5", "FCSEL", _TYPES),
    (
        "FP_THREE_SOURCE",
        "000 11111 ptype:2 o1 Rm:5 o0 Ra:5 Rn:5 Rd:5",
        "FMADD, FMSUB, FNMADD, FNMSUB",
        _TYPES,
    ),
)

_SIMD: Final[Rows] = (
    (
        "SCALAR_THREE_SAME",
        _THREE,
        "SQADD, SQSUB, SQSHL, SQRSHL of any size; CMGT, CMGE, SSHL, SRSHL, ADD, CMTST of doublewords; SQDMULH",
        "opcode=00001|00101|01001|01011",
        "opcode=0011x|01000|01010|1000x size=11",
        f"opcode=10110 {_HALF_WORD}",
    ),
    (
        "SCALAR_THREE_SAME_FP",
        _THREE,
        "FMULX, FCMEQ, FRECPS, FRSQRTS, FCMGE, FACGE, FABD, FCMGT, FACGT",
        "U=0 size=0x opcode=11011|11100|11111",
        "U=0 size=1x opcode=11111",
        "U=1 size=0x opcode=1110x",
        "U=1 size=1x opcode=11010|1110x",
    ),
    (
        "SCALAR_THREE_SAME_HALF",
        "01 U 11110 a 10 Rm:5 00 opcode:3 1 Rn:5 Rd:5",
        "the same of half precision",
        "U=0 a=0 opcode=011|100|111",
        "U=0 a=1 opcode=111",
        "U=1 a=0 opcode=10x",
        "U=1 a=1 opcode=010|10x",
    ),
    ("SCALAR_RDM", "011 11110 size:2 0 Rm:5 1000 S 1 Rn:5 Rd:5", "SQRDMLAH, SQRDMLSH", _HALF_WORD),
    (
        "SCALAR_TWO_MISC",
        _MISC,
        "SUQADD, SQABS of any size; CMGT, CMEQ, CMLT, ABS of doublewords; SQXTN, SQXTUN; with U their counterparts",
        "opcode=00011|00111",
        "opcode=0100x|01011 size=11",
        "U=0 opcode=01010 size=11",
        "opcode=10100 size=0x|10",
        "U=1 opcode=10010 size=0x|10",
    ),
    (
        "SCALAR_TWO_MISC_FP",
        _MISC,
        "FCVT*, SCVTF, FCM* with zero, FRECPE, FRECPX, FRSQRTE, FCVTXN",
        "size=0x opcode=1101x|1110x",
        "size=1x opcode=0110x|1101x|11101",
        "U=0 size=1x opcode=01110|11111",
        "U=1 size=01 opcode=10110",
    ),
    (
        "SCALAR_TWO_MISC_HALF",
        "01 U 11110 a 111100 opcode:5 10 Rn:5 Rd:5",
        "the same of half precision",
        "a=0 opcode=1101x|1110x",
        "a=1 opcode=0110x|1101x|11101",
        "U=0 a=1 opcode=01110|11111",
    ),
    (
        "SCALAR_PAIRWISE",
        "01 U 11110 size:2 11000 opcode:5 10 Rn:5 Rd:5",
        "ADDP; FMAXNMP, FADDP, FMAXP, FMINNMP, FMINP, of half precision without U",
        "U=0 opcode=11011 size=11",
        "U=0 size=00 opcode=0110x|01111",
        "U=0 size=10 opcode=01100|01111",
        "U=1 size=0x opcode=0110x|01111",
        "U=1 size=1x opcode=01100|01111",
    ),
    ("SCALAR_COPY", "01 0 11110000 imm5:5 0 0000 1 Rn:5 Rd:5", "DUP (element)", "!imm5=x0000"),
    (
        "SCALAR_THREE_DIFFERENT",
        "01 0 11110 size:2 1 Rm:5 opcode:4 00 Rn:5 Rd:5",
        "SQDMLAL, SQDMLSL, SQDMULL",
        f"opcode=1001|1011|1101 {_HALF_WORD}",
    ),
    (
        "SCALAR_SHIFT",
        _SHIFT,
        "SSHR, SSRA, SRSHR, SRSRA, SRI, SHL, SLI of doublewords; SQSHLU, SQSHL of any size",
        "opcode=00xx0|01010 immh=1xxx",
        "U=1 opcode=01000 immh=1xxx",
        "opcode=01110",
        "U=1 opcode=01100",
        "!immh=0000",
    ),
    (
        "SCALAR_SHIFT_NARROW",
        _SHIFT,
        "SQSHRN, SQRSHRN, SQSHRUN, SQRSHRUN",
        "opcode=1001x",
        "U=1 opcode=1000x",
        "!immh=0000|1xxx",
    ),
    ("SCALAR_SHIFT_FIXED", _SHIFT, "SCVTF, FCVTZS (fixed-point)", "opcode=11100|11111", "!immh=000x"),
    (
        "SCALAR_INDEXED",
        _INDEXED,
        "SQDMLAL, SQDMLSL, SQDMULL, SQDMULH, SQRDMULH, SQRDMLAH, SQRDMLSH",
        f"U=0 opcode=0x11|1011|110x {_HALF_WORD}",
        f"U=1 opcode=11x1 {_HALF_WORD}",
    ),
    (
        "SCALAR_INDEXED_FP",
        _INDEXED,
        "FMLA, FMLS, FMUL, FMULX",
        "U=0 opcode=0x01|1001",
        "U=1 opcode=1001",
        "!size=01",
        "!size=11 L=1",
    ),
    (
        "SHA_THREE",
        "01011110 00 0 Rm:5 0 opcode:3 00 Rn:5 Rd:5",
        "SHA1C, SHA1P, SHA1M, SHA1SU0, SHA256H, SHA256H2, SHA256SU1",
        "!opcode=111",
    ),
    ("SHA_TWO", "01011110 00 10100 000 opcode:2 10 Rn:5 Rd:5", "SHA1H, SHA1SU1, SHA256SU0", "!opcode=11"),
)

TABLE: Final[Rows] = _FLOATING_POINT + _SIMD
