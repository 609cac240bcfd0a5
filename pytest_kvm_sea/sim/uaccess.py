# SPDX-License-Identifier: GPL-2.0-only
"""Memory of the calling process, as copy_from_user and copy_to_user reach it: a bad address is EFAULT, not a crash."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from functools import cache

_ADDRESS_LIMIT = 1 << 47
"""End of user space (52-bit user addresses are only given to those who ask for them)."""


@cache
def _own_memory() -> int | None:
    """A descriptor of /proc/self/mem, which fails cleanly on a bad address; None where there is none."""
    with contextlib.suppress(OSError):
        return os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_memory.cache_clear)


def _fault() -> OSError:
    return OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def copy_from_user(address: int, size: int) -> bytes:
    """Read ``size`` bytes at a host virtual address of this process. Raises OSError EFAULT."""
    if not 0 < address <= _ADDRESS_LIMIT - size:
        raise _fault()
    memory = _own_memory()
    if memory is None:
        return ctypes.string_at(address, size)
    try:
        data = os.pread(memory, size, address)
    except OSError:
        raise _fault() from None
    if len(data) != size:
        raise _fault()
    return data


def copy_to_user(address: int, data: bytes) -> None:
    """Write at a host virtual address of this process. Raises OSError EFAULT."""
    if not 0 < address <= _ADDRESS_LIMIT - len(data):
        raise _fault()
    memory = _own_memory()
    if memory is None:
        ctypes.memmove(address, data, len(data))
        return
    try:
        written = os.pwrite(memory, data, address)
    except OSError:
        raise _fault() from None
    if written != len(data):
        raise _fault()
