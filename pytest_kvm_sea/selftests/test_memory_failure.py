# SPDX-License-Identifier: GPL-2.0-only
"""Errors in memory of a VM that no guest has consumed: what the VMM hears of them, and what becomes of the guest.

The kernel learns of such an error from a patrol scrubber, or from too many corrected errors. Here the administrator's
files in sysfs stand for the report, so that no hardware error is needed: hard_offline_page runs memory_failure as for
an uncorrected error, soft_offline_page moves the page as for corrected ones. Each page is out of service until reboot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestVA, HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Backing, MceKill
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.ras.retire import HARD_OFFLINE, is_offline
from pytest_kvm_sea.ras.sigbus import BUS_MCEERR_AO, BUS_MCEERR_AR
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.scenario import DATA, GIB, SMALL, START_GVA, add_memory, populate

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.ras.firmware import Firmware

SOFT_OFFLINE = "/sys/devices/system/memory/soft_offline_page"
FIRST, SECOND = GuestVA(START_GVA + 0x4B80), GuestVA(START_GVA + 0x1_4B80)
PAGES = [
    pytest.param(Backing.ANONYMOUS, SMALL, id="anonymous"),
    pytest.param(Backing.THP, SMALL, id="thp"),
    pytest.param(Backing.HUGETLB_2M, SMALL, id="hugetlb-2m", marks=pytest.mark.kvm_sea_requires("hugetlb-2m")),
    pytest.param(Backing.HUGETLB_1G, GIB, id="hugetlb-1g", marks=pytest.mark.kvm_sea_requires("hugetlb-1g")),
]
SMALLEST = 4 << 10
HUGE = {Backing.HUGETLB_2M: SMALL, Backing.HUGETLB_1G: GIB}

pytestmark = [
    pytest.mark.kvm_sea_requires("kvm", "pagemap-pfn"),
    pytest.mark.kvm_sea_distinct("kernel.page_size"),
]


@pytest.fixture
def early(kvm_sea_host: Host) -> Iterator[None]:
    """This thread wants to hear of errors at once."""
    kvm_sea_host.set_mce_kill(MceKill.EARLY)
    yield
    kvm_sea_host.set_mce_kill(MceKill.DEFAULT)


def write(host: Host, path: str, hpa: HostPA) -> None:
    with closing(host.open(path, os.O_WRONLY)) as file:
        file.write(f"{hpa:#x}".encode())


def corrupted(host: Host) -> int:
    """HardwareCorrupted of /proc/meminfo, in bytes."""
    with closing(host.open("/proc/meminfo", os.O_RDONLY)) as file:
        (line,) = [line for line in file.read().splitlines() if line.startswith(b"HardwareCorrupted:")]
    return int(line.split()[1]) << 10


@pytest.mark.kvm_sea_requires("hard-offline")
@pytest.mark.usefixtures("early")
@pytest.mark.parametrize(("backing", "size"), PAGES)
def test_early_kill(kvm_sea_vm: VmFactory, kvm_sea_host: Host, backing: Backing, size: int) -> None:
    """Told at once, of the page and of how much went with it; and when the guest gets there, once more by KVM.

    One page is lost to the machine. Of a huge page of hugetlb the VMM loses everything.
    """
    vm = kvm_sea_vm(guests.pages(FIRST, SECOND))
    (vcpu,) = vm.vcpus
    add_memory(vm, size=size, backing=backing)
    populate(vm, FIRST)
    populate(vm, SECOND)
    hva = vm.gva_to_hva(SECOND)
    hpa, page, before = Pagemap(kvm_sea_host).translate(hva), kvm_sea_host.page_size, corrupted(kvm_sea_host)
    with kvm_sea_host.capture_sigbus() as signals:
        write(kvm_sea_host, HARD_OFFLINE, hpa)
        (told,) = signals()
    assert (told.code, told.address) == (BUS_MCEERR_AO, hva // page * page)
    assert 1 << told.lsb == HUGE.get(backing, page)
    assert corrupted(kvm_sea_host) == before + page
    assert is_offline(kvm_sea_host, hpa)
    assert not is_offline(kvm_sea_host, HostPA(hpa + page))

    if backing not in HUGE:
        vcpu.expect_sync(1)
    (met,) = vcpu.expect_sigbus()
    # Stage 2 has blocks of 2 MiB and 1 GiB with pages of 4 KiB only.
    assert (met.code, 1 << met.lsb) == (BUS_MCEERR_AR, HUGE.get(backing, page) if page == SMALLEST else page)
    assert met.address == vm.gva_to_hva(FIRST if backing in HUGE else SECOND) // page * page


@pytest.mark.kvm_sea_requires("soft-offline")
@pytest.mark.usefixtures("early")
@pytest.mark.parametrize(("backing", "size"), PAGES[:3])
def test_soft_offline(kvm_sea_vm: VmFactory, kvm_sea_host: Host, backing: Backing, size: int) -> None:
    """The page is another one, with the same in it; neither the VMM nor the guest notices."""
    vm = kvm_sea_vm(guests.rereader(FIRST, SECOND, DATA))
    (vcpu,) = vm.vcpus
    add_memory(vm, size=size, backing=backing)
    populate(vm, FIRST)
    populate(vm, SECOND)
    vcpu.expect_sync(1)  # it has touched the first page: stage 2 maps it
    hva = vm.gva_to_hva(FIRST)
    pagemap = Pagemap(kvm_sea_host)
    before = pagemap.translate(hva)
    with kvm_sea_host.capture_sigbus() as signals:
        write(kvm_sea_host, SOFT_OFFLINE, before)
        assert signals() == []
    after = pagemap.translate(hva)
    assert after != before
    assert (is_offline(kvm_sea_host, before), is_offline(kvm_sea_host, after)) == (True, False)
    vcpu.expect_done()


@pytest.mark.kvm_sea_requires("firmware-scrub")
@pytest.mark.parametrize("severity", ["recoverable", "corrected"])
def test_patrol_scrub(kvm_sea_vm: VmFactory, kvm_sea_host: Host, kvm_sea_firmware: Firmware, severity: str) -> None:
    """A report of the firmware does what the files in sysfs do: without a wish to know, the VMM hears of it late."""
    vm = kvm_sea_vm(guests.rereader(FIRST, SECOND, DATA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    populate(vm, FIRST)
    populate(vm, SECOND)
    hva = HostVA(vm.gva_to_hva(SECOND))
    hpa = Pagemap(kvm_sea_host).translate(hva)
    with kvm_sea_host.capture_sigbus() as signals:
        kvm_sea_firmware.report(hpa, severity)
        assert signals() == []
    assert is_offline(kvm_sea_host, hpa)
    vcpu.expect_sync(1)
    if severity == "corrected":
        vcpu.expect_done()
        return
    (met,) = vcpu.expect_sigbus()
    assert (met.code, met.address) == (BUS_MCEERR_AR, hva // kvm_sea_host.page_size * kvm_sea_host.page_size)
