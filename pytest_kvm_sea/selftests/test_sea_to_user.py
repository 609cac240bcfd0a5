# SPDX-License-Identifier: GPL-2.0-only
"""sea_to_user: KVM exits to the VMM with a guest's external abort, and the VMM gives it back to the guest.

The port of tools/testing/selftests/kvm/arm64/sea_to_user.c. A recoverable memory error is injected by EINJ into memory
of the VM; the guest consumes it. Where the host's APEI does not claim the abort, KVM_RUN must return with
KVM_EXIT_ARM_SEA and a correct description, and an abort that the VMM injects must reach the guest's handler.

Not taken over from the original: the assertion that ESR.SET is 0 (UER). The field is RES0 without FEAT_RAS, and with
it a processor may report other states.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.scenario import (
    EINJ_GVA,
    GIB,
    NEEDS,
    SMALL,
    START_GVA,
    add_memory,
    break_memory,
    break_physical,
    check_addresses,
    check_backing,
    check_each_vcpu,
    check_exit,
    populate,
    replay,
    run_to_done,
    run_to_sea,
)
from pytest_kvm_sea.vmm.errors import GuestFailure

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.vmm.vm import Vm

GVA = GuestVA(START_GVA + 0x4B80)
WALK_GVA = GuestVA(32 << 39 | 32 << 30 | 32 << 21 | 32 << 12)
"""Its descriptors share a granule with no descriptor that the program needs, at any level."""
EXCEPTION = ("esr_el1", "far_el1", "elr_el1", "spsr_el1")
"""What the guest never changes before its first exception."""
UNTOUCHED = ("pstate", *EXCEPTION, "sp_el1", "x9", "x10", "x11")
needs = pytest.mark.kvm_sea_requires
INJECT_IABT = needs("inject-ext-iabt")
ONCE_PER_CORE = pytest.mark.kvm_sea_distinct(
    "kernel.uapi", "kernel.sea_to_user", "cpu.ras", "cpu.sea_far", "cpu.parity"
)
"""What is a matter of KVM and the core. What EINJ and firmware can lack is told by `test_sea_to_user` itself."""

ONCE_PER_EXIT = pytest.mark.kvm_sea_distinct("kernel.uapi", "cpu.sea_far")
"""Once for each way in which an exit can look. What a host can lack others tell."""
ONCE = pytest.mark.kvm_sea_distinct("process.kvm")
"""On the first platform only, since all of them may open /dev/kvm."""


def lacks_fnv(vm: Vm) -> bool:
    """Mainline never tells the guest that FAR_EL1 is garbage; the series does."""
    return vm.revision.name == "mainline"


@pytest.mark.kvm_sea_requires(*NEEDS)
@pytest.mark.parametrize(
    ("backing", "size", "gva"),
    [
        pytest.param(Backing.ANONYMOUS, GIB, EINJ_GVA, id="anonymous"),
        pytest.param(Backing.THP, SMALL, GVA, id="thp"),
        pytest.param(Backing.HUGETLB_2M, SMALL, GVA, id="hugetlb-2m", marks=needs("hugetlb-2m")),
        pytest.param(Backing.HUGETLB_1G, GIB, EINJ_GVA, id="hugetlb-1g", marks=needs("hugetlb-1g")),
    ],
)
def test_sea_to_user(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, backing: Backing, size: int, gva: GuestVA) -> None:
    """The original, from the first line to the last: memory of every kind at the top of the guest's memory."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], gva, check_fnv=True))
    (vcpu,) = vm.vcpus
    add_memory(vm, size=size, backing=backing)
    vm.enable_sea_to_user()
    populate(vm, gva)
    check_backing(vm, gva, backing)
    broken = break_memory(vm, kvm_sea_einj, gva)

    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken)

    replay(vcpu, sea, "events")
    with known_defect("mainline-fnv", when=lacks_fnv(vm) and not sea.far_valid, raises=GuestFailure):
        vcpu.expect_done()
    assert any(line.startswith("Guest SEA esr_el1=") for line in vm.console)


def consume(vm: Vm, einj: Einj, kind_name: str, *, el0: bool, way: str) -> None:
    """One access of one kind: exit, nothing changed, replay, and the guest's handler is content."""
    kind = ACCESSES[kind_name]
    (vcpu,) = vm.vcpus
    add_memory(vm, user=el0)
    vm.enable_sea_to_user()
    broken = break_memory(vm, einj, GuestVA(kind.address_near(GVA)))
    sea = run_to_sea(vcpu, broken, write=kind.is_write)
    check_exit(vcpu, sea, broken, write=kind.is_write, instruction=kind.is_fetch)
    assert vcpu.pc == (broken.gva if kind.is_fetch else vm.symbol("access"))
    replay(vcpu, sea, way)
    vcpu.expect_done()


def kinds(way: str) -> list[object]:
    """All kinds of access; a fetch needs an instruction abort, which not every revision can inject by events."""
    return [
        pytest.param(name, id=name, marks=[INJECT_IABT] if kind.is_fetch and way == "events" else [])
        for name, kind in ACCESSES.items()
    ]


@ONCE
@pytest.mark.kvm_sea_requires(*NEEDS)
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
@pytest.mark.parametrize("kind", kinds("events"))
def test_access(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, kind: str, el0: bool) -> None:
    """Every kind of access that can consume an error, at both exception levels, replayed by KVM_SET_VCPU_EVENTS."""
    gva = ACCESSES[kind].address_near(GVA)
    consume(kvm_sea_vm(guests.consumer(ACCESSES[kind], gva, el0=el0)), kvm_sea_einj, kind, el0=el0, way="events")


@ONCE_PER_EXIT
@pytest.mark.kvm_sea_requires(*NEEDS)
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
@pytest.mark.parametrize("kind", ["ldr-x", "stp", pytest.param("fetch", marks=INJECT_IABT)])
def test_replay_by_events(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, kind: str, el0: bool) -> None:
    """The same in every revision and on cores that do not track the address, for a few kinds of access."""
    gva = ACCESSES[kind].address_near(GVA)
    consume(kvm_sea_vm(guests.consumer(ACCESSES[kind], gva, el0=el0)), kvm_sea_einj, kind, el0=el0, way="events")


@ONCE_PER_EXIT
@pytest.mark.kvm_sea_requires(*NEEDS)
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
@pytest.mark.parametrize("kind", ["ldr-x", "str-x", "fetch"])
def test_replay_by_registers(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, kind: str, el0: bool) -> None:
    """The VMM takes the exception itself by KVM_SET_ONE_REG. That way the guest learns of FnV in every revision."""
    program = guests.consumer(ACCESSES[kind], GVA, el0=el0, check_fnv=True)
    consume(kvm_sea_vm(program), kvm_sea_einj, kind, el0=el0, way="one-reg")


@ONCE_PER_EXIT
@pytest.mark.kvm_sea_requires(*NEEDS)
def test_exit_changes_nothing(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """The exit leaves the guest's registers alone; running on without injecting brings the same exit again."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-post"], GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_memory(vm, kvm_sea_einj, GVA)
    before = vcpu.registers(*EXCEPTION)
    sea = run_to_sea(vcpu, broken)
    assert vcpu.registers(*EXCEPTION) == before
    state = vcpu.registers("pc", *UNTOUCHED)
    assert state["x9"] == GVA
    assert run_to_sea(vcpu, broken) == sea
    assert vcpu.registers("pc", *UNTOUCHED) == state
    assert vcpu.get_events().exception.serror_pending == 0


@ONCE_PER_EXIT
@pytest.mark.kvm_sea_requires(*NEEDS)
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_error_in_page_tables(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, level: int) -> None:
    """The error is in a table of the guest's stage 1: the status says at which level, and no GPA is given."""
    vm = kvm_sea_vm(guests.walker(WALK_GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm, gva=GuestVA(WALK_GVA // 0x20_0000 * 0x20_0000))
    vm.enable_sea_to_user()
    at, descriptor, _ = vm.page_tables.walk(WALK_GVA)[level]
    assert at == level
    populate(vm, WALK_GVA)
    broken = break_physical(vm, kvm_sea_einj, descriptor, WALK_GVA)
    sea = run_to_sea(vcpu, broken)
    assert syndromes.ec(sea.esr) == EC.DABT_LOWER
    assert syndromes.fsc(sea.esr) == syndromes.fsc_sea_walk(level)
    assert not sea.gpa_valid
    check_addresses(vcpu, sea, broken)
    replay(vcpu, sea, "events")
    vcpu.expect_done()


@ONCE_PER_EXIT
@pytest.mark.kvm_sea_requires(*NEEDS)
def test_two_vcpus_read_the_same_cell(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """Each vCPU gets an exit of its own, and each its own abort."""
    vm = kvm_sea_vm(guests.consumer(ACCESSES["ldr-x"], GVA), vcpus=2)
    add_memory(vm)
    vm.enable_sea_to_user()
    broken = break_memory(vm, kvm_sea_einj, GVA)
    check_each_vcpu(vm, broken)


@pytest.mark.kvm_sea_platforms("series-v1-parity")
@pytest.mark.kvm_sea_requires(*(need for need in NEEDS if need != "ras"))
@pytest.mark.parametrize("level", [None, 0, 1, 2, 3])
def test_parity(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, level: int | None) -> None:
    """Parity and ECC errors, on an access and on a walk. Only without FEAT_RAS, and mainline keeps those to itself."""
    vm = kvm_sea_vm(guests.walker(WALK_GVA))
    (vcpu,) = vm.vcpus
    add_memory(vm, gva=GuestVA(WALK_GVA // 0x20_0000 * 0x20_0000))
    vm.enable_sea_to_user()
    populate(vm, WALK_GVA)
    gpa = vm.gva_to_gpa(WALK_GVA) if level is None else vm.page_tables.walk(WALK_GVA)[level][1]
    broken = break_physical(vm, kvm_sea_einj, gpa, WALK_GVA)
    sea = run_to_sea(vcpu, broken)
    expected = syndromes.FSC_SEA_PARITY if level is None else syndromes.fsc_parity_walk(level)
    assert (syndromes.ec(sea.esr), syndromes.fsc(sea.esr)) == (EC.DABT_LOWER, expected)
    assert sea.gpa_valid is (level is None)
    check_addresses(vcpu, sea, broken)
    replay(vcpu, sea, "events")
    vcpu.expect_done()


@pytest.mark.kvm_sea_platforms("no-ras-parity")
@pytest.mark.kvm_sea_requires("einj-memory-uer", "einj-notrigger", "pagemap-pfn")
@pytest.mark.parametrize("enable", [False, True], ids=["off", "on"])
def test_without_ras_mainline_never_exits(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, enable: bool) -> None:
    """KVM cannot tell the guest's aborts from the host's there: an SError, whatever the VMM asked for."""
    vm = kvm_sea_vm(guests.reader(GVA))
    add_memory(vm)
    if enable:
        vm.enable_sea_to_user()
    run_to_done(vm.vcpus[0], break_memory(vm, kvm_sea_einj, GVA))


@ONCE_PER_CORE
@pytest.mark.kvm_sea_requires("ras", "einj-memory-uer", "einj-notrigger", "pagemap-pfn")
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
def test_capability_off(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, el0: bool) -> None:
    """Without the capability the guest gets an SError as before, whoever consumed the error: off is the default."""
    vm = kvm_sea_vm(guests.reader(GVA, el0=el0))
    (vcpu,) = vm.vcpus
    add_memory(vm, user=el0)
    broken = break_memory(vm, kvm_sea_einj, GVA)
    run_to_done(vcpu, broken)


@ONCE_PER_CORE
@pytest.mark.kvm_sea_requires(*NEEDS)
def test_capability_of_another_vm(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """Enabled on one VM it is off on all others."""
    kvm_sea_vm(vcpus=0).enable_sea_to_user()
    vm = kvm_sea_vm(guests.reader(GVA))
    add_memory(vm)
    run_to_done(vm.vcpus[0], break_memory(vm, kvm_sea_einj, GVA))


@ONCE_PER_CORE
def test_capability_is_what_it_says(kvm_sea_vm: VmFactory) -> None:
    """KVM_ENABLE_CAP takes the capability where KVM_CHECK_EXTENSION reports it, and is EINVAL elsewhere."""
    vm = kvm_sea_vm(vcpus=0)
    capability = vm.revision.cap_sea_to_user
    if vm.check_extension(capability):
        vm.enable_cap(capability)
        return
    with pytest.raises(OSError, match="Invalid argument"):
        vm.enable_cap(capability)


@pytest.mark.kvm_sea_requires("sea-to-user")
def test_capability(kvm_sea_vm: VmFactory) -> None:
    """KVM_CHECK_EXTENSION on the VM, KVM_ENABLE_CAP: any time, any number of times, with no flags."""
    vm = kvm_sea_vm(vcpus=0)
    capability = vm.revision.cap_sea_to_user
    assert vm.check_extension(capability) == 1
    with pytest.raises(OSError, match="Invalid argument") as caught:
        vm.enable_cap(capability, flags=1)
    assert caught.value.errno == errno.EINVAL
    vm.enable_cap(capability)
    vm.add_vcpu()
    vm.enable_cap(capability)
    vm.enable_cap(capability, args=(1,))
