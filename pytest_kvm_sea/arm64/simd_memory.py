# SPDX-License-Identifier: GPL-2.0-only
"""Loads and stores of floating-point and SIMD registers (Arm ARM, C4.1.94, with V=1, and structures)."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.simd_encodings import Rows

_SIZES: Final = ("opc=0x", "size=00 opc=1x")
"""opc is L, and size 4 (128 bits) where its upper bit is set."""
_STRUCTURES: Final = (
    "opcode=0x10|0111|1010",
    "opcode=0x00|1000",
    # The registers of a structure would hold one element each
    "!opcode=0x00|1000 size=11 Q=0",
)
_ELEMENTS: Final = (
    "opcode=00x",
    "opcode=01x size=x0",
    "opcode=10x size=00",
    "opcode=10x size=01 S=0",
    "opcode=11x L=1 S=0",
)

TABLE: Final[Rows] = (
    (
        "STRUCTURES",
        "0 Q 0011000 L 000000 opcode:4 size:2 Rn:5 Rt:5",
        "LD1 to LD4, ST1 to ST4 (multiple structures)",
        *_STRUCTURES,
    ),
    (
        "STRUCTURES_POST",
        "0 Q 0011001 L 0 Rm:5 opcode:4 size:2 Rn:5 Rt:5",
        "the same, post-index",
        *_STRUCTURES,
    ),
    (
        "STRUCTURE",
        "0 Q 0011010 L R 00000 opcode:3 S size:2 Rn:5 Rt:5",
        "LD1 to LD4, ST1 to ST4 (single structure), LD1R to LD4R",
        *_ELEMENTS,
    ),
    (
        "STRUCTURE_POST",
        "0 Q 0011011 L R Rm:5 opcode:3 S size:2 Rn:5 Rt:5",
        "the same, post-index",
        *_ELEMENTS,
    ),
    ("SIMD_LITERAL", "opc:2 011 1 00 imm19:19s Rt:5", "LDR (literal, SIMD&FP)", "!opc=11"),
    (
        "SIMD_PAIR",
        "opc:2 101 1 0 mode:2 L imm7:7s Rt2:5 Rn:5 Rt:5",
        "STP, LDP, STNP, LDNP (SIMD&FP); opc 0 32 bit, 1 64 bit, 2 128 bit",
        "!opc=11",
    ),
    ("SIMD_UNSCALED", "size:2 111 1 00 opc:2 0 imm9:9s 00 Rn:5 Rt:5", "STUR, LDUR (SIMD&FP)", *_SIZES),
    ("SIMD_INDEXED", "size:2 111 1 00 opc:2 0 imm9:9s pre 1 Rn:5 Rt:5", "post-index and pre-index", *_SIZES),
    (
        "SIMD_REG",
        "size:2 111 1 00 opc:2 1 Rm:5 option:3 S 10 Rn:5 Rt:5",
        "STR, LDR (register, SIMD&FP)",
        *_SIZES,
        "!option=x0x",
    ),
    ("SIMD_UIMM", "size:2 111 1 01 opc:2 imm12:12 Rn:5 Rt:5", "STR, LDR (immediate, SIMD&FP)", *_SIZES),
)
