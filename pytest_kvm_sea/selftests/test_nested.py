# SPDX-License-Identifier: GPL-2.0-only
"""A guest that is a hypervisor: to which level an abort or SError goes, and what is told there.

A vCPU at a virtual EL2 gets its aborts there, and so does its user space under HCR_EL2.TGE. What hits the hypervisor's
own guest, L2, is that guest's, unless HCR_EL2.TEA or AMO says that it is the hypervisor's (Arm ARM D1.3.6;
arch/arm64/kvm/inject_fault.c kvm_sea_target_is_el2, kvm_serror_target_is_el2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC, FNV, IL
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.guest.layout import PAGE as PAGE_SIZE
from pytest_kvm_sea.guest.ucall import UcallCommand
from pytest_kvm_sea.guest.vectors import Vector
from pytest_kvm_sea.selftests.delivery import deliver, enters_at_once
from pytest_kvm_sea.selftests.guests_nested import (
    CONTEXTS,
    DAIF,
    HCR_AMO,
    HCR_E2H,
    HCR_RW,
    HCR_TEA,
    HCR_TGE,
    HCR_VM,
    PLACES,
    RECORD,
    THERE,
    Place,
    hypervisor,
)
from pytest_kvm_sea.selftests.scenario import START_GVA, add_memory, break_memory, check_exit, replay, run_to_sea

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.vmm.vcpu import Vcpu

GVA = GuestVA(START_GVA + 0x4B80)
WAYS = pytest.mark.parametrize("way", ["events", "one-reg"])
ROUTES = [
    *(pytest.param(PLACES[name], 0, id=f"{name}-own") for name in PLACES),
    *(pytest.param(PLACES[name], HCR_TEA, id=f"{name}-tea") for name in ("l2-el1", "l2-el0")),
]
SYNDROME = 0x1_D1ED
IPA_BITS, BLOCK_SHIFT = 40, 30
BLOCK = 1 << BLOCK_SHIFT
STAGE2, STAGE2_SIZE = GuestPA(2 * BLOCK), 8 << IPA_BITS - BLOCK_SHIFT
"""Where the hypervisor's tables for its guest lie: one table of the first level, made of blocks of 1 GiB."""
S2_BLOCK = 1 << 10 | 3 << 8 | 3 << 6 | 0xF << 2 | 1
"""A block of stage 2: access flag, inner shareable, to be read and written, write-back."""
VTCR = 1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | (64 - IPA_BITS)
"""VTCR_EL2: 40 bits out and in, write-back walks, two tables of level 1 side by side."""
ELSEWHERE = 3 * BLOCK
VALUE = 0x5EA_0_F_0_5EA
pytestmark = [
    pytest.mark.kvm_sea_requires("virtual-el2"),
    pytest.mark.kvm_sea_distinct("kernel.immediate_injection", "cpu.nested"),
]


class Found(NamedTuple):
    """What the handler recorded; `guests_nested.RECORD`."""

    level: int
    vector: int
    esr: int
    far: int
    elr: int
    spsr: int
    hpfar: int
    context: int


def there(kvm_sea_vm: VmFactory, place: Place, *, hcr: int = 0, masked: bool = True) -> Vcpu:
    """A vCPU that has got to its place, with memory to read."""
    vm = kvm_sea_vm(hypervisor(place, GVA), el2=True)
    add_memory(vm, user=place.el0)
    (vcpu,) = vm.vcpus
    prepare(vcpu, place, hcr=hcr, masked=masked)
    vcpu.expect_sync(THERE)
    return vcpu


def prepare(vcpu: Vcpu, place: Place, *, hcr: int = 0, masked: bool = True) -> None:
    """Tell the guest HCR_EL2, bits besides what its place needs, and PSTATE.DAIF; and give L2 a stack of its own."""
    vcpu.vm.set_global("hcr", HCR_RW | HCR_E2H | hcr | (0 if place.l2 else HCR_TGE))
    vcpu.vm.set_global("daif", DAIF if masked else 0)
    assert vcpu.vm.program is not None
    vcpu.set_reg("sp_el1", vcpu.vm.program.stack_top - 0x1000)


def spare_the_host(vcpu: Vcpu) -> None:
    """Linux 7.3.4 does not survive an event that is the hypervisor's: kvm_inject_nested changes the context of a vCPU
    that is loaded nowhere, because KVM_SET_VCPU_EVENTS does not load it (an Oops in kvm_vcpu_put_hw_mmu)."""
    if vcpu.vm.host.name != "sim":
        pytest.skip(
            "[nested-oops] KVM_SET_VCPU_EVENTS with an exception of L2 that HCR_EL2 gives to the guest hypervisor is "
            "an Oops of the host's kernel (7.3.4, kvm_inject_nested); --kvm-sea-host sim"
        )


def found(vcpu: Vcpu) -> Found:
    """Run the guest to its end."""
    vcpu.expect_done()
    return Found(*(vcpu.vm.get_global(name) for name in RECORD))


