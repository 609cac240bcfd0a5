# SPDX-License-Identifier: GPL-2.0-only
"""Functions that emitted code calls: what has no short form in Python. All pure."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.cpu.pstate import CONDITIONS, nzcv, nzcv_with_carry

__all__ = [
    "CONDITIONS",
    "asr",
    "bit_reverse",
    "crc32",
    "leading_signs",
    "nzcv",
    "nzcv_with_carry",
    "reverse_bytes",
    "ror",
    "sdiv",
    "sign_extend",
]


def sign_extend(value: int, bits: int) -> int:
    """The signed number in the low bits."""
    top = 1 << bits - 1
    return ((value & (top << 1) - 1) ^ top) - top


def asr(value: int, amount: int, bits: int) -> int:
    """Arithmetic shift right of an unsigned number."""
    top = 1 << bits - 1
    return ((value ^ top) - top >> amount) & (top << 1) - 1


def ror(value: int, amount: int, bits: int) -> int:
    return (value >> amount | value << bits - amount) & (1 << bits) - 1


def sdiv(dividend: int, divisor: int, bits: int) -> int:
    """Signed division, rounding towards zero; zero for a divisor of zero, no trap for overflow (Arm ARM, SDIV)."""
    top = 1 << bits - 1
    a, b = (dividend ^ top) - top, (divisor ^ top) - top
    if b == 0:
        return 0
    quotient = abs(a) // abs(b)
    return (quotient if (a < 0) == (b < 0) else -quotient) & (top << 1) - 1


_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def bit_reverse(value: int, size: int) -> int:
    """RBIT; size in bytes."""
    return int.from_bytes(value.to_bytes(size, "little").translate(_REVERSED), "big")


def reverse_bytes(value: int, size: int, container: int) -> int:
    """REV: the order of bytes in each container, sizes in bytes."""
    data = value.to_bytes(size, "little")
    return int.from_bytes(
        b"".join(data[start : start + container][::-1] for start in range(0, size, container)), "little"
    )


def leading_signs(value: int, bits: int) -> int:
    """CLS: how many bits after the top bit are equal to it."""
    if value >> bits - 1:
        value ^= (1 << bits) - 1
    return bits - 1 - value.bit_length()


def _crc_table(polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC: Final = {0: 0xEDB88320, 1: 0x82F63B78}
_CRC_TABLES: Final[dict[int, tuple[int, ...]]] = {}


def crc32(crc: int, value: int, size: int, castagnoli: int) -> int:
    """CRC32B to CRC32X and CRC32CB to CRC32CX; size in bytes."""
    table = _CRC_TABLES.get(castagnoli)
    if table is None:
        table = _CRC_TABLES[castagnoli] = _crc_table(_CRC[castagnoli])
    for byte in (value & (1 << size * 8) - 1).to_bytes(size, "little"):
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc
