# SPDX-License-Identifier: GPL-2.0-only
"""Where an error can be, beyond the plain access of `test_sea_to_user`: across a boundary, in a read-only slot, in what
the guest needs to deal with it, and under its own page tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.guest.ucall import FORMAT_ARGS_OFFSET
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.delivery import deliver
from pytest_kvm_sea.selftests.guests_survivor import survivor, talker
from pytest_kvm_sea.selftests.scenario import (
    DATA,
    GRANULE,
    NEEDS,
    SMALL,
    START_GVA,
    Broken,
    add_memory,
    break_memory,
    break_physical,
    check_addresses,
    highest,
    populate,
    replay,
    run_to_done,
    run_to_sea,
    warm_up,
)
from pytest_kvm_sea.vmm.exits import MmioExit, SeaExit

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.ras.firmware import Firmware
    from pytest_kvm_sea.vmm.vm import Vm

GVA = GuestVA(START_GVA + 0x1_4B80)
PAGE_END = GuestVA(START_GVA + 0x2_0000)
WALK_GVA = GuestVA(32 << 39 | 32 << 30 | 32 << 21 | 32 << 12)
"""No descriptor on the way to it is one that the program needs."""
NEEDS_EINJ = pytest.mark.kvm_sea_requires(*NEEDS)

pytestmark = pytest.mark.kvm_sea_distinct("kernel.uapi", "cpu.sea_far")


@NEEDS_EINJ
@pytest.mark.parametrize("boundary", [GVA, PAGE_END], ids=["granule", "page"])
@pytest.mark.parametrize("broken_half", ["first", "second"])
def test_access_across_a_boundary(
    kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, boundary: GuestVA, broken_half: str
) -> None:
    """A load of 8 bytes of which half are broken is one abort. FAR is the access, or its first broken byte."""
    access = GuestVA(boundary - 4)
    cell = boundary if broken_half == "second" else GuestVA(boundary - GRANULE)
    vm = kvm_sea_vm(survivor((access,)))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    for address in (boundary, GuestVA(boundary - GRANULE)):
        populate(vm, address)
    broken = break_memory(vm, kvm_sea_einj, cell)
    sea = run_to_sea(vcpu, broken)
    allowed = {access, boundary} if broken_half == "second" else {access}
    assert sea.gva in (allowed if sea.gva_valid else {0})
    if sea.gpa_valid:
        # HPFAR_EL2 and FAR_EL2 are of one access to memory.
        assert sea.gpa in {vm.gva_to_gpa(address) // PAGE_SIZE * PAGE_SIZE for address in allowed}
    replay(vcpu, sea, "events")
    vcpu.expect_sync(1)
    vcpu.expect_done()
    assert vm.get_global("aborts") == 1


@NEEDS_EINJ
def test_read_only_slot(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """A read consumes the error; a store to a read-only slot never gets at memory, and is an MMIO exit."""
    vm = kvm_sea_vm(survivor((GVA,), store=GVA))
    (vcpu,) = vm.vcpus
    base = highest(vm, SMALL)
    vm.add_memory(base, SMALL, readonly=True)
    vm.map(START_GVA, base, SMALL // PAGE_SIZE)
    vm.enable_sea_to_user()
    broken = break_memory(vm, kvm_sea_einj, GVA)
    sea = run_to_sea(vcpu, broken)
    check_addresses(vcpu, sea, broken)
    replay(vcpu, sea, "events")
    vcpu.expect_sync(1)
    if broken.walk_level is not None:
        return  # it is a stage-2 table that is broken, which the store has to get past first
    store = vcpu.expect(MmioExit)
    assert (store.address, store.size, store.is_write) == (broken.gpa, 8, True)
    vcpu.expect_done()


@NEEDS_EINJ
def test_error_in_the_vectors(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """A guest whose vectors are broken cannot be told of anything: each replay ends in the fetch of its vector.

    The VMM sees the same page again and again, and must not go on for ever.
    """
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_memory(vm, kvm_sea_einj, GVA)
    vector = GuestVA(vcpu.get_reg("vbar_el1") + 0x200)
    break_physical(vm, kvm_sea_einj, vm.gva_to_gpa(vector), vector)
    sea = run_to_sea(vcpu, broken)
    replay(vcpu, sea, "events")
    for _ in range(3):
        again = vcpu.resume()
        assert isinstance(again, SeaExit)
        assert syndromes.ec(again.esr) == EC.IABT_LOWER
        assert vcpu.pc == vector
        assert again.gva == (vector if again.gva_valid else 0)
        replay(vcpu, again, "one-reg")
        assert vcpu.pc == vector, "an exception from EL1 with SP_EL1 goes where the last one went"


@NEEDS_EINJ
def test_error_in_a_ucall(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """What the guest talks with is broken: its store into the ucall structure aborts before the VMM ever hears of it.

    The VMM must not look there either: its own access would cost it its life.
    """
    vm = kvm_sea_vm(talker())
    (vcpu,) = vm.vcpus
    vm.enable_sea_to_user()
    mmio = vcpu.run()
    assert isinstance(mmio, MmioExit)
    argument = GuestVA(int.from_bytes(mmio.data, "little") + FORMAT_ARGS_OFFSET)
    vcpu.expect_sync(1)
    broken = break_physical(vm, kvm_sea_einj, vm.gva_to_gpa(argument), argument)
    sea = vcpu.run()
    if isinstance(sea, MmioExit):
        pytest.skip("[store-abort] the processor lets a store to poisoned memory through; nothing to get: it may do so")
    assert isinstance(sea, SeaExit)
    assert sea.esr & syndromes.WNR
    check_addresses(vcpu, sea, broken)
    replay(vcpu, sea, "events")
    deliver(vcpu)
    assert vcpu.pc == vcpu.get_reg("vbar_el1") + 0x200


def tables_in_a_slot_of_their_own(vm: Vm) -> GuestPA:
    """Put the level-3 table for WALK_GVA into a memslot of its own, as the second page; where it is."""
    base = highest(vm, SMALL)
    vm.add_memory(base, SMALL)
    table = GuestPA(base + vm.host.page_size)
    _, entry, _ = vm.page_tables.walk(WALK_GVA)[2]
    _, _, leaf = vm.page_tables.walk(WALK_GVA)[3]
    vm.memory.write_u64(entry, descriptors.table(table))
    vm.memory.write_u64(GuestPA(table + descriptors.index(WALK_GVA, 3) * 8), leaf)
    vm.memory.write_u64(base, DATA)
    return table


@pytest.mark.kvm_sea_requires("sea-to-user", "ras", "firmware-stage2", "pagemap-pfn")
def test_who_owns_an_error_under_a_page_table(kvm_sea_vm: VmFactory, kvm_sea_firmware: Firmware) -> None:
    """The walk of stage 1 needs a stage-2 table that is broken: the host's memory, and nothing that a VMM could replay.

    ESR_EL2.S1PTW tells it. Mainline keeps it to itself and the guest gets an SError; the series lets it out.
    """
    vm = kvm_sea_vm(guests.reader(WALK_GVA))
    (vcpu,) = vm.vcpus
    vm.map(WALK_GVA, GuestPA(0), 1)
    table = tables_in_a_slot_of_their_own(vm)
    neighbour = GuestPA(table - vm.host.page_size)
    vm.map(GuestVA(START_GVA), neighbour, 1)
    vm.enable_sea_to_user()
    warm_up(vm, GuestVA(START_GVA))
    broken_table = kvm_sea_firmware.break_table(Pagemap(vm.host).translate(vm.memory.hva(neighbour)))
    hva = vm.memory.hva(table)
    broken = Broken(WALK_GVA, table, hva, Pagemap(vm.host).translate(hva), walk_level=broken_table.level)
    if vm.revision.name == "series-v1":
        sea = run_to_sea(vcpu, broken)
        assert sea.esr & syndromes.S1PTW
        assert syndromes.fsc(sea.esr) == syndromes.fsc_sea_walk(broken_table.level)
        return
    run_to_done(vcpu, broken)
