# SPDX-License-Identifier: GPL-2.0-only
"""SIGBUS during KVM_RUN: it reaches the VMM as a value, and its causes are told apart.

Not every SIGBUS with BUS_MCEERR_AR is APEI that claimed an abort: KVM sends the same for a page that was offline before
the guest touched it (arch/arm64/kvm/mmu.c kvm_send_hwpoison_signal). Here a page is taken offline by madvise(2), so
that no hardware error is needed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestVA, HostVA
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.ras.retire import is_offline
from pytest_kvm_sea.ras.sigbus import BUS_MCEERR_AR
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.scenario import START_GVA, add_memory, populate

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.vmm.vm import Vm

GVA = GuestVA(START_GVA + 0x4B80)
pytestmark = pytest.mark.kvm_sea_distinct("kernel.page_size", "kernel.uapi", "kernel.sea_to_user", "cpu.ras", "process")


def take_offline(vm: Vm, hva: HostVA) -> None:
    try:
        vm.poison_page(hva)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("[memory-failure] the kernel has no MADV_HWPOISON; one with CONFIG_MEMORY_FAILURE")


@pytest.mark.kvm_sea_distinct("kernel.page_size", "kernel.uapi")
@pytest.mark.kvm_sea_requires("root", "pagemap-pfn")
@pytest.mark.parametrize("capability", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("kind", ["ldr-x", "str-x", "fetch"])
def test_page_that_is_offline(kvm_sea_vm: VmFactory, kvm_sea_host: Host, kind: str, capability: bool) -> None:
    """A guest that touches such a page gets nowhere; the VMM is told each time: code, page, size. No exit, no abort."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES[kind], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    if capability and vm.check_extension(vm.revision.cap_sea_to_user):
        vm.enable_sea_to_user()
    populate(vm, GVA)
    hva = vm.gva_to_hva(GVA)
    hpa = Pagemap(kvm_sea_host, vm.trace).translate(hva)
    assert not is_offline(kvm_sea_host, hpa)
    take_offline(vm, hva)
    assert is_offline(kvm_sea_host, hpa), "the kernel took the page, but does not say so"

    page = kvm_sea_host.page_size
    for _ in range(2):
        (signal,) = vcpu.expect_sigbus()
        assert signal.code == BUS_MCEERR_AR
        assert signal.address == hva // page * page
        assert 1 << signal.lsb == page
        assert vcpu.pc == (GVA if kind == "fetch" else vm.symbol("access"))
        assert vcpu.get_events().exception.serror_pending == 0


@pytest.mark.kvm_sea_requires("root")
def test_other_memory_goes_on(kvm_sea_vm: VmFactory) -> None:
    """One page offline leaves the rest of the guest alone, and pytest alive."""
    vm = kvm_sea_vm(guests.pages(GVA, GuestVA(GVA + 0x1_0000)))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    populate(vm, GVA)
    populate(vm, GuestVA(GVA + 0x1_0000))
    take_offline(vm, vm.gva_to_hva(GuestVA(GVA + 0x1_0000)))
    vcpu.expect_sync(1)
    assert len(vcpu.expect_sigbus()) == 1
