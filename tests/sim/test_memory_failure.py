# SPDX-License-Identifier: GPL-2.0-only
"""memory_failure and soft offline: what happens to the page, to the mapping, and which signal the process gets."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Backing, MceKill, Sigbus
from pytest_kvm_sea.platforms.model import GIB, MIB, Firmware, Hugepages, Kernel, Platform, SeaPolicy
from pytest_kvm_sea.sim.apei import CACHE_SECONDS, CACHE_SIZE, SI_KERNEL, Apei, Severity
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.memory_failure import BUS_MCEERR_AO, BUS_MCEERR_AR
from pytest_kvm_sea.sim.physical import EHWPOISON, Offline
from pytest_kvm_sea.sim.process import SigbusNotCaptured, SimMemory

BASE = Platform("test", "a host", memory=8 * GIB, hugepages=Hugepages(8, 2))
KERNEL_PAGE = 0x8000_0000
HARD, SOFT = (f"/sys/devices/system/memory/{way}_offline_page" for way in ("hard", "soft"))
EARLY_KILL, ENABLE_SOFT = "/proc/sys/vm/memory_failure_early_kill", "/proc/sys/vm/enable_soft_offline"

# backing, offset of the error: bytes that the mapping loses, log2
KINDS = [
    pytest.param(Backing.ANONYMOUS, 0x5040, 12, id="anonymous"),
    pytest.param(Backing.THP, 0x5040, 12, id="thp"),
    pytest.param(Backing.HUGETLB_2M, 0x5040, 21, id="hugetlb-2m"),
    pytest.param(Backing.HUGETLB_1G, 0x1234_5040, 30, id="hugetlb-1g"),
]


@pytest.fixture
def host() -> Iterator[SimHost]:
    made = SimHost(BASE)
    yield made
    made.close()


def touched(host: SimHost, backing: Backing = Backing.ANONYMOUS, offset: int = 0) -> SimMemory:
    """Memory whose page at ``offset`` is there."""
    memory = host.process.map_memory(GIB if backing is Backing.HUGETLB_1G else 2 * MIB, backing)
    memory.view[offset] = 1
    return memory


def write(host: SimHost, path: str, text: str) -> int:
    try:
        host.open(path, os.O_WRONLY).write(text.encode())
    except OSError as error:
        return error.errno or -1
    return 0


def meminfo(host: SimHost) -> dict[str, int]:
    lines = host.open("/proc/meminfo", os.O_RDONLY).read().decode().splitlines()
    return {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}


@pytest.mark.parametrize(("backing", "offset", "lsb"), KINDS)
def test_who_consumes_an_error_is_told_of_the_page_and_of_the_size(
    host: SimHost, backing: Backing, offset: int, lsb: int
) -> None:
    memory = touched(host, backing, offset)
    hpa, corrupted = memory.hpa(offset), meminfo(host)["HardwareCorrupted"]
    expected = Sigbus(BUS_MCEERR_AR, HostVA(memory.address + (offset & ~0xFFF)), lsb)
    with host.process.capture_sigbus() as signals:
        host.firmware.failure.handle(hpa, action_required=True)
        assert signals == [expected]
        # Consumed once more, by a thread that got there at the same time: the page tables tell where it was.
        with pytest.raises(OSError) as known:  # noqa: PT011 - the errno is what matters
            host.firmware.failure.handle(hpa, action_required=True)
        assert known.value.errno == EHWPOISON
        assert signals == [expected, expected]
    size = 1 << lsb
    start = offset // size * size
    assert all(memory.lost(at) for at in (start, offset, start + size - 1))
    assert meminfo(host)["HardwareCorrupted"] == corrupted + 4
    if start + size < memory.size:
        assert not memory.lost(start + size)


def test_a_gigantic_page_leaves_its_pool_and_gives_back_what_is_good(host: SimHost) -> None:
    """Measured on Linux 7.3.4: one page less in the pool, 4 kB corrupted, the neighbours ordinary free pages."""
    memory = touched(host, Backing.HUGETLB_1G, 0x5000)
    directory = "/sys/kernel/mm/hugepages/hugepages-1048576kB"
    hpa = memory.hpa(0x5000)
    host.firmware.failure.handle(hpa)
    assert host.open(f"{directory}/nr_hugepages", os.O_RDONLY).read() == b"1\n"
    assert host.physical.offline_was(hpa) is Offline.FREE
    assert not any(host.physical.is_offline(each) for each in (hpa - 4096, hpa + 4096, memory.hpa(0)))
    memory.close()
    assert host.open(f"{directory}/free_hugepages", os.O_RDONLY).read() == b"1\n"
    assert host.process.map_memory(GIB, Backing.HUGETLB_1G).hpa(0) != hpa - 0x5000
    with pytest.raises(OSError, match="memory"):
        host.process.map_memory(GIB, Backing.HUGETLB_1G)


def test_a_neighbour_in_a_dissolved_page_can_fail_too(host: SimHost) -> None:
    memory = touched(host, Backing.HUGETLB_2M)
    host.firmware.failure.handle(memory.hpa(0))
    host.firmware.failure.handle(memory.hpa(0x3000))
    assert host.physical.offline_pages == 2
    assert host.physical.pool_size(2 * MIB) == 7


def test_nobody_is_told_of_a_page_that_nobody_has_mapped(host: SimHost) -> None:
    memory = touched(host)
    hpa = memory.hpa(0)
    memory.close()
    host.firmware.failure.handle(hpa, action_required=True)
    assert host.physical.is_offline(hpa)
    host.firmware.failure.handle(hpa, action_required=True)  # nothing left to do, and nobody to kill


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.HUGETLB_2M])
def test_a_page_that_was_never_touched_is_another_one_later(host: SimHost, backing: Backing) -> None:
    memory = host.process.map_memory(2 * MIB, backing)
    hpa = memory.hpa(0)
    host.firmware.failure.handle(hpa)
    memory.view[0] = 1
    assert not memory.lost(0)
    assert memory.hpa(0) != hpa
    assert host.process.hva_of(memory.hpa(0)) == memory.address


def test_the_last_huge_page_that_is_promised_to_somebody_cannot_be_dissolved(host: SimHost) -> None:
    memory = host.process.map_memory(2 * GIB, Backing.HUGETLB_1G)
    with pytest.raises(OSError) as refused:  # noqa: PT011
        host.firmware.failure.handle(memory.hpa(0))
    assert refused.value.errno == errno.EBUSY


# address: errno of hard offline, of soft offline
ADDRESSES = [
    pytest.param("0", errno.ENXIO, errno.ENXIO, id="hole"),
    pytest.param("0x09000000", errno.ENXIO, errno.ENXIO, id="mmio"),
    pytest.param(f"{KERNEL_PAGE:#x}", errno.EBUSY, errno.ENOTRECOVERABLE, id="kernel"),
    pytest.param("here", errno.EINVAL, errno.EINVAL, id="no number"),
]


@pytest.mark.parametrize(("text", "hard", "soft"), ADDRESSES)
def test_what_cannot_be_taken_offline(host: SimHost, text: str, hard: int, soft: int) -> None:
    assert write(host, SOFT, text) == soft
    assert write(host, HARD, text) == hard


# Early kill


def test_late_kill_is_the_default(host: SimHost) -> None:
    memory = touched(host)
    with host.process.capture_sigbus() as signals:
        assert write(host, HARD, f"{memory.hpa(0):#x}") == 0
    assert (signals, memory.lost(0)) == ([], True)


# sysctl, prctl: told at once
WISHES = [
    ("0", MceKill.DEFAULT, False),
    ("0", MceKill.EARLY, True),
    ("0", MceKill.LATE, False),
    ("1", MceKill.DEFAULT, True),
    ("1", MceKill.EARLY, True),
    ("1", MceKill.LATE, False),
]


@pytest.mark.parametrize(("sysctl", "policy", "told"), WISHES)
def test_early_kill_is_a_wish_of_the_thread_or_of_the_machine(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, sysctl: str, policy: MceKill, told: bool
) -> None:
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])  # workers of xdist have more
    memory = touched(host, Backing.HUGETLB_2M, 0x5000)
    assert write(host, EARLY_KILL, f"{sysctl}\n") == 0
    host.set_mce_kill(policy)
    with host.process.capture_sigbus() as signals:
        assert write(host, HARD, f"{memory.hpa(0x5000):#x}") == 0
    assert signals == ([Sigbus(BUS_MCEERR_AO, HostVA(memory.address + 0x5000), 21)] if told else [])


def test_a_thread_of_its_own_can_be_told(host: SimHost) -> None:
    """The first thread that wants to know: here not the main one, which does not capture anything."""
    memory = touched(host)
    ready, done = threading.Event(), threading.Event()
    received: list[Sigbus] = []

    def listen() -> None:
        host.set_mce_kill(MceKill.EARLY)
        with host.process.capture_sigbus() as signals:
            ready.set()
            done.wait(10)
        received.extend(signals)

    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(10)
    host.firmware.failure.handle(memory.hpa(0))
    done.set()
    thread.join()
    assert [signal.code for signal in received] == [BUS_MCEERR_AO]


def test_early_kill_kills_who_does_not_handle_it(host: SimHost) -> None:
    memory = touched(host)
    host.set_mce_kill(MceKill.EARLY)
    with pytest.raises(SigbusNotCaptured, match="si_code 0x5"):
        host.firmware.failure.handle(memory.hpa(0))
    assert memory.lost(0)


@pytest.mark.parametrize(
    ("text", "code"), [("2", errno.EINVAL), ("x", errno.EINVAL), ("-1", errno.EINVAL), (" 1\n", 0)]
)
@pytest.mark.parametrize("path", [EARLY_KILL, ENABLE_SOFT])
def test_sysctls_are_0_or_1(host: SimHost, path: str, text: str, code: int) -> None:
    before = host.open(path, os.O_RDONLY).read()
    assert write(host, path, text) == code
    assert host.open(path, os.O_RDONLY).read() == (before if code else b"1\n")


# Soft offline


@pytest.mark.parametrize(("backing", "offset", "lsb"), KINDS)
def test_soft_offline_moves_the_page_and_tells_nobody(host: SimHost, backing: Backing, offset: int, lsb: int) -> None:
    memory = touched(host, backing, offset)
    memory.view[offset : offset + 4] = b"data"
    before = memory.hpa(offset)
    host.set_mce_kill(MceKill.EARLY)
    for _ in range(2):  # the second time the page is offline already, and that is no error
        assert write(host, SOFT, f"{before:#x}") == 0
    after = memory.hpa(offset)
    assert after // (1 << lsb) != before // (1 << lsb)
    assert after % (1 << lsb) == before % (1 << lsb)
    assert bytes(memory.view[offset : offset + 4]) == b"data"
    assert not memory.lost(offset)
    assert host.process.hva_of(after) == memory.address + offset
    assert host.process.hva_of(before) is None
    assert host.physical.is_offline(before)
    assert meminfo(host)["HardwareCorrupted"] == 4


def test_a_moved_page_can_move_again_and_fail_at_last(host: SimHost) -> None:
    memory = touched(host)
    places = []
    for _ in range(3):
        places.append(memory.hpa(0))
        host.firmware.failure.soft_offline(memory.hpa(0))
    host.firmware.failure.handle(memory.hpa(0))
    assert len({*places, memory.hpa(0)}) == 4
    assert memory.lost(0)
    assert host.physical.offline_pages == 4


def test_soft_offline_needs_a_page_to_move_to(host: SimHost) -> None:
    memory = touched(host, Backing.HUGETLB_1G)
    host.process.map_memory(GIB, Backing.HUGETLB_1G)
    assert write(host, SOFT, f"{memory.hpa(0):#x}") == errno.ENOMEM
    assert not host.physical.is_offline(memory.hpa(0))


def test_soft_offline_can_be_switched_off(host: SimHost) -> None:
    memory = touched(host)
    assert write(host, ENABLE_SOFT, "0") == 0
    assert write(host, SOFT, f"{memory.hpa(0):#x}") == errno.EOPNOTSUPP


def test_all_memory_is_given_back_in_the_end(host: SimHost) -> None:
    memory = touched(host)
    host.firmware.failure.soft_offline(memory.hpa(0))
    moved = memory.hpa(0)
    memory.close()
    assert host.physical.owner(moved) is None


# MADV_HWPOISON


def test_madvise_does_not_take_what_was_never_written(host: SimHost) -> None:
    """Measured on Linux 7.3.4: EBUSY."""
    memory = host.process.map_memory(4096)
    with pytest.raises(OSError) as refused:  # noqa: PT011
        host.poison_page(memory.address)
    assert refused.value.errno == errno.EBUSY
    assert not host.physical.is_offline(memory.hpa(0))


# backing: flags of the page when it was taken away, and when it was moved away (measured on Linux 7.3.4)
FLAGS = [
    (Backing.ANONYMOUS, {3, 4, 12, 14, 19}, {3, 4, 12, 14, 19}),
    (Backing.HUGETLB_2M, {19}, {19}),
]


@pytest.mark.parametrize(("backing", "taken", "moved"), FLAGS)
def test_flags_of_pages_out_of_service(host: SimHost, backing: Backing, taken: set[int], moved: set[int]) -> None:
    for path, expected in ((HARD, taken), (SOFT, moved)):
        hpa = touched(host, backing).hpa(0)
        assert write(host, path, f"{hpa:#x}") == 0
        word = host.open("/proc/kpageflags", os.O_RDONLY).pread(8, hpa // 4096 * 8)
        assert {bit for bit in range(64) if int.from_bytes(word, "little") >> bit & 1} == expected


def test_madvise_deals_with_a_page_once(host: SimHost) -> None:
    memory = touched(host)
    host.poison_page(memory.address)
    assert memory.lost(0)
    with pytest.raises(OSError, match="address") as again:
        host.poison_page(memory.address)
    assert again.value.errno == errno.EFAULT


# APEI


def apei(host: SimHost, policy: SeaPolicy, *, tells: bool = True, ghes: bool = True) -> tuple[Apei, list[float]]:
    """An APEI whose clock is a list of one number."""
    platform = replace(BASE, firmware=Firmware(sea=policy, ghes=ghes), kernel=Kernel(ghes_tells_duplicates=tells))
    now = [100.0]
    return Apei(platform, host.firmware.failure, host.process, lambda: now[0]), now


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("policy", SeaPolicy)
def test_the_policies(host: SimHost, policy: SeaPolicy, tells: bool) -> None:
    memory = touched(host)
    claims = {
        SeaPolicy.UNCLAIMED: False,
        SeaPolicy.CLAIMED: True,
        SeaPolicy.CLAIMED_UNHANDLED: True,
        SeaPolicy.DUPLICATE: not tells,
    }
    codes = {SeaPolicy.CLAIMED: [BUS_MCEERR_AR], SeaPolicy.CLAIMED_UNHANDLED: [SI_KERNEL]}
    found, _ = apei(host, policy, tells=tells)
    with host.process.capture_sigbus() as signals:
        assert found.claim_sea(host.process.hpa_of(memory.address)) is claims[policy]
    assert [signal.code for signal in signals] == codes.get(policy, [])
    assert memory.lost(0) is (policy is SeaPolicy.CLAIMED)


@pytest.mark.parametrize("tells", [True, False])
def test_a_record_that_repeats_itself(host: SimHost, tells: bool) -> None:
    """7.3 leaves the abort to KVM; 6.12 claims it and does nothing, and the guest consumes the error again."""
    found, now = apei(host, SeaPolicy.CLAIMED_UNHANDLED, tells=tells)
    with host.process.capture_sigbus() as signals:
        assert found.claim_sea(None) is True
        now[0] += CACHE_SECONDS - 1
        assert found.claim_sea(None) is not tells
        assert len(signals) == 1
        now[0] += 2
        assert found.claim_sea(None) is True
        assert len(signals) == 2


def test_ghes_remembers_few_records(host: SimHost) -> None:
    found, _ = apei(host, SeaPolicy.CLAIMED)
    memory = host.process.map_memory(2 * MIB)
    memory.view[::4096] = bytes(range(1, 3)) * 256
    pages = [host.process.hpa_of(memory.address + 4096 * number) for number in range(CACHE_SIZE + 1)]
    with host.process.capture_sigbus():
        assert all(found.claim_sea(page) for page in pages)
        assert found.claim_sea(pages[-1]) is False
        assert found.claim_sea(pages[0]) is True


@pytest.mark.parametrize(("severity", "lost"), [(Severity.RECOVERABLE, True), (Severity.CORRECTED, False)])
def test_reports_of_what_nobody_has_consumed(host: SimHost, severity: Severity, lost: bool) -> None:
    memory = touched(host)
    before = memory.hpa(0)
    host.firmware.apei.report(before, severity)
    assert host.physical.is_offline(before)
    assert memory.lost(0) is lost
    assert (memory.hpa(0) == before) is lost


def test_a_report_that_cannot_be_dealt_with_is_nobodys_problem(host: SimHost) -> None:
    host.firmware.apei.report(host.physical.map.firmware.start, Severity.RECOVERABLE)  # type: ignore[arg-type]
    assert host.physical.offline_pages == 0


def test_without_ghes_nothing_is_reported(host: SimHost) -> None:
    memory = touched(host)
    found, _ = apei(host, SeaPolicy.UNCLAIMED, ghes=False)
    found.report(memory.hpa(0), Severity.RECOVERABLE)
    assert not host.physical.is_offline(memory.hpa(0))


def test_the_scrubber_reports_every_error_once(host: SimHost) -> None:
    first, second = touched(host), touched(host)
    for memory, offset in ((first, 0), (first, 64), (second, 128)):
        host.physical.poison(memory.hpa(offset))
    host.set_mce_kill(MceKill.EARLY)
    with host.process.capture_sigbus() as signals:
        assert sorted(host.firmware.scrub()) == sorted((first.hpa(0), second.hpa(0)))
        assert host.firmware.scrub() == []
    assert {signal.address for signal in signals} == {first.address, second.address}