def check_taken(seen: Found, place: Place, *, to_el2: bool, instruction: bool = False, serror: bool = False) -> None:
    """Level, vector, class, and the state that was interrupted."""
    assert seen.level == (2 if to_el2 else 1), f"the exception was taken to EL{seen.level}"
    assert seen.context == CONTEXTS[seen.level], "the registers are those of another level"
    lower = place.el0 or (place.l2 and to_el2)
    if serror:
        assert seen.vector == (Vector.ERROR_LOWER_64 if lower else Vector.ERROR_CURRENT)
        expected = EC.SERROR
    else:
        assert seen.vector == (Vector.SYNC_LOWER_64 if lower else Vector.SYNC_CURRENT)
        current, from_lower = (EC.IABT_CURRENT, EC.IABT_LOWER) if instruction else (EC.DABT_CURRENT, EC.DABT_LOWER)
        expected = from_lower if lower else current
        assert seen.esr & syndromes.FSC_MASK == syndromes.FSC_SEA
    assert seen.esr >> syndromes.EC_SHIFT == expected
    assert seen.spsr & 0xF == place.mode


@pytest.mark.kvm_sea_platforms("nested", "nested-series-v1")
@WAYS
@pytest.mark.parametrize(("place", "hcr"), ROUTES[: len(PLACES)])
def test_sea(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, place: Place, hcr: int, way: str) -> None:
    """A broken cell under each of the four: the exit is the same; the replayed abort goes to the level that owns it.

    Its syndrome says FnV where the VMM wrote it, and by KVM_SET_VCPU_EVENTS where the series does.
    """
    vm = kvm_sea_vm(hypervisor(place, GVA), el2=True)
    (vcpu,) = vm.vcpus
    add_memory(vm, user=place.el0)
    vm.enable_sea_to_user()
    prepare(vcpu, place, hcr=hcr)
    broken = break_memory(vm, kvm_sea_einj, GVA)
    vcpu.expect_sync(THERE)
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken)
    assert vcpu.pc == vm.symbol("access")
    replay(vcpu, sea, way)
    seen = found(vcpu)
    check_taken(seen, place, to_el2=not place.l2)
    assert seen.elr == vm.symbol("access")
    if way == "one-reg" or sea.far_valid:
        assert seen.far == sea.gva
    with known_defect("mainline-fnv", when=way == "events" and vm.revision.name == "mainline" and not sea.far_valid):
        assert bool(seen.esr & FNV) != sea.far_valid


@pytest.mark.parametrize(
    "instruction",
    [
        pytest.param(False, id="data"),
        pytest.param(True, id="instruction", marks=pytest.mark.kvm_sea_requires("inject-ext-iabt")),
    ],
)
@pytest.mark.parametrize(("place", "hcr"), ROUTES)
def test_abort(kvm_sea_vm: VmFactory, place: Place, hcr: int, instruction: bool) -> None:
    """An abort from outside, of both classes; HCR_EL2.TEA gives that of L2 to the hypervisor."""
    vcpu = there(kvm_sea_vm, place, hcr=hcr)
    to_el2 = not place.l2 or bool(hcr & HCR_TEA)
    if place.l2 and to_el2:
        spare_the_host(vcpu)
    before = vcpu.pc
    if instruction:
        vcpu.inject_instruction_abort()
    else:
        vcpu.inject_data_abort()
    seen = found(vcpu)
    with known_defect("nested-routing", when=place.l2 and to_el2 and not enters_at_once(vcpu)):
        check_taken(seen, place, to_el2=to_el2, instruction=instruction)
    assert seen.esr & IL
    assert seen.elr == before


@pytest.mark.kvm_sea_requires("serror-esr")
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("place", "hcr"),
    [
        *(pytest.param(PLACES[name], 0, id=f"{name}-own") for name in PLACES),
        *(pytest.param(PLACES[name], HCR_AMO, id=f"{name}-amo") for name in ("l2-el1", "l2-el0")),
    ],
)
def test_serror(kvm_sea_vm: VmFactory, place: Place, hcr: int, masked: bool) -> None:
    """HCR_EL2.AMO gives L2's SErrors to the hypervisor, whatever L2 masks; a level masks only its own."""
    vcpu = there(kvm_sea_vm, place, hcr=hcr, masked=masked)
    to_el2 = not place.l2 or bool(hcr & HCR_AMO)
    if place.l2 and to_el2:
        spare_the_host(vcpu)
    waits = masked and not (place.l2 and to_el2)
    vcpu.inject_serror(SYNDROME)
    assert bool(vcpu.get_events().exception.serror_pending) == (waits or not enters_at_once(vcpu))
    ucall = vcpu.next_ucall() if waits else None
    with known_defect("nested-routing", when=place.l2 and to_el2 and not enters_at_once(vcpu)):
        if ucall is not None:
            assert ucall.cmd is UcallCommand.ABORT, "a masked SError was taken"
            return
        seen = found(vcpu)
        check_taken(seen, place, to_el2=to_el2, serror=True)
        assert seen.esr & syndromes.ISS_MASK == SYNDROME


