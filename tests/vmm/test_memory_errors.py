# SPDX-License-Identifier: GPL-2.0-only
"""What the reference of a VMM makes of exits, beyond what the selftests show."""

from __future__ import annotations

import errno

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_bundled
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.exits import MmioExit, SeaExit
from pytest_kvm_sea.vmm.memory_errors import Decision, MemoryErrors
from pytest_kvm_sea.vmm.protection import MemslotSplit, UserfaultBitmap
from pytest_kvm_sea.vmm.vm import Vm

BASE = GuestPA(0x8000_0000)
PAGES = 4
PAGE = 0x1000


def guest_code(g: Guest) -> None:
    g.done()


@pytest.fixture
def vm() -> Vm:
    host = SimHost(load_bundled("ampereone"))
    vm = Vm(host)
    vm.load(GuestProgram.build(guest_code))
    vm.add_memory(BASE, PAGES * PAGE)
    vm.map(GuestVA(BASE), BASE, PAGES)
    for page in range(PAGES):
        vm.write_u64(GuestVA(BASE + page * PAGE), page)
    vm.add_vcpu()
    return vm


def sea(gva: int | None, gpa: int | None, status: int = syndromes.FSC_SEA) -> SeaExit:
    return SeaExit(
        esr=syndromes.syndrome(EC.DABT_LOWER, status) | (0 if gva is not None else syndromes.FNV),
        flags=0,
        gva=GuestVA(gva or 0),
        gpa=GuestPA(gpa or 0),
        gva_valid=gva is not None,
        gpa_valid=gpa is not None,
    )


@pytest.mark.parametrize(
    ("exits", "distinct"),
    [
        pytest.param([(BASE, BASE), (BASE + 64, BASE)], 1, id="one page"),
        pytest.param([(BASE, BASE), (BASE + PAGE, BASE + PAGE)], 2, id="two pages"),
        pytest.param([(BASE + 8, None), (BASE + 64, BASE)], 1, id="the page tables tell what KVM did not"),
        pytest.param([(0x123_0000, None), (0x123_0000, None)], 1, id="not mapped: by its virtual address"),
        pytest.param([(None, None), (None, None)], 2, id="nothing known: each counts"),
    ],
)
def test_distinct_pages(vm: Vm, exits: list[tuple[int | None, int | None]], distinct: int) -> None:
    errors = MemoryErrors(vm)
    for gva, gpa in exits:
        errors.handle(vm.vcpus[0], sea(gva, gpa))
    assert errors.bad_pages == distinct
    assert len(errors.log) == len(exits)


def test_an_abort_on_a_walk_says_nothing_of_the_page_it_leads_to(vm: Vm) -> None:
    errors = MemoryErrors(vm, protection=MemslotSplit(vm))
    errors.handle(vm.vcpus[0], sea(BASE, None, syndromes.fsc_sea_walk(3)))
    assert errors.log[0].page is None
    assert "an unknown page" in str(errors.log[0])
    assert vm.memory.region(BASE).size == PAGES * PAGE


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_beyond_the_limit_nothing_is_injected(vm: Vm, limit: int) -> None:
    errors = MemoryErrors(vm, limit=limit)
    (vcpu,) = vm.vcpus
    for number in range(limit):
        assert errors.handle(vcpu, sea(None, BASE + number * PAGE)) is Decision.REPLAYED
    before = vcpu.registers("pc", "esr_el1", "elr_el1")
    assert errors.handle(vcpu, sea(None, BASE + limit * PAGE)) is Decision.RESTART
    assert vcpu.registers("pc", "esr_el1", "elr_el1") == before


@pytest.mark.parametrize("page", range(PAGES))
def test_a_split_leaves_all_but_the_page(vm: Vm, page: int) -> None:
    split = MemslotSplit(vm)
    bad = GuestPA(BASE + page * PAGE)
    split.protect(bad)
    assert split.is_protected(bad)
    for other in range(PAGES):
        address = GuestPA(BASE + other * PAGE)
        inside = [region for region in vm.memory.regions if region.base <= address < region.end]
        assert len(inside) == (0 if other == page else 1)
        if inside:
            assert vm.memory.read_u64(address) == other, "the memory is the same, not a copy"
    assert len({region.slot for region in vm.memory.regions}) == len(vm.memory.regions)


def test_every_page_can_go(vm: Vm) -> None:
    split = MemslotSplit(vm)
    for page in (2, 0, 3, 1):
        split.protect(GuestPA(BASE + page * PAGE))
    assert not [region for region in vm.memory.regions if region.base >= BASE]


def test_other_mmio_is_not_refused(vm: Vm) -> None:
    errors = MemoryErrors(vm, protection=MemslotSplit(vm))
    assert not errors.refuse(vm.vcpus[0], MmioExit(GuestPA(0x900_0000), 8, False, bytes(8)))
    assert not MemoryErrors(vm).refuse(vm.vcpus[0], MmioExit(BASE, 8, False, bytes(8)))


def test_userfault_on_a_kernel_without_it(vm: Vm) -> None:
    protection = UserfaultBitmap(vm)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        protection.protect(BASE)
    assert caught.value.errno == errno.EINVAL
    assert not protection.is_protected(BASE)
    assert vm.memory.read_u64(GuestPA(BASE + PAGE)) == 1
