# SPDX-License-Identifier: GPL-2.0-only
"""The exception syndrome, ESR_ELx (Arm ARM, D24.2.39 and D24.2.40): classes, fault status codes, fields."""

from __future__ import annotations

import enum


class EC(enum.IntEnum):
    """Exception class, bits 31:26."""

    UNKNOWN = 0x00
    WFX = 0x01
    FP_ASIMD = 0x07
    ILLEGAL_STATE = 0x0E
    SVC64 = 0x15
    HVC64 = 0x16
    SMC64 = 0x17
    SYSREG = 0x18
    ERET = 0x1A
    IABT_LOWER = 0x20
    IABT_CURRENT = 0x21
    PC_ALIGNMENT = 0x22
    DABT_LOWER = 0x24
    DABT_CURRENT = 0x25
    SP_ALIGNMENT = 0x26
    SERROR = 0x2F
    BREAKPOINT_LOWER = 0x30
    BREAKPOINT_CURRENT = 0x31
    STEP_LOWER = 0x32
    STEP_CURRENT = 0x33
    WATCHPOINT_LOWER = 0x34
    WATCHPOINT_CURRENT = 0x35
    BRK64 = 0x3C


EC_SHIFT = 26
IL = 1 << 25
"""The trapped instruction was 32 bits long (or the syndrome has no length)."""
ISS_MASK = (1 << 25) - 1

# ISS of data and instruction aborts
ISV = 1 << 24
"""SAS, SSE, SRT, SF and AR are valid."""
SAS_SHIFT = 22
SSE = 1 << 21
SRT_SHIFT = 16
SF = 1 << 15
AR = 1 << 14
VNCR = 1 << 13
SET_SHIFT = 11
SET_MASK = 3 << SET_SHIFT
FNV = 1 << 10
"""FAR is not valid. Only with the status codes of a synchronous external abort that is not on a table walk."""
EA = 1 << 9
CM = 1 << 8
S1PTW = 1 << 7
WNR = 1 << 6
FSC_MASK = 0x3F

# ISS of an SError
IDS = 1 << 24
"""The rest of the ISS is implementation defined."""

# Fault status codes
FSC_ADDRESS_SIZE = 0x00
FSC_TRANSLATION = 0x04
FSC_ACCESS_FLAG = 0x08
FSC_PERMISSION = 0x0C
"""The codes above have the level (0 to 3) in bits 1:0."""
FSC_SEA = 0x10
FSC_MTE = 0x11
FSC_SEA_PARITY = 0x18
FSC_ALIGNMENT = 0x21
FSC_EXCLUSIVE_ATOMIC = 0x35


def fsc_sea_walk(level: int) -> int:
    """Synchronous external abort on a translation table walk at this level, -1 to 3."""
    return 0x14 + level


def fsc_parity_walk(level: int) -> int:
    """Synchronous parity or ECC error on a translation table walk at this level, -1 to 3."""
    return 0x1C + level


def ec(esr: int) -> int:
    """The exception class of a syndrome."""
    return esr >> EC_SHIFT & 0x3F


def fsc(esr: int) -> int:
    """The fault status code (DFSC, IFSC) of an abort's syndrome."""
    return esr & FSC_MASK


def is_sea(code: int) -> bool:
    """Whether a fault status code is a synchronous external abort or parity error, on a walk or not."""
    return code in (FSC_SEA, FSC_SEA_PARITY) or 0x13 <= code <= 0x17 or 0x1B <= code <= 0x1F


def syndrome(exception_class: int, iss: int = 0) -> int:
    """A syndrome with IL set."""
    return exception_class << EC_SHIFT | IL | iss