def test_registers(kvm_sea_vm: VmFactory) -> None:
    """While the hypervisor runs, the registers of EL1 are still its guest's: each level has its own."""
    vcpu = there(kvm_sea_vm, PLACES["el2"])
    assert vcpu.get_reg("pstate") & 0xF == PLACES["el2"].mode
    own = vcpu.registers("vbar_el2", "ttbr0_el2", "tcr_el2", "sctlr_el2")
    for number, name in enumerate(("vbar", "ttbr0", "esr", "far", "elr", "spsr", "sp"), 1):
        vcpu.set_reg(f"{name}_el1", number << 12)
    assert vcpu.registers("vbar_el2", "ttbr0_el2", "tcr_el2", "sctlr_el2") == own
    vcpu.inject_data_abort()
    deliver(vcpu)
    assert vcpu.get_reg("esr_el2") >> syndromes.EC_SHIFT == EC.DABT_CURRENT
    for number, name in enumerate(("vbar", "ttbr0", "esr", "far", "elr", "spsr", "sp"), 1):
        assert vcpu.get_reg(f"{name}_el1") == number << 12, name


def test_stacks(kvm_sea_vm: VmFactory) -> None:
    """L2's kernel has the stack that its hypervisor gave it, and leaves the hypervisor's alone."""
    vcpu = there(kvm_sea_vm, PLACES["l2-el1"])
    assert vcpu.vm.program is not None
    top = vcpu.vm.program.stack_top
    stacks = vcpu.registers("sp_el1", "sp_el2")
    assert top - 0x2000 < stacks["sp_el1"] <= top - 0x1000
    assert top - 0x1000 < stacks["sp_el2"] <= top


@pytest.mark.parametrize("el0", [False, True], ids=["l2-el1", "l2-el0"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
def test_behind_the_hypervisors_stage_2(kvm_sea_vm: VmFactory, mapped: bool, el0: bool) -> None:
    """L2 reads through the hypervisor's own stage 2, or the hypervisor gets the fault, and the address in HPFAR_EL2."""
    place = PLACES["l2-el0" if el0 else "l2-el1"]
    vm = kvm_sea_vm(hypervisor(place, GVA), el2=True)
    (vcpu,) = vm.vcpus
    add_memory(vm, user=el0)
    prepare(vcpu, place, hcr=HCR_VM)
    vm.add_memory(STAGE2, STAGE2_SIZE)
    seen_as = vm.gva_to_gpa(GVA)
    blocks = [number * BLOCK | S2_BLOCK for number in range(1 << IPA_BITS - BLOCK_SHIFT)]
    blocks[seen_as >> BLOCK_SHIFT] = ELSEWHERE | S2_BLOCK if mapped else 0
    for number, block in enumerate(blocks):
        vm.memory.write_u64(GuestPA(STAGE2 + 8 * number), block)
    vm.set_global("vttbr", STAGE2)
    vm.set_global("vtcr", VTCR)
    cell = GuestPA(ELSEWHERE + seen_as % BLOCK)
    vm.add_memory(GuestPA(cell // PAGE_SIZE * PAGE_SIZE), PAGE_SIZE)
    vm.memory.write_u64(cell, VALUE)

    vcpu.expect_sync(THERE)
    if mapped:
        assert vcpu.next_ucall().cmd is UcallCommand.ABORT
        assert vm.get_global("data") == VALUE
        return
    seen = found(vcpu)
    assert (seen.level, seen.vector, seen.spsr & 0xF) == (2, Vector.SYNC_LOWER_64, place.mode)
    assert seen.esr >> syndromes.EC_SHIFT == EC.DABT_LOWER
    assert seen.esr & syndromes.FSC_MASK == syndromes.FSC_TRANSLATION + 1
    assert seen.hpfar >> 4 & (1 << 40) - 1 == seen_as >> 12, "HPFAR_EL2.FIPA"
    assert (seen.far, seen.elr) == (GVA, vm.symbol("access"))


@pytest.mark.kvm_sea_requires("inject-ext-dabt")
def test_hypercall(kvm_sea_vm: VmFactory) -> None:
    """The HVC of L2 is the hypervisor's, with its number, and returns behind the instruction."""
    vm = kvm_sea_vm(hypervisor(PLACES["l2-el1"], GVA, call=0x5EA), el2=True)
    (vcpu,) = vm.vcpus
    prepare(vcpu, PLACES["l2-el1"])
    vcpu.expect_sync(THERE)
    seen = found(vcpu)
    assert (seen.level, seen.vector) == (2, Vector.SYNC_LOWER_64)
    assert seen.esr == syndromes.syndrome(EC.HVC64, 0x5EA)
    assert seen.elr == vm.symbol("there") + 4
