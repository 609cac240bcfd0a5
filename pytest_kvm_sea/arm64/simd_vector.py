# SPDX-License-Identifier: GPL-2.0-only
"""Advanced SIMD instructions on vectors, and AES (Arm ARM, C4.1.96, "Advanced SIMD …" and "Cryptographic AES").

Q is the length of the vectors, 64 or 128 bits. A vector of 64 bits has no doublewords: ``size=11 Q=0`` is reserved
nearly everywhere, and for floating point, where the lower bit of size is the type, ``size=x1 Q=0``.
"""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.simd_encodings import Rows

_HALF_WORD: Final = "size=01|10"
_COPY: Final = "imm5:5 0 imm4:4 1 Rn:5 Rd:5"
_INDEXED: Final = "0 Q U 01111 size:2 L M Rm:4 opcode:4 H 0 Rn:5 Rd:5"
_LANES: Final = "0 Q U 01110 size:2 11000 opcode:5 10 Rn:5 Rd:5"
_MISC: Final = "0 Q U 01110 size:2 10000 opcode:5 10 Rn:5 Rd:5"
_SHIFT: Final = "0 Q U 011110 immh:4 immb:3 opcode:5 1 Rn:5 Rd:5"
_THREE: Final = "0 Q U 01110 size:2 1 Rm:5 opcode:5 1 Rn:5 Rd:5"
_NO_DOUBLEWORDS: Final = "!size=11"
_TWO_LANES: Final = "!size=11 Q=0"
_TWO_FP_LANES: Final = "!size=x1 Q=0"

_THREE_REGISTERS: Final[Rows] = (
    (
        "VECTOR_THREE_SAME",
        _THREE,
        "SQADD, SQSUB, CMGT, CMGE, SSHL, SQSHL, SRSHL, SQRSHL, ADD, CMTST, ADDP; with U SUB, CMEQ and so on",
        "opcode=00x01|0011x|010xx|1000x",
        "U=0 opcode=10111",
        _TWO_LANES,
    ),
    (
        "VECTOR_THREE_SAME_SMALL",
        _THREE,
        "SHADD, SRHADD, SHSUB, SMAX, SMIN, SABD, SABA, MLA, MUL, SMAXP, SMINP; PMUL; SQDMULH, SQRDMULH",
        "opcode=000x0|00100|011xx|10010|1010x",
        "U=0 opcode=10011",
        "U=1 opcode=10011 size=00",
        f"opcode=10110 {_HALF_WORD}",
        _NO_DOUBLEWORDS,
    ),
    ("VECTOR_LOGICAL", _THREE, "AND, BIC, ORR, ORN, EOR, BSL, BIT, BIF by U and size", "opcode=00011"),
    (
        "VECTOR_THREE_SAME_FP",
        _THREE,
        "FMAXNM, FMLA, FADD, FMULX, FCMEQ, FMAX, FRECPS; FMINNM, FMLS, FSUB, FMIN, FRSQRTS; with U FMAXNMP and so on",
        "U=0 size=0x opcode=110xx|11100|1111x",
        "U=0 size=1x opcode=1100x|11010|1111x",
        "U=1 size=0x opcode=11000|1101x|1110x|1111x",
        "U=1 size=1x opcode=110x0|1110x|11110",
        _TWO_FP_LANES,
    ),
    (
        "VECTOR_THREE_SAME_HALF",
        "0 Q U 01110 a 10 Rm:5 00 opcode:3 1 Rn:5 Rd:5",
        "the same of half precision",
        "U=0 a=0 opcode=0xx|100|11x",
        "U=0 a=1 opcode=00x|010|11x",
        "U=1 a=0 opcode=000|01x|10x|11x",
        "U=1 a=1 opcode=0x0|10x|110",
    ),
    ("VECTOR_RDM", "0 Q 1 01110 size:2 0 Rm:5 1000 S 1 Rn:5 Rd:5", "SQRDMLAH, SQRDMLSH", _HALF_WORD),
    ("VECTOR_DOT", "0 Q U 01110 10 0 Rm:5 1001 0 1 Rn:5 Rd:5", "SDOT, UDOT"),
    (
        "VECTOR_THREE_DIFFERENT",
        "0 Q U 01110 size:2 1 Rm:5 opcode:4 00 Rn:5 Rd:5",
        "SADDL, SADDW, SSUBL, SSUBW, ADDHN, SABAL, SUBHN, SABDL, SMLAL, SMLSL, SMULL; SQDMLAL, SQDMLSL, SQDMULL; PMULL",
        "opcode=0xxx|10x0|1100 size=0x|10",
        f"U=0 opcode=10x1|1101 {_HALF_WORD}",
        "U=0 opcode=1110 size=00|11",
    ),
    (
        "VECTOR_EXTRACT",
        "0 Q 101110 00 0 Rm:5 0 imm4:4 0 Rn:5 Rd:5",
        "EXT",
        "!Q=0 imm4=1xxx",
    ),
    ("VECTOR_TABLE", "0 Q 001110 00 0 Rm:5 0 len:2 op 00 Rn:5 Rd:5", "TBL, TBX"),
    (
        "VECTOR_PERMUTE",
        "0 Q 001110 size:2 0 Rm:5 0 opcode:3 10 Rn:5 Rd:5",
        "UZP1, TRN1, ZIP1, UZP2, TRN2, ZIP2",
        _TWO_LANES,
        "!opcode=x00",
    ),
)

