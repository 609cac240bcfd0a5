# SPDX-License-Identifier: GPL-2.0-only
"""Memslots, as far as a VMM depends on them that takes a bad page out of its guest's reach.

virt/kvm/kvm_main.c kvm_set_memory_region. What a hole is good for is test_vmm_reactions'.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.selftests.guests_survivor import survivor
from pytest_kvm_sea.selftests.scenario import SMALL, START_GVA, add_memory
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.structures import UserspaceMemoryRegion
from pytest_kvm_sea.vmm.exits import MmioExit
from pytest_kvm_sea.vmm.protection import MemslotSplit

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.vmm.vm import Vm

PAGE = 0x1_0000
"""The largest page that a host has."""
HOLE = GuestVA(START_GVA + 4 * PAGE)
FREE = -4 * SMALL
"""From the memory to where there is none."""
AROUND = (GuestVA(HOLE - 8), GuestVA(HOLE + PAGE), GuestVA(START_GVA), GuestVA(START_GVA + SMALL - 8))
"""Below the hole and above it, and the ends of the memory."""

pytestmark = pytest.mark.kvm_sea_distinct("kernel.page_size")


def populated(vm: Vm, *addresses: GuestVA) -> None:
    """Memory in which each of these addresses has its own number for data."""
    add_memory(vm)
    for address in addresses:
        vm.write_u64(address, address)


def expect_mmio(vm: Vm, address: GuestVA) -> None:
    """The guest's load finds no memory."""
    mmio = vm.vcpus[0].expect(MmioExit)
    assert (mmio.address, mmio.is_write) == (vm.gva_to_gpa(address), False)


def test_deleted_slot(kvm_sea_vm: VmFactory) -> None:
    """What the guest could read is gone from stage 2 when the ioctl returns."""
    vm = kvm_sea_vm(survivor((HOLE, HOLE)))
    populated(vm, HOLE)
    vm.vcpus[0].expect_sync(1)
    region = vm.memory.regions[-1]
    vm.drop_region(region)
    expect_mmio(vm, HOLE)
    region.memory.close()


def test_hole(kvm_sea_vm: VmFactory) -> None:
    """A page that is left out between two slots is missing, and nothing around it moves."""
    last = GuestVA(HOLE + PAGE - 8)
    vm = kvm_sea_vm(survivor((*AROUND, HOLE, last)))
    (vcpu,) = vm.vcpus
    populated(vm, *AROUND)
    split = MemslotSplit(vm)
    for page in range(0, PAGE, vm.host.page_size):
        split.protect(GuestPA(vm.gva_to_gpa(HOLE) + page))
    for number, address in enumerate(AROUND, start=1):
        vcpu.expect_sync(number)
        assert vm.get_global("data") == address
    expect_mmio(vm, HOLE)
    vcpu.expect_sync(len(AROUND) + 1)
    expect_mmio(vm, last)


REFUSED = {
    "overlap": ({"slot": 1, "guest_phys_addr": PAGE}, errno.EEXIST),
    "alignment": ({"slot": 1, "guest_phys_addr": FREE + 0x800}, errno.EINVAL),
    "flags": ({"slot": 1, "guest_phys_addr": FREE, "flags": 1 << 31}, errno.EINVAL),
    "nothing": ({"slot": 1, "guest_phys_addr": FREE, "memory_size": -SMALL}, errno.EINVAL),
    "size": ({"memory_size": -PAGE}, errno.EINVAL),
    "address": ({"userspace_addr": PAGE}, errno.EINVAL),
    "read-only": ({"flags": kvm.KVM_MEM_READONLY}, errno.EINVAL),
}
"""How the request differs from the slot that the guest uses, and the errno."""


@pytest.mark.parametrize(("differs", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(kvm_sea_vm: VmFactory, differs: dict[str, int], code: int) -> None:
    """Overlaps, what is not aligned, unknown flags, changes of a slot that is in use; and nothing has changed."""
    vm = kvm_sea_vm(survivor((HOLE,)))
    (vcpu,) = vm.vcpus
    populated(vm, HOLE)
    region = vm.memory.regions[-1]
    slot = UserspaceMemoryRegion(region.slot, 0, region.base, region.size, region.memory.address)
    for name, difference in differs.items():
        setattr(slot, name, getattr(slot, name) + difference)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        vm.file.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, slot)
    assert caught.value.errno == code
    vcpu.expect_sync(1)
    assert vm.get_global("data") == HOLE
