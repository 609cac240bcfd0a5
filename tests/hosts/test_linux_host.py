# SPDX-License-Identifier: GPL-2.0-only
"""The machine itself as a host, as far as any Linux machine can show it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Backing, Host, SharedPool, Sigbus
from pytest_kvm_sea.hosts.linux import LinuxHost
from pytest_kvm_sea.hosts.signals import KICK, kernel_sigset
from pytest_kvm_sea.uapi.revisions import MAINLINE

SENT_BY_A_PROCESS = {0, -6}
"""SI_USER, SI_TKILL: the C library has its choice."""


@pytest.fixture
def host() -> Host:
    return LinuxHost(MAINLINE)


def test_what_it_is(host: Host) -> None:
    assert (host.name, host.label, host.revision) == ("linux", "linux-mainline", MAINLINE)
    assert host.page_size == mmap.PAGESIZE
    assert (host.machine, host.release) == (os.uname().machine, os.uname().release)


def test_files(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    file = host.open(str(path), os.O_RDWR)
    assert file.pread(3, 4) == b"456"
    assert file.read(2) == b"01"
    assert file.read() == b"23456789"
    assert file.write(b"ab") == 2
    assert bytes(file.mmap(10)) == b"0123456789"
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        file.ioctl(0xAE00)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read(1)
    assert host.listdir(str(tmp_path)) == ["file"]
    host.access(str(path), os.R_OK)
    with pytest.raises(FileNotFoundError):
        host.access(str(tmp_path / "none"), os.F_OK)
    with pytest.raises(FileNotFoundError):
        host.open(str(tmp_path / "none"), os.O_RDONLY)
    assert not (tmp_path / "none").exists()


def test_an_ioctl_reads_and_writes_buffers_in_place(host: Host) -> None:
    """FIONREAD on a pipe: the kernel writes into the buffer."""
    reader, writer = os.pipe()
    os.write(writer, b"12345")
    count = bytearray(4)
    host.adopt(reader).ioctl(0x541B, count)
    assert struct.unpack("<I", count) == (5,)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP])
@pytest.mark.parametrize("alignment", [0, 0x20_0000])
def test_memory(host: Host, backing: Backing, alignment: int) -> None:
    memory = host.map_memory(5000, backing=backing, alignment=alignment)
    assert memory.size % mmap.PAGESIZE == 0
    assert memory.size >= 5000
    assert len(memory.view) == memory.size
    assert memory.address % max(alignment, mmap.PAGESIZE) == 0
    memory.view[:4] = b"abcd"
    with Path("/proc/self/mem").open("rb", buffering=0) as own:
        own.seek(memory.address)
        assert own.read(4) == b"abcd"
    memory.close()
    memory.close()


@pytest.mark.parametrize(("backing", "size"), [(Backing.HUGETLB_2M, 2 << 20), (Backing.HUGETLB_1G, 1 << 30)])
def test_huge_pages_that_are_not_there(host: Host, backing: Backing, size: int) -> None:
    """ENOMEM at once, and no SIGBUS at the first touch."""
    free = Path(f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB/free_hugepages")
    if free.exists() and int(free.read_text()):
        pytest.skip("[hugetlb] this machine has free pages of this size; nothing to get")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        host.map_memory(size, backing=backing)
    assert caught.value.errno in {errno.ENOMEM, errno.EINVAL}


@pytest.mark.parametrize("backing", Backing)
def test_who_shares_the_pool_is_asked_before_hugetlb_memory_is_mapped(backing: Backing) -> None:
    class NotNowError(Exception):
        pass

    def refuse() -> None:
        raise NotNowError

    host = LinuxHost(MAINLINE)
    assert isinstance(host, SharedPool)
    host.before_hugetlb = refuse
    if backing in (Backing.HUGETLB_2M, Backing.HUGETLB_1G):
        with pytest.raises(NotNowError):
            host.map_memory(1 << 30, backing=backing)
    else:
        host.map_memory(4096, backing=backing).close()


def test_sigbus_becomes_a_value(host: Host) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with host.capture_sigbus() as received:
        assert received() == []
        signal.pthread_kill(threading.get_ident(), signal.SIGBUS)
        (found,) = received()
        assert found.code in SENT_BY_A_PROCESS
        assert received() == [found]
        signal.pthread_kill(threading.get_ident(), signal.SIGBUS)
        assert len(received()) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_sigbus_that_nobody_asked_for_does_not_outlive_the_capture(host: Host) -> None:
    """It is taken from the queue at the end: unblocking the signal must not kill the process."""
    with host.capture_sigbus() as received:
        signal.pthread_kill(threading.get_ident(), signal.SIGBUS)
    assert len(received()) == 1


def test_a_kick_is_no_sigbus(host: Host) -> None:
    with host.capture_sigbus() as received:
        host.interrupt(threading.get_ident())
        assert received() == []


def test_a_kick_interrupts_a_system_call(host: Host) -> None:
    """As it does KVM_RUN: the handler returns, the call gives EINTR, the thread goes on."""
    reader, writer = os.pipe()
    thread = threading.get_ident()
    timer = threading.Timer(0.05, host.interrupt, (thread,))
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        os.write(writer, b"x")

    old = signal.signal(KICK, note)
    try:
        timer.start()
        assert os.read(reader, 1) == b"x"
    finally:
        signal.signal(KICK, old)
    timer.join()
    assert seen == [KICK]
    os.close(reader)
    os.close(writer)


def test_the_mask_for_run_lets_both_signals_through(host: Host) -> None:
    blocked = int.from_bytes(host.run_mask(), "little")
    for number in (signal.SIGBUS, KICK):
        assert not blocked >> (number - 1) & 1
    assert kernel_sigset(frozenset({1, 64})) == (1 | 1 << 63).to_bytes(8, "little")


def test_the_siginfo_of_a_real_fault() -> None:
    """A page beyond the end of a file: BUS_ADRERR at its address, in a child that it may end."""
    code = (
        "import ctypes, mmap, os, signal, tempfile, threading\n"
        "from pytest_kvm_sea.hosts import signals\n"
        "with signals.captured_sigbus() as received:\n"
        "    libc = ctypes.CDLL(None)\n"
        "    info = signals._Siginfo(signal.SIGBUS, 0, 4, 0, 0x1234000, 12)\n"
        "    libc.syscall(240 if os.uname().machine == 'aarch64' else 297, os.getpid(), threading.get_native_id(),"
        " signal.SIGBUS, ctypes.byref(info))\n"
        "    print(received())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    if "[]" in done.stdout:
        pytest.skip("[rt-tgsigqueueinfo] the kernel lets nobody forge a siginfo; nothing to get")
    assert str([Sigbus(4, HostVA(0x1234000), 12)]) in done.stdout, done.stderr
