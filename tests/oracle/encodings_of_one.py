# SPDX-License-Identifier: GPL-2.0-only
"""Encodings that only one of the two processors has, by feature or reason, in the notation of `arm64.encodings`.

``x`` is any bit. The processors of QEMU are those of `strata`.
"""

from __future__ import annotations

from functools import cache
from typing import Final

_SYSTEM: Final = "11010101 00"
"""MSR, MRS, SYS, HINT."""


def system_pattern(op0: str, op1: str, crn: str, crm: str, op2: str) -> str:
    """The pattern of MRS and MSR, or of SYS and SYSL, for a register or an operation."""
    return f"{_SYSTEM} x {op0} {op1} {crn} {crm} {op2} xxxxx"


ONLY_IN_QEMU: Final = (
    ("debug registers (docs/model.md)", system_pattern("10", "xxx", "xxxx", "xxxx", "xxx")),
    ("timers (docs/model.md): CNTP_*_EL0, CNTV_*_EL0", system_pattern("11", "011", "1110", "001x", "xxx")),
    ("PMU (docs/model.md): PMCR_EL0 and others", system_pattern("11", "011", "1001", "11xx", "xxx")),
    ("PMU: PMINTENSET_EL1, PMINTENCLR_EL1, PMMIR_EL1", system_pattern("11", "000", "1001", "1110", "xxx")),
    ("PMU: PMEVCNTR<n>_EL0, PMEVTYPER<n>_EL0", system_pattern("11", "011", "1110", "1xxx", "xxx")),
    ("FEAT_LOR", system_pattern("11", "000", "1010", "0100", "xxx")),
    ("registers of the Neoverse N1 alone", system_pattern("11", "xxx", "1x11", "xxxx", "xxx")),
    ("FEAT_FlagM, FEAT_FlagM2: CFINV, XAFLAG, AXFLAG", "11010101 00 0 00 000 0100 xxxx 0xx 11111"),
    ("FEAT_PAN2: AT S1E1RP, S1E1WP", system_pattern("01", "000", "0111", "1001", "00x")),
    ("FEAT_MTE, which max of QEMU 10 has: MSR TCO", "11010101 00 0 00 011 0100 xxxx 100 11111"),
    ("FEAT_DPB: DC CVAP", system_pattern("01", "011", "0111", "1100", "001")),
    # Of these the Arm ARM has none (C4.1.96); QEMU 7.2 leaves a bit out of account, 10.0 does not
    ("unallocated: FMAXNMV, FMINNMV of half precision with bit 22", "0x0 01110 x1 11000 01100 10 xxxxx xxxxx"),
    ("unallocated: FMAXV, FMINV of half precision with bit 22", "0x0 01110 x1 11000 01111 10 xxxxx xxxxx"),
    ("unallocated: FMAXNMP, FMINNMP of half precision with bit 22", "010 11110 x1 11000 01100 10 xxxxx xxxxx"),
    ("unallocated: FMAXP, FMINP of half precision with bit 22", "010 11110 x1 11000 01111 10 xxxxx xxxxx"),
    ("unallocated: FADDP of half precision with bit 22", "010 11110 01 11000 01101 10 xxxxx xxxxx"),
    ("unallocated: FRECPX of a vector of half precision", "0x0 01110 1 111100 11111 10 xxxxx xxxxx"),
    ("unallocated: FABS, FNEG of half precision as scalar SIMD", "01x 11110 1 111100 01111 10 xxxxx xxxxx"),
    ("unallocated: FSQRT of half precision as scalar SIMD", "011 11110 1 111100 11111 10 xxxxx xxxxx"),
    ("unallocated: modified immediate with op, o2 and cmode 1111", "0x1 0111100000 xxx 1111 11 xxxxx xxxxx"),
)
ONLY_IN_THE_MODEL: Final = (
    ("FEAT_LRCPC2: LDAPUR, STLUR", "xx 011 0 01 xx 0 xxxxxxxxx 00 xxxxx xxxxx"),
    (
        "ERRSELR_EL1, which need not be there where there are no records",
        system_pattern("11", "000", "0101", "0011", "001"),
    ),
    ("FEAT_SB: SB", "11010101000000110011 xxxx 111 11111"),
)


@cache
def _parsed(patterns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, int, int], ...]:
    parsed = []
    for name, pattern in patterns:
        bits = pattern.replace(" ", "")
        assert len(bits) == 32, f"{name}: {len(bits)} bits"
        parsed.append((name, int(bits.replace("0", "1").replace("x", "0"), 2), int(bits.replace("x", "0"), 2)))
    return tuple(parsed)


def only_in_qemu(word: int) -> str:
    """The feature, empty if there is none."""
    return next((name for name, mask, match in _parsed(ONLY_IN_QEMU) if word & mask == match), "")


def only_in_the_model(word: int) -> str:
    """The feature, empty if there is none."""
    return next((name for name, mask, match in _parsed(ONLY_IN_THE_MODEL) if word & mask == match), "")
