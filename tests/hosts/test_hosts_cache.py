# SPDX-License-Identifier: GPL-2.0-only
"""The code that cleans caches: what it is, and what it does on a processor."""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.arm64.disassembler import disassemble
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.bus import Access
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.state import SCTLR_UCI, SCTLR_UCT
from pytest_kvm_sea.hosts import cache, signals
from pytest_kvm_sea.hosts.linux import LinuxHost
from pytest_kvm_sea.uapi.revisions import MAINLINE
from tests.cpu.cpu_machine import CODE, DATA, EL0T, EL1H, Machine

STUB = CODE + 0x100
CTR = 0x8444_C004
"""As of a Neoverse, with DminLine 4 (64 bytes)."""


def test_capstone_reads_what_was_meant() -> None:
    lines = disassemble(cache.clean_and_invalidate_code(), 0)
    assert [line.text for line in lines] == [
        "mrs x2, ctr_el0",
        "ubfx x2, x2, #0x10, #4",
        "mov x3, #4",
        "lsl x2, x3, x2",
        "sub x3, x2, #1",
        "bic x0, x0, x3",
        "dc civac, x0",
        "add x0, x0, x2",
        "cmp x0, x1",
        "b.lo #0x18",
        "dsb sy",
        "ret",
    ]


def cleaned(start: int, end: int, dminline: int, mode: int) -> list[int]:
    """The addresses that the code gives to DC CIVAC on a simulated processor with this line size."""
    ctr = CTR & ~(0xF << 16) | dminline << 16
    machine = Machine(lambda asm: None, Features(id_registers={sysreg("ctr_el0"): ctr}))
    if mode == EL0T:
        machine["sctlr_el1"] = machine["sctlr_el1"] | SCTLR_UCI | SCTLR_UCT
    machine.fill(STUB, cache.clean_and_invalidate_code())
    machine.cpu.pstate = mode
    machine.cpu.pc = STUB
    machine.cpu.x[0], machine.cpu.x[1], machine.cpu.x[30] = start, end, CODE
    seen: list[int] = []

    def maintain(_cpu: Cpu, va: int, access: Access = Access.READ) -> None:
        seen.append(va)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cpu, "maintain", maintain)
        machine.run(100_000)  # into the HVC behind the call, which is UNDEFINED at EL0
    assert machine.cpu.x[30] == CODE
    assert machine.cpu.x[4:30] == [0] * 26
    return seen


@given(
    offset=st.integers(0, 5000),
    size=st.integers(1, 5000),
    dminline=st.integers(2, 9),
    mode=st.sampled_from([EL0T, EL1H]),
)
def test_every_line_is_cleaned_once_and_no_other(offset: int, size: int, dminline: int, mode: int) -> None:
    start, end, line = DATA + offset, DATA + offset + size, 4 << dminline
    first, last = start // line * line, (end - 1) // line * line
    assert cleaned(start, end, dminline, mode) == list(range(first, last + 1, line))


def test_the_page_of_the_code_is_executable_and_not_writable() -> None:
    code = cache._Code(cache.clean_and_invalidate_code())
    address = ctypes.cast(code._function, ctypes.c_void_p).value
    assert address is not None
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a file with a size
        (line,) = [line for line in maps if line.startswith(f"{address:x}-")]
    assert line.split()[1] == "r-xp"


def test_where_there_is_nothing_to_do_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(cache, "_clean_and_invalidate", lambda: lambda start, end: called.append((start, end)))
    cache.clean_and_invalidate(0x1000, 0)
    assert called == []
    cache.clean_and_invalidate(0x1000, 64)
    assert called == [(0x1000, 0x1040)]


@pytest.mark.parametrize(("machine", "calls"), [("aarch64", 1), ("x86_64", 0)])
def test_only_an_arm64_machine_runs_it(monkeypatch: pytest.MonkeyPatch, machine: str, calls: int) -> None:
    called: list[int] = []
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cache, "clean_and_invalidate", lambda address, size: called.append(address))
    LinuxHost(MAINLINE).clean_cache(HostVA(0x1000), 64)
    assert len(called) == calls


@pytest.mark.skipif(platform.machine() != "aarch64", reason="[arm64] these are arm64's instructions; an arm64 machine")
def test_it_runs_on_a_real_processor() -> None:
    memory = LinuxHost(MAINLINE).map_memory(1 << 16)
    memory.view[:] = bytes(range(256)) * 256
    LinuxHost(MAINLINE).clean_cache(HostVA(memory.address + 5), (1 << 16) - 5)
    assert memory.view == bytes(range(256)) * 256


# MADV_HWPOISON


def test_a_page_that_cannot_be_poisoned_is_an_errno() -> None:
    """Not mapped, or no CAP_SYS_ADMIN, or a kernel without CONFIG_MEMORY_FAILURE: no page is harmed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="MADV_HWPOISON of 0x1234") as refused:
        LinuxHost(MAINLINE).poison_page(HostVA(0x1234))
    assert refused.value.errno in {errno.EPERM, errno.EINVAL, errno.EFAULT, errno.ENOMEM}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("in_thread", [False, True])
def test_the_signal_of_the_kernel_kills_nobody(monkeypatch: pytest.MonkeyPatch, blocked: bool, in_thread: bool) -> None:
    """As the kernel does it: to the calling thread, before the call returns."""
    asked: list[tuple[int, int]] = []

    def madvise(address: int, _size: int, advice: int) -> int:
        asked.append((address, advice))
        assert signal.SIGBUS not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_kill(threading.get_ident(), signal.SIGBUS)
        return 0

    def poison() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK, {signal.SIGBUS})
        signals.poison_page(0x12_3456)
        assert (signal.SIGBUS in signal.pthread_sigmask(signal.SIG_BLOCK, ())) == blocked

    def handler() -> bytes:
        action = (ctypes.c_uint8 * 256)()
        signals._libc().sigaction(signal.SIGBUS, None, action)
        # The handler, as much of the mask as the kernel has, the flags; the C library leaves the rest as it comes.
        return bytes(action[:16]) + bytes(action[136:140])

    handled = handler()
    monkeypatch.setattr(signals, "_madvise", madvise)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        if in_thread:
            thread = threading.Thread(target=poison)
            thread.start()
            thread.join()
        else:
            poison()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert asked == [(0x12_3000, 100)]
    assert handler() == handled
