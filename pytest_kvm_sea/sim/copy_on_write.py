# SPDX-License-Identifier: GPL-2.0-only
"""Large contents that many simulated VMs begin with, page tables above all: mapped from one file, and copied by page
only where somebody writes.

Most of the 2 MiB of tables for 1 GiB are never looked at by anybody. On a real host they are written like all memory.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Contents

_SMALLEST = 64 << 10
"""Bytes; less is written as fast as it is mapped."""
_LARGEST = 32 << 20
"""Bytes; a file with that many stays in memory for as long as the process lives."""
_FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000) | 0x10
"""0x10: MAP_FIXED."""
_FAILED = ctypes.c_void_p(-1).value
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE


class _Template:
    """A file with the contents, for as long as it may be wanted."""

    def __init__(self, contents: Contents) -> None:
        self.descriptor = os.memfd_create("kvm-sea", os.MFD_CLOEXEC)
        for part in contents.parts():
            if os.write(self.descriptor, part) != len(part):
                # Whoever touched the mapping behind the end of the file would get SIGBUS
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=8)
def _template(contents: Contents) -> _Template:
    return _Template(contents)


@lru_cache(maxsize=1)
def _mmap() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


def overlay(address: int, contents: Contents) -> bool:
    """Map a private copy of the contents over memory of this process; False where they are better written there."""
    if not _SMALLEST <= contents.size <= _LARGEST or (address | contents.size) % mmap.PAGESIZE:
        return False
    if not hasattr(os, "memfd_create"):
        return False
    try:
        # Its file is open for as long as there is a reference to it
        template = _template(contents)
    except OSError:
        return False
    return bool(_mmap()(address, contents.size, _PROTECTION, _FLAGS, template.descriptor, 0) != _FAILED)


def blank(address: int, size: int) -> None:
    """Map zeros in its place."""
    if _mmap()(address, size, _PROTECTION, _FLAGS | mmap.MAP_ANONYMOUS, -1, 0) == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
