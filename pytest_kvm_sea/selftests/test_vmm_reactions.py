# SPDX-License-Identifier: GPL-2.0-only
"""What a VMM does with KVM_EXIT_ARM_SEA, by the reference in `vmm.memory_errors`, and the mistakes that it can make."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.guest.ucall import Ucall, UcallCommand
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.selftests.delivery import deliver
from pytest_kvm_sea.selftests.guests_survivor import survivor
from pytest_kvm_sea.selftests.scenario import (
    DATA,
    NEEDS,
    START_GVA,
    Broken,
    add_memory,
    break_memory,
    populate,
    run_to_sea,
)
from pytest_kvm_sea.vmm.exits import MemoryFaultExit, MmioExit, NisvExit, SeaExit
from pytest_kvm_sea.vmm.memory_errors import Decision, MemoryErrors
from pytest_kvm_sea.vmm.protection import MemslotSplit, UserfaultBitmap

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.vmm.vcpu import Vcpu
    from pytest_kvm_sea.vmm.vm import Vm

PAGE = 0x1_0000
"""A step that no two addresses share a page with, whatever the host's page size."""
FIRST = GuestVA(START_GVA + 4 * PAGE)
SECOND = GuestVA(FIRST + PAGE)
NEIGHBOUR = GuestVA(FIRST + 0x100)
"""In the page of the first, and not broken."""

NO_PAGE = "[sea-page] nobody tells the page of the error; a host whose cores track the address of an SEA"

pytestmark = [
    pytest.mark.kvm_sea_requires(*NEEDS),
    pytest.mark.kvm_sea_distinct("kernel.uapi", "kernel.page_size", "kernel.userfault", "cpu.sea_far"),
]


def prepare(kvm_sea_vm: VmFactory, einj: Einj, reads: tuple[int, ...], *broken: GuestVA, fetch: bool = False) -> Vm:
    """A guest that reads these addresses, of which some are broken, on a VM that gets the exits."""
    if einj.broken_table_level is not None and len(broken) > 1:
        pytest.skip(
            "[einj-cell] EINJ breaks a table for a whole block here, so there are no two errors to tell apart; "
            "a server with real errors, or --kvm-sea-host sim"
        )
    vm = kvm_sea_vm(survivor(reads, fetch=NEIGHBOUR if fetch else None))
    add_memory(vm)
    vm.enable_sea_to_user()
    for address in {*reads, NEIGHBOUR}:
        populate(vm, GuestVA(address))
    for address in broken:
        break_memory(vm, einj, address)
    return vm


def run(vcpu: Vcpu, errors: MemoryErrors) -> list[str]:
    """Run to the end with the policy; what happened, a word each."""
    story: list[str] = []
    while True:
        result = vcpu.resume()
        if isinstance(result, Ucall):
            if result.cmd is UcallCommand.DONE:
                return story
            story.append(f"past {result.stage}")
        elif isinstance(result, SeaExit):
            decision = errors.handle(vcpu, result)
            story.append(decision.value)
            if decision is Decision.RESTART:
                return story
        elif isinstance(result, MmioExit | NisvExit | MemoryFaultExit):
            assert errors.refuse(vcpu, result), f"not an access to a protected page: {result}"
            story.append("refused")
        else:
            pytest.fail(f"unexpected: {result}")


def page_of(vm: Vm, gva: GuestVA) -> GuestPA:
    size = vm.host.page_size
    return GuestPA(vm.gva_to_gpa(gva) // size * size)


def test_log_for_the_customer(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """Every error is written down: when, which vCPU, where as far as anybody knows, and what was done."""
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST,), FIRST)
    errors = MemoryErrors(vm, clock=lambda: 1234.5)
    assert run(vm.vcpus[0], errors) == ["replayed", "past 1"]
    (entry,) = errors.log
    assert (entry.time, entry.vcpu, entry.instruction, entry.decision) == (1234.5, 0, False, Decision.REPLAYED)
    assert entry.gva in (FIRST, None)
    assert entry.page in (page_of(vm, FIRST), None)
    if entry.gva is not None and entry.page is not None:
        assert str(entry) == (
            f"memory error in page {entry.page:#x}, guest virtual {FIRST:#x}: data access of vCPU 0; replayed"
        )
    assert vm.get_global("aborts") == 1


def test_distinct_pages_are_counted(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """One page that is read three times is one bad page; another is a second, and beyond the limit the VM must go."""
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST, FIRST, NEIGHBOUR, SECOND), FIRST, SECOND)
    (vcpu,) = vm.vcpus
    errors = MemoryErrors(vm, limit=1)
    story = run(vcpu, errors)
    if errors.log[0].page is None:
        pytest.skip(NO_PAGE)
    assert story == ["replayed", "past 1", "replayed", "past 2", "past 3", "restart"]
    assert [entry.page for entry in errors.log] == [page_of(vm, FIRST)] * 2 + [page_of(vm, SECOND)]
    assert errors.bad_pages == 2
    assert vm.get_global("aborts") == 2
    # Nothing was injected: the same exit would come again, here or on the host that the VM moves to.
    again = vcpu.resume()
    assert isinstance(again, SeaExit)
    assert errors.handle(vcpu, again) is Decision.RESTART


