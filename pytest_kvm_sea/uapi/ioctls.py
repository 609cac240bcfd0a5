# SPDX-License-Identifier: GPL-2.0-only
"""How an ioctl request number is put together (asm-generic/ioctl.h): direction, size, type and number."""

from __future__ import annotations

_NONE, _WRITE, _READ = 0, 1, 2
_NUMBER_BITS, _TYPE_BITS, _SIZE_BITS = 8, 8, 14
_SIZE_SHIFT = _NUMBER_BITS + _TYPE_BITS
_DIRECTION_SHIFT = _SIZE_SHIFT + _SIZE_BITS

KVMIO = 0xAE


def _request(direction: int, number: int, size: int) -> int:
    return direction << _DIRECTION_SHIFT | size << _SIZE_SHIFT | KVMIO << _NUMBER_BITS | number


def io(number: int) -> int:
    """A request of KVM that takes a number, or nothing."""
    return _request(_NONE, number, 0)


def iow(number: int, size: int) -> int:
    """A request of KVM whose structure the kernel reads; size in bytes."""
    return _request(_WRITE, number, size)


def ior(number: int, size: int) -> int:
    """A request of KVM whose structure the kernel fills."""
    return _request(_READ, number, size)


def iowr(number: int, size: int) -> int:
    """A request of KVM whose structure the kernel reads and fills."""
    return _request(_READ | _WRITE, number, size)
