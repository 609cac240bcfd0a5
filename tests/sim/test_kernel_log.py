# SPDX-License-Identifier: GPL-2.0-only
"""The simulated kernel's messages: /dev/kmsg as a reader meets it, and what is said when."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.firmware import Status
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.kernel_log import Level

RECORD = re.compile(rb"(\d),(\d+),(\d+),-;([ -~]*)\n")
EINJ = "/sys/kernel/debug/apei/einj"


@pytest.fixture
def host() -> Iterator[SimHost]:
    host = SimHost(load_platform("ampereone"))
    yield host
    host.close()


def messages(host: SimHost) -> list[tuple[int, str]]:
    """Level and text of every message."""
    file = host.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    found: list[tuple[int, str]] = []
    while True:
        try:
            record = file.read(8192)
        except BlockingIOError:
            return found
        match = RECORD.fullmatch(record)
        assert match is not None, record
        assert int(match[2]) == len(found)
        found.append((int(match[1]), match[4].decode()))


def touched(host: SimHost) -> tuple[HostVA, int]:
    """A page that is in use: host virtual address, frame number."""
    memory = host.map_memory(host.page_size)
    memory.view[0] = 1
    hpa = host.process.hpa_of(memory.address)
    assert hpa is not None
    return memory.address, hpa // host.page_size


def test_a_fresh_host_has_nothing_to_say(host: SimHost) -> None:
    assert messages(host) == []
    assert host.open("/proc/sys/kernel/tainted", os.O_RDONLY).read() == b"0\n"


def test_one_record_for_each_read(host: SimHost) -> None:
    host.physical.log.add(Level.INFO, "one")
    host.physical.log.add(Level.ERR, "two \x1b \\ \u00e9")
    file = host.open("/dev/kmsg", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        file.read(4)
    assert file.read().endswith(rb";two \x1b \x5c \xc3\xa9" + b"\n"), (
        "the one that did not fit is lost, as the kernel has it"
    )
    with pytest.raises(BlockingIOError):
        file.read(8192)
    host.physical.log.add(Level.INFO, "three")
    assert file.read(8192).endswith(b";three\n")


def test_only_root_may_read() -> None:
    platform = load_platform("ampereone")
    host = SimHost(replace(platform, process=replace(platform.process, root=False)))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        host.open("/dev/kmsg", os.O_RDONLY)
    assert caught.value.errno == errno.EPERM
    host.close()


def test_offlining_says_what_kind_of_page_it_was(host: SimHost) -> None:
    hva, pfn = touched(host)
    host.poison_page(hva)
    with pytest.raises(OSError):  # noqa: PT011
        host.firmware.failure.handle(pfn * host.page_size)
    with pytest.raises(OSError):  # noqa: PT011
        host.firmware.failure.handle(0)
    huge = host.physical.map.ram[-1].stop - host.page_size
    host.firmware.failure.handle(huge)
    assert messages(host) == [
        (6, f"Injecting memory failure for pfn {pfn:#x} at process virtual address {hva:#x}"),
        (3, f"Memory failure: {pfn:#x}: Sending SIGBUS to pytest:{os.getpid()} due to hardware memory corruption"),
        (3, f"Memory failure: {pfn:#x}: recovery action for dirty LRU page: Recovered"),
        (3, f"Memory failure: {pfn:#x}: recovery action for already poisoned page: Failed"),
        (3, "Memory failure: 0x0: memory outside kernel control"),
        (3, f"Memory failure: {huge // host.page_size:#x}: recovery action for free huge page: Recovered"),
    ]


def test_firmware_that_does_not_answer(host: SimHost) -> None:
    host.firmware.next_status = Status.TIMEOUT
    knobs = {
        "error_type": "0x8",
        "flags": "2",
        "param1": f"{128 << 20 | 0x80000000:#x}",
        "param2": "0xffffffffffffffff",
    }
    for name, text in knobs.items():
        host.open(f"{EINJ}/{name}", os.O_WRONLY).write(text.encode())
    with pytest.raises(OSError, match="Input/output error"):
        host.open(f"{EINJ}/error_inject", os.O_WRONLY).write(b"1")
    assert messages(host) == [(4, "EINJ: [Firmware Warn]: Firmware does not respond in time")]
