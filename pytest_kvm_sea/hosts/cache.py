# SPDX-License-Identifier: GPL-2.0-only
"""Caches by virtual address: DC CIVAC from user space, which Linux permits (SCTLR_EL1.UCI, arch/arm64 sysreg.h).

Data that was just written is dirty in a cache, and a later read is answered from there: poison that was put into the
memory below is never seen. No library function does this, so a few instructions are assembled and called.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import Cond, X


def clean_and_invalidate_code() -> bytes:
    """Code of a function of start (x0) and end (x1): DC CIVAC on every line between, to the point of coherency.

    The line size is the smallest of all data caches, 4 << CTR_EL0.DminLine; x2 and x3 are changed.
    """
    start, end, line, mask = X[0], X[1], X[2], X[3]
    asm = Assembler()
    asm.mrs(line, "ctr_el0")
    asm.ubfx(line, line, 16, 4)
    asm.mov(mask, 4)
    asm.lsl(line, mask, line)
    asm.sub(mask, line, 1)
    asm.bic(start, start, mask)
    asm.label("next line")
    asm.system("dc civac", start)
    asm.add(start, start, line)
    asm.cmp(start, end)
    asm.b_cond(Cond.LO, "next line")
    asm.dsb("sy")
    asm.ret()
    return asm.assemble(base=0)


class _Code:
    """A function (start, end) in a page of its own.

    The page is made writable first and executable afterwards, never both; the kernel has the instruction caches see
    what was written when it makes the page executable (arch/arm64/mm/flush.c).
    """

    def __init__(self, code: bytes) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._page[: len(code)] = code
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        libc = ctypes.CDLL(None, use_errno=True)
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), protection):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "mprotect, of a page with code to clean caches")
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)(address)

    def __call__(self, start: int, end: int) -> None:
        self._function(start, end)


@cache
def _clean_and_invalidate() -> _Code:
    return _Code(clean_and_invalidate_code())


def clean_and_invalidate(address: int, size: int) -> None:
    """Clean and invalidate [address, address + size), which must be mapped, on an arm64 machine.

    OSError where the system lets no process make code (SELinux execmem).
    """
    if size > 0:
        _clean_and_invalidate()(address, address + size)