def test_a_protected_page_is_not_consumed_again(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """After the first error its page is out of stage 2: no error is consumed any more, and the guest hears of it."""
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST, FIRST, NEIGHBOUR, SECOND), FIRST, fetch=True)
    (vcpu,) = vm.vcpus
    before = len(vm.memory.regions)
    errors = MemoryErrors(vm, protection=MemslotSplit(vm))
    story = run(vcpu, errors)
    if errors.log[0].page is None:
        pytest.skip(NO_PAGE)
    # The fetch gets its abort from KVM itself, so nothing is heard of it here.
    assert story == ["replayed", "past 1", "refused", "past 2", "refused", "past 3", "past 4", "past 5"]
    assert len(errors.log) == 1
    assert vm.get_global("aborts") == 4
    assert syndromes.ec(vm.get_global("esr")) == EC.IABT_CURRENT
    assert vm.get_global("far") == NEIGHBOUR
    assert vm.get_global("data") == DATA, "the rest of the memory is as it was"
    assert len(vm.memory.regions) == before + 1


@pytest.mark.kvm_sea_requires("userfault")
@pytest.mark.kvm_sea_distinct("kernel.userfault")
def test_a_page_protected_by_userfault(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """With KVM userfault no memslot is split: every access to the page, a fetch too, is an exit that tells its page."""
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST, FIRST, NEIGHBOUR, SECOND), FIRST)
    regions = list(vm.memory.regions)
    protection = UserfaultBitmap(vm)
    errors = MemoryErrors(vm, protection=protection)
    assert run(vm.vcpus[0], errors) == ["replayed", "past 1", "refused", "past 2", "refused", "past 3", "past 4"]
    assert vm.get_global("aborts") == 3
    assert vm.get_global("data") == DATA
    assert vm.memory.regions == regions
    protection.close()


def test_aborts_injected_twice(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """A VMM that injects twice for one exit destroys what the guest needs to go on: the second comes out of the vector.

    Where an injection is only marked until KVM_RUN, there is one mark, and the guest sees one abort.
    """
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST,), FIRST)
    (vcpu,) = vm.vcpus
    run_to_sea(vcpu, broken_at(vm, FIRST))
    access, vector = vcpu.pc, vcpu.get_reg("vbar_el1") + 0x200
    vcpu.inject_data_abort()
    at_once = vcpu.pc != access
    vcpu.inject_data_abort()
    deliver(vcpu)
    assert vcpu.pc == vector
    assert vcpu.get_reg("elr_el1") == (vector if at_once else access)
    assert vcpu.get_reg("spsr_el1") & 0xF == 5


def test_an_abort_of_the_wrong_class(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """KVM injects what it is asked for: an instruction abort for a load is one to the guest, which looks at the wrong
    address for it. Nobody but the VMM can know better.
    """
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST,), FIRST)
    if vm.revision.cap_inject_ext_iabt is None:
        pytest.skip(
            f"[inject-ext-iabt] the revision {vm.revision.name} cannot inject an instruction abort by "
            "KVM_SET_VCPU_EVENTS; a kernel with the series, and --kvm-sea-uapi series-v1"
        )
    (vcpu,) = vm.vcpus
    run_to_sea(vcpu, broken_at(vm, FIRST))
    access = vcpu.pc
    vcpu.inject_instruction_abort()
    deliver(vcpu)
    assert syndromes.ec(vcpu.get_reg("esr_el1")) == EC.IABT_CURRENT
    assert vcpu.get_reg("elr_el1") == access


def test_from_another_thread(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """A vCPU's ioctls may come from any thread while it does not run: the abort arrives all the same."""
    vm = prepare(kvm_sea_vm, kvm_sea_einj, (FIRST,), FIRST)
    (vcpu,) = vm.vcpus
    run_to_sea(vcpu, broken_at(vm, FIRST))
    thread = threading.Thread(target=vcpu.inject_data_abort)
    thread.start()
    thread.join()
    vcpu.expect_sync(1)
    vcpu.expect_done()
    assert vm.get_global("aborts") == 1


def broken_at(vm: Vm, gva: GuestVA) -> Broken:
    """What `run_to_sea` wants to know of an error that is there already."""
    hva = vm.gva_to_hva(gva)
    return Broken(gva, vm.gva_to_gpa(gva), hva, Pagemap(vm.host).translate(hva))
