# SPDX-License-Identifier: GPL-2.0-only
"""The VMM's page tables, read by the processor: the CPU's own table walk is the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.sim.kvm.vcpu import Vcpu as SimVcpu
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError, VmmError
from pytest_kvm_sea.vmm.vm import Vm

BASE = GuestPA(0x8000_0000)
SIZE = 0x80_0000
pages = st.integers(0, SIZE // PAGE_SIZE - 1)


def walked_by_cpu(vm: Vm, gva: int, *, write: bool = False, el0: bool = False) -> int | None:
    """What AT S1E1R and its siblings give."""
    sim = vm.host.adopt(3 + 1)
    assert isinstance(sim, SimVcpu)
    sim.cpu.invalidate_tlb()
    ipa, _ = sim.cpu.translate(gva, write=write, el0=el0)
    return ipa


@pytest.fixture
def vm(make_vm: Callable[..., Vm]) -> Vm:
    made = make_vm()
    made.add_vcpu()
    made.add_memory(BASE, SIZE)
    return made


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, (1 << 36) - 1), pages, st.integers(0, PAGE_SIZE - 1))
def test_processor_and_vmm_agree(vm: Vm, page: int, target: int, offset: int) -> None:
    gva = GuestVA(page * PAGE_SIZE)
    vm.map(gva, GuestPA(BASE + target * PAGE_SIZE), 1)
    assert vm.gva_to_gpa(GuestVA(gva + offset)) == BASE + target * PAGE_SIZE + offset
    assert walked_by_cpu(vm, gva + offset) == BASE + target * PAGE_SIZE + offset


@pytest.mark.parametrize("gva", [0x8000_0000, 0x8000_0000 - 0x20_0000, 0xFFFF_FF80_0000, 0x40_0000_0000 - 0x40_0000])
def test_large_mappings_are_the_sum_of_small_ones(make_vm: Callable[..., Vm], gva: int) -> None:
    """Whole level-3 tables at once, over a border of a level-2 table and a rest that is none."""
    vm = make_vm()
    vm.add_vcpu()
    count = 512 * 20 + 3
    limit = (1 << 48) - count * PAGE_SIZE
    gva = min(gva, limit // 0x20_0000 * 0x20_0000)
    vm.map(GuestVA(gva), GuestPA(0x100_0000_0000 - count * PAGE_SIZE), count)
    for number in (0, 1, 511, 512, 512 * 17 - 1, count - 4, count - 1):
        expected = 0x100_0000_0000 - count * PAGE_SIZE + number * PAGE_SIZE
        assert vm.gva_to_gpa(GuestVA(gva + number * PAGE_SIZE)) == expected
        assert walked_by_cpu(vm, gva + number * PAGE_SIZE) == expected
    with pytest.raises(GuestMemoryAccessError):
        vm.gva_to_gpa(GuestVA(gva - 1))


@pytest.mark.parametrize(
    ("user", "writable", "el0", "write", "allowed"),
    [
        (False, True, False, True, True),
        (False, True, True, False, False),
        (False, False, False, False, True),
        (False, False, False, True, False),
        (True, True, True, True, True),
        (True, False, True, False, True),
        (True, False, True, True, False),
    ],
)
def test_permissions(vm: Vm, user: bool, writable: bool, el0: bool, write: bool, allowed: bool) -> None:
    vm.map(GuestVA(0x9000_0000), BASE, 1, user=user, writable=writable)
    assert (walked_by_cpu(vm, 0x9000_0000, write=write, el0=el0) == BASE) is allowed


def test_mapping_again_replaces(vm: Vm) -> None:
    vm.map(GuestVA(0x9000_0000), BASE, 1)
    vm.map(GuestVA(0x9000_0000), GuestPA(BASE + PAGE_SIZE), 1)
    assert vm.gva_to_gpa(GuestVA(0x9000_0000)) == BASE + PAGE_SIZE


def test_what_cannot_be_mapped(vm: Vm) -> None:
    with pytest.raises(VmmError, match="multiples of 0x1000"):
        vm.map(GuestVA(0x9000_0008), BASE, 1)
    with pytest.raises(VmmError, match="48 bits"):
        vm.map(GuestVA(1 << 48), BASE, 1)
    for number in range(80):
        vm.map(GuestVA(number << 30), BASE, 1)
    with pytest.raises(VmmError, match="no room for 65536 more page tables"):
        vm.page_tables.map(GuestVA(1 << 46), BASE, 1 << 25)


def test_read_and_write_cross_pages(vm: Vm) -> None:
    """Neighbours in virtual memory that are none in physical memory."""
    vm.map(GuestVA(0x9000_0000), GuestPA(BASE + 5 * PAGE_SIZE), 1)
    vm.map(GuestVA(0x9000_1000), GuestPA(BASE + 2 * PAGE_SIZE), 1)
    vm.write(GuestVA(0x9000_0FFD), b"abcdef")
    assert vm.read(GuestVA(0x9000_0FFD), 6) == b"abcdef"
    assert bytes(vm.memory.view(GuestPA(BASE + 6 * PAGE_SIZE - 3), 3)) == b"abc"
    assert bytes(vm.memory.view(GuestPA(BASE + 2 * PAGE_SIZE), 3)) == b"def"
    with pytest.raises(GuestMemoryAccessError, match="0x90002000 is not mapped"):
        vm.read(GuestVA(0x9000_1FFF), 2)


def test_physical_addresses_are_checked(vm: Vm) -> None:
    with pytest.raises(GuestMemoryAccessError, match=r"\[0x80800000, 0x80800008\) is not inside.*slot 1 \[0x80000000"):
        vm.memory.read_u64(GuestPA(BASE + SIZE))
    with pytest.raises(GuestMemoryAccessError):
        vm.memory.hva(GuestPA(BASE + SIZE - 4), 8)


def test_memory_that_kvm_refuses_is_given_back(vm: Vm) -> None:
    before = len(vm.memory.regions)
    with pytest.raises(OSError, match="File exists"):
        vm.add_memory(BASE, PAGE_SIZE)
    assert len(vm.memory.regions) == before
