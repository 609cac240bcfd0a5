# SPDX-License-Identifier: GPL-2.0-only
"""A real external abort without EINJ: the firmware breaks a stage-2 table, and the guest's access fails on its walk.

Hardware takes a failed fetch of a stage-2 descriptor to EL2 whatever HCR_EL2.TEA says, so that KVM exits even where the
emulated processor gives other external aborts of the guest to the guest (docs/firmware.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.ras.firmware import FirmwareError
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.scenario import (
    DATA,
    SMALL,
    START_GVA,
    add_memory,
    break_table,
    check_each_vcpu,
    check_exit,
    replay,
    run_to_sea,
)
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.vmm.errors import GuestFailure

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.ras.firmware import Firmware

GVA = GuestVA(START_GVA + 0x4B80)
EXCEPTION = ("esr_el1", "far_el1", "elr_el1", "spsr_el1")
"""What the guest never changes before its first exception."""
UNTOUCHED = ("pc", "pstate", *EXCEPTION, "sp_el1", "x9", "x10", "x11")

pytestmark = [
    pytest.mark.kvm_sea_requires("sea-to-user", "ras", "inject-ext-dabt", "pagemap-pfn", "firmware-stage2"),
    # Neither EINJ nor how the core tracks addresses plays a part in an error of stage 2's own tables.
    pytest.mark.kvm_sea_distinct("kernel.uapi"),
]


@pytest.mark.parametrize("way", ["events", "one-reg"])
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
@pytest.mark.parametrize("kind", ["ldr-x", "str-x", "stp"])
def test_access(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware, kind: str, el0: bool, way: str) -> None:
    """Exit, replay, and the guest ends gracefully: loads and stores, both exception levels, both ways to replay."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES[kind], GVA, el0=el0))
    (vcpu,) = vm.vcpus
    add_memory(vm, user=el0)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken, write=ACCESSES[kind].is_write)
    assert vcpu.pc == vm.symbol("access")
    replay(vcpu, sea, way)
    vcpu.expect_done()


@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
def test_fetch(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware, el0: bool) -> None:
    """The fetch of an instruction; only by registers can every revision replay it."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["fetch"], GVA, el0=el0))
    (vcpu,) = vm.vcpus
    add_memory(vm, user=el0)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken, instruction=True)
    assert vcpu.pc == GVA
    replay(vcpu, sea, "one-reg")
    vcpu.expect_done()


def test_exit_changes_nothing(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware) -> None:
    """The exit leaves the guest's registers alone; running on without injecting brings the same exit again."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-post"], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    before = vcpu.registers(*EXCEPTION)
    sea = run_to_sea(vcpu, broken)
    assert vcpu.registers(*EXCEPTION) == before
    state = vcpu.registers(*UNTOUCHED)
    assert state["x9"] == GVA
    for _ in range(3):
        assert run_to_sea(vcpu, broken) == sea
        assert vcpu.registers(*UNTOUCHED) == state
    assert vcpu.get_events().exception.serror_pending == 0


def test_repaired_memory_is_as_it_was(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware) -> None:
    """Nothing but a table was broken: once it is repaired, the access that exited goes through and finds its data."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    run_to_sea(vcpu, broken)
    kvm_sea_firmware.repair_all()
    assert kvm_sea_firmware.broken == []
    with pytest.raises(GuestFailure, match=f"data={DATA:#x}"):
        vcpu.resume()


def test_two_vcpus_run_into_the_same_table(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware) -> None:
    """Each vCPU gets an exit of its own, and each its own abort."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], GVA), vcpus=2)
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    check_each_vcpu(vm, broken)


@pytest.mark.kvm_sea_requires("firmware-ghes")
def test_apei_claims(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware, kvm_sea_host: Host) -> None:
    """Where the firmware has a record for APEI, the host's kernel deals with the abort: no exit, SIGBUS, a skip.

    The record names a page of the VMM that no stage-2 table maps: to take away one that a table does, the kernel walks
    the table, and nothing makes it wait until the firmware has repaired that.
    """
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_table(vm, kvm_sea_firmware, GVA)
    (table,) = kvm_sea_firmware.broken
    named = kvm_sea_host.map_memory(kvm_sea_host.page_size)
    named.view[0] = 1
    told = replace(broken, hva=named.address, hpa=Pagemap(kvm_sea_host).translate(named.address))
    kvm_sea_firmware.record(table, told.hpa)
    with pytest.raises(pytest.skip.Exception, match=r"^\[apei-claims\] .*BUS_MCEERR_AR"):
        run_to_sea(vcpu, told)
    assert vcpu.exit_reason == kvm.Exit.INTR, "the signal ends KVM_RUN, and nothing else does"


def test_memory_that_no_guest_has_touched_is_refused(
    kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware, kvm_sea_pagemap: Pagemap
) -> None:
    """Without a table there is nothing to break, and the firmware says so rather than guess."""
    vm = kvm_sea_vm()
    region = vm.add_memory(GuestPA(0x4000_0000), SMALL)
    region.memory.view[0] = 1
    with pytest.raises(FirmwareError, match="the guest must touch that page first"):
        kvm_sea_firmware.break_table(kvm_sea_pagemap.translate(region.memory.address))
    with pytest.raises(FirmwareError, match="nothing is broken under the id 99999"):
        kvm_sea_firmware.ask("repair", id=99999)
    with pytest.raises(FirmwareError, match="unknown operation 'melt'"):
        kvm_sea_firmware.ask("melt")