_TWO_REGISTERS: Final[Rows] = (
    (
        "VECTOR_TWO_MISC",
        _MISC,
        "SUQADD, SQABS, CMGT, CMEQ, CMLT, ABS; with U USQADD, SQNEG, CMGE, CMLE, NEG",
        "opcode=00x11|0100x|01011",
        "U=0 opcode=01010",
        _TWO_LANES,
    ),
    (
        "VECTOR_TWO_MISC_SMALL",
        _MISC,
        "REV64, SADDLP, CLS, SADALP, XTN, SQXTN, SHLL; REV32; REV16, CNT, NOT, RBIT",
        "U=0 opcode=00000",
        "opcode=00x10|00100|10010|10100",
        "U=1 opcode=10011",
        "U=1 opcode=00000 size=0x",
        "U=0 opcode=00001|00101 size=00",
        "U=1 opcode=00101 size=0x",
        _NO_DOUBLEWORDS,
    ),
    (
        "VECTOR_TWO_MISC_FP",
        _MISC,
        "FRINT*, FCVT*, SCVTF, FCM* with zero, FABS, FRECPE; with U FNEG, FRSQRTE, FSQRT and so on",
        "size=0x opcode=1100x|1101x|1110x",
        "size=1x opcode=0110x|01111|11001|1101x|11101",
        "U=0 size=1x opcode=01110|11000",
        "U=1 size=1x opcode=11111",
        _TWO_FP_LANES,
    ),
    ("VECTOR_ESTIMATE", _MISC, "URECPE, URSQRTE", "size=10 opcode=11100"),
    (
        "VECTOR_PRECISION",
        _MISC,
        "FCVTN, FCVTL, FCVTXN",
        "U=0 size=0x opcode=1011x",
        "U=1 size=01 opcode=10110",
    ),
    (
        "VECTOR_TWO_MISC_HALF",
        "0 Q U 01110 a 111100 opcode:5 10 Rn:5 Rd:5",
        "as VECTOR_TWO_MISC_FP, of half precision",
        "a=0 opcode=1100x|1101x|1110x",
        "a=1 opcode=0110x|01111|11001|1101x|11101",
        "U=0 a=1 opcode=01110|11000",
        "U=1 a=1 opcode=11111",
    ),
    (
        "VECTOR_ACROSS",
        _LANES,
        "SADDLV, SMAXV, SMINV, ADDV",
        "opcode=00011|x1010",
        "U=0 opcode=11011",
        _NO_DOUBLEWORDS,
        "!size=10 Q=0",
    ),
    (
        "VECTOR_ACROSS_FP",
        _LANES,
        "FMAXNMV, FMAXV, FMINNMV, FMINV; of half precision without U",
        "U=0 size=x0 opcode=01100|01111",
        "U=1 Q=1 size=x0 opcode=01100|01111",
    ),
    ("AES", "01001110 00 10100 001 opcode:2 10 Rn:5 Rd:5", "AESE, AESD, AESMC, AESIMC"),
    (
        "VECTOR_COPY",
        f"0 Q 0 01110000 {_COPY}",
        "DUP, INS (general), SMOV, UMOV",
        "imm4=0000|0001 imm5=xxxx1|xxx10|xx100",
        "imm4=0000|0001 imm5=x1000 Q=1",
        "imm4=0011 Q=1",
        "imm4=0101 imm5=xxxx1|xxx10",
        "imm4=0101 imm5=xx100 Q=1",
        "imm4=0111 imm5=xxxx1|xxx10|xx100 Q=0",
        "imm4=0111 imm5=x1000 Q=1",
        "!imm5=x0000",
    ),
    ("VECTOR_INSERT", f"0 1 1 01110000 {_COPY}", "INS (element)", "!imm5=x0000"),
)

_IMMEDIATES: Final[Rows] = (
    (
        "VECTOR_IMMEDIATE",
        "0 Q op 0111100000 abc:3 cmode:4 o2 1 defgh:5 Rd:5",
        "MOVI, MVNI, ORR, BIC, FMOV; o2: FMOV of half precision",
        "o2=0",
        "o2=1 op=0 cmode=1111",
        "!Q=0 op=1 cmode=1111",
    ),
    (
        "VECTOR_SHIFT",
        _SHIFT,
        "SSHR, SSRA, SRSHR, SRSRA, SRI, SHL, SLI, SQSHLU, SQSHL",
        "opcode=00xx0|01x10",
        "U=1 opcode=01x00",
        "!immh=0000",
        "!immh=1xxx Q=0",
    ),
    (
        "VECTOR_SHIFT_NARROW",
        _SHIFT,
        "SHRN, RSHRN, SQSHRN, SQRSHRN, SSHLL; with U SQSHRUN and so on",
        "opcode=100xx|10100",
        "!immh=0000|1xxx",
    ),
    (
        "VECTOR_SHIFT_FIXED",
        _SHIFT,
        "SCVTF, FCVTZS (fixed-point)",
        "opcode=11100|11111",
        "!immh=000x",
        "!immh=1xxx Q=0",
    ),
    (
        "VECTOR_INDEXED",
        _INDEXED,
        "SMLAL, SQDMLAL, SMLSL, SQDMLSL, MUL, SMULL, SQDMULL, SQDMULH, SQRDMULH; with U MLA, MLS, SQRDMLAH, SQRDMLSH",
        f"opcode=0x10|1010|1101 {_HALF_WORD}",
        f"U=0 opcode=0x11|1000|1011|1100 {_HALF_WORD}",
        f"U=1 opcode=0x00|1111 {_HALF_WORD}",
    ),
    ("VECTOR_INDEXED_DOT", _INDEXED, "SDOT, UDOT", "opcode=1110 size=10"),
    (
        "VECTOR_INDEXED_FP",
        _INDEXED,
        "FMLA, FMLS, FMUL, FMULX",
        "U=0 opcode=0x01",
        "opcode=1001",
        "!size=01",
        "!size=11 Q=0",
        "!size=11 L=1",
    ),
)

TABLE: Final[Rows] = _THREE_REGISTERS + _TWO_REGISTERS + _IMMEDIATES
