# SPDX-License-Identifier: GPL-2.0-only
"""SIGBUS as a value instead of the end of the process.

Not by a handler: what a signal handler may do inside KVM_RUN is next to nothing, and Python's own handlers do not get
to see the siginfo. The signal is blocked in the calling thread, let through by KVM while the guest runs
(KVM_SET_SIGNAL_MASK), and taken out of the queue with sigtimedwait(2) when KVM_RUN has returned EINTR.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import MceKill, Sigbus

KICK = signal.SIGUSR1
"""The signal that interrupts KVM_RUN; it has no other meaning."""
SIGNALS = frozenset({signal.SIGBUS, KICK})
_SIGSET_BYTES = 128
_SIGINFO_BYTES = 128
_KERNEL_SIGNALS = 64
_SIGACTION_BYTES = 256
"""More than struct sigaction has on any Linux: it is only kept, and given back."""
_MADV_HWPOISON = 100
_PR_MCE_KILL, _PR_MCE_KILL_SET = 33, 1
_MCE_KILL = {MceKill.LATE: 0, MceKill.EARLY: 1, MceKill.DEFAULT: 2}


class _Siginfo(ctypes.Structure):
    """siginfo_t of a fault, 64-bit Linux (asm-generic/siginfo.h)."""

    _fields_ = (
        ("si_signo", ctypes.c_int),
        ("si_errno", ctypes.c_int),
        ("si_code", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("si_addr", ctypes.c_uint64),
        ("si_addr_lsb", ctypes.c_short),
        ("rest", ctypes.c_uint8 * (_SIGINFO_BYTES - 26)),
    )
    si_signo: int
    si_code: int
    si_addr: int
    si_addr_lsb: int


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def kernel_sigset(signals: frozenset[int]) -> bytes:
    """A sigset_t as the kernel has it, 8 bytes: what KVM_SET_SIGNAL_MASK takes."""
    return sum(1 << (number - 1) for number in signals if number <= _KERNEL_SIGNALS).to_bytes(8, "little")


def run_mask() -> bytes:
    """What is blocked while a guest runs: as in this thread, but for the signals that are to come through."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return kernel_sigset(frozenset(int(number) for number in blocked - SIGNALS))


@contextlib.contextmanager
def captured_sigbus() -> Iterator[Callable[[], list[Sigbus]]]:
    """Block the signals in the calling thread; the function that is yielded gives the SIGBUS that came so far."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    captured: list[Sigbus] = []

    def take() -> list[Sigbus]:
        while (info := _next_signal()) is not None:
            if info.si_signo == signal.SIGBUS:
                captured.append(Sigbus(info.si_code, HostVA(info.si_addr), info.si_addr_lsb))
        return captured

    try:
        yield take
    finally:
        take()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _next_signal() -> _Siginfo | None:
    """A signal of ours that is pending, taken out of the queue."""
    wanted = (ctypes.c_uint8 * _SIGSET_BYTES).from_buffer_copy(
        kernel_sigset(frozenset(map(int, SIGNALS))).ljust(_SIGSET_BYTES, b"\0")
    )
    info = _Siginfo()
    at_once = _Timespec(0, 0)
    if _libc().sigtimedwait(wanted, ctypes.byref(info), ctypes.byref(at_once)) >= 0:
        return info
    number = ctypes.get_errno()
    if number not in {errno.EAGAIN, errno.EINTR}:
        raise OSError(number, os.strerror(number))
    return None


def poison_page(address: int) -> None:
    """madvise(2) MADV_HWPOISON on the page at ``address``; see `Host.poison_page`.

    The kernel answers the caller with a SIGBUS that kills where it is blocked, ignored or not handled
    (mm/memory-failure.c kill_proc: force_sig). So it is handled for that moment, by whatever other threads are at: the
    handler has to be a C function without effects, because Python's are run by the main thread only.
    """
    libc = _libc()
    before = (ctypes.c_uint8 * _SIGACTION_BYTES)()
    libc.sigaction(signal.SIGBUS, None, before)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGBUS, ctypes.cast(libc.abs, ctypes.c_void_p))
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGBUS})
    try:
        failed = _madvise(address // mmap.PAGESIZE * mmap.PAGESIZE, mmap.PAGESIZE, _MADV_HWPOISON)
        number = ctypes.get_errno()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        libc.sigaction(signal.SIGBUS, before, None)
    if failed:
        raise OSError(number, os.strerror(number), f"madvise MADV_HWPOISON of {address:#x}")


def set_mce_kill(policy: MceKill) -> None:
    """prctl(2) PR_MCE_KILL, PR_MCE_KILL_SET for the calling thread."""
    if _libc().prctl(_PR_MCE_KILL, _PR_MCE_KILL_SET, _MCE_KILL[policy], 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl PR_MCE_KILL")


def _madvise(address: int, size: int, advice: int) -> int:
    return int(_libc().madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice))
