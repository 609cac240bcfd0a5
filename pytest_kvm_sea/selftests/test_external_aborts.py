# SPDX-License-Identifier: GPL-2.0-only
"""external_aborts: aborts and SErrors that a VMM injects, and those that KVM makes by itself.

The port of tools/testing/selftests/kvm/arm64/external_aborts.c. No memory is broken here: a guest accesses addresses
without memory, and the VMM answers with an external abort; or the VMM injects an SError.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.arm64.esr import EC, IDS
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.selftests import guests_external as guests
from pytest_kvm_sea.selftests.delivery import WITHOUT_MEMORY_ERRORS, State, deliver, has_ras, kernel_version
from pytest_kvm_sea.selftests.guests_external import MMIO, NMEA, STORED
from pytest_kvm_sea.selftests.guests_nested import THERE, serror_at_el2
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.vmm.errors import RunError
from pytest_kvm_sea.vmm.exits import MmioExit, NisvExit

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.guest.access import AccessKind
    from pytest_kvm_sea.vmm.vcpu import Vcpu
    from pytest_kvm_sea.vmm.vm import Vm

pytestmark = [
    pytest.mark.kvm_sea_requires("inject-ext-dabt"),
    WITHOUT_MEMORY_ERRORS,
]

SERROR_ISS = IDS | 0x1_D1ED
"""The original's: implementation defined, and recognisable."""
WALK_GVA = GuestVA(32 << 39 | 32 << 30 | 32 << 21 | 32 << 12)
"""No descriptor on the way to it is one that the program needs."""
BEYOND = GuestVA(1 << 40)
"""One past the 40 bits of the VM."""
IPS = 7 << 32
"""TCR_EL1.IPS: stage 1 gives out all addresses that the processor has."""
ANSWER = 0x1122_3344_5566_7788
"""What the VMM has ready for a load that must not be completed."""
DOUBLE_FAULT = pytest.mark.kvm_sea_distinct("cpu.ease")
LEVELS = pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])


def map_mmio(vm: Vm, *, user: bool = False) -> Vcpu:
    """Map the page without memory; the VM's only vCPU."""
    vm.map(MMIO, GuestPA(MMIO), 1, user=user)
    (vcpu,) = vm.vcpus
    return vcpu


def run_to_mmio(vcpu: Vcpu, kind: AccessKind) -> MmioExit:
    """Run to the access, which must be an MMIO exit that describes it, with an answer ready for a load."""
    mmio = vcpu.expect(MmioExit)
    assert (mmio.address, mmio.size, mmio.is_write) == (GuestPA(MMIO), kind.size, kind.is_write)
    assert vcpu.pc == vcpu.vm.symbol("access")
    if kind.is_write:
        assert mmio.data == STORED.to_bytes(8, "little")[: kind.size]
    else:
        vcpu.answer_mmio(ANSWER.to_bytes(8, "little"))
    return mmio


def abort_and_check(vcpu: Vcpu, far: int = MMIO, *, ease: bool = False) -> None:
    """Inject a data abort: entered in full, and the access that it is for has left no trace. The guest agrees."""
    before, data = State.of(vcpu), vcpu.registers("x9", "x10", "x11")
    vcpu.inject_data_abort()
    deliver(vcpu)
    assert State.of(vcpu) == before.after_abort(vcpu, far, ease=ease)
    assert vcpu.registers("x9", "x10", "x11") == data
    vcpu.expect_done()


@LEVELS
@pytest.mark.parametrize("kind", ["ldr-x", "str-w"])
def test_mmio_abort(kvm_sea_vm: VmFactory, kind: str, el0: bool) -> None:
    """An MMIO for which the VMM injects an abort is not completed, whatever the VMM left in kvm_run."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio(ACCESSES[kind], el0=el0)), user=el0)
    run_to_mmio(vcpu, ACCESSES[kind])
    abort_and_check(vcpu)


def test_mmio_completes_without_abort(kvm_sea_vm: VmFactory) -> None:
    """The positive control: the same exit, and no abort."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio_answered(ACCESSES["ldr-x"])))
    run_to_mmio(vcpu, ACCESSES["ldr-x"])
    vcpu.expect_done()
    assert vcpu.vm.get_global("value") == ANSWER


@pytest.mark.parametrize("kind", ["ldr-post", "stp"])
def test_mmio_nisv(kvm_sea_vm: VmFactory, kind: str) -> None:
    """An MMIO whose syndrome says too little is ENOSYS where the VMM did not ask for it, and changes nothing."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio(ACCESSES[kind])))
    before = None
    for _ in range(2):
        with pytest.raises(RunError, match="ENOSYS") as caught:
            vcpu.resume()
        assert caught.value.errno == errno.ENOSYS
        assert vcpu.pc == vcpu.vm.symbol("access")
        assert before in (None, State.of(vcpu))
        before = State.of(vcpu)


@pytest.mark.kvm_sea_requires("nisv-to-user")
@pytest.mark.parametrize(
    ("kind", "el0"), [pytest.param("ldr-post", False, id="ldr-post-el1"), pytest.param("stp", True, id="stp-el0")]
)
def test_mmio_nisv_abort(kvm_sea_vm: VmFactory, kind: str, el0: bool) -> None:
    """With the capability it is an exit, and the abort that the VMM injects reaches the guest."""
    vm = kvm_sea_vm(guests.mmio(ACCESSES[kind], MMIO + 0x18, el0=el0))
    vcpu = map_mmio(vm, user=el0)
    vm.enable_cap(kvm.KVM_CAP_ARM_NISV_TO_USER)
    nisv = vcpu.expect(NisvExit)
    assert nisv.fault_ipa == MMIO + 0x18
    level = syndromes.fsc(nisv.esr_iss) - syndromes.FSC_TRANSLATION
    assert 0 <= level <= 3, f"esr_iss {nisv.esr_iss:#x} is no translation fault"
    assert nisv.esr_iss & ~syndromes.FSC_MASK == (syndromes.WNR if ACCESSES[kind].is_write else 0)
    abort_and_check(vcpu, MMIO + 0x18)


def expect_iss(vcpu: Vcpu, syndrome: int | None) -> None:
    """Have the guest compare the syndrome of its SError, where the architecture fixes it: with FEAT_RAS."""
    vcpu.vm.set_global("iss", IDS if syndrome is None else syndrome)
    vcpu.vm.set_global("check_iss", int(has_ras(vcpu)))


SYNDROMES = pytest.mark.parametrize(
    "syndrome",
    [
        pytest.param(None, id="no-esr"),
        pytest.param(SERROR_ISS, id="esr", marks=pytest.mark.kvm_sea_requires("serror-esr")),
    ],
)


@SYNDROMES
@pytest.mark.parametrize("unmask", [True, False], ids=["unmasked", "masked"])
def test_serror(kvm_sea_vm: VmFactory, unmask: bool, syndrome: int | None) -> None:
    """An SError that is masked when it is injected pends (ISR_EL1.A) until the guest unmasks it, and no longer."""
    (vcpu,) = kvm_sea_vm(guests.serror_pending(unmask=unmask)).vcpus
    before = State.of(vcpu)
    expect_iss(vcpu, syndrome)
    vcpu.inject_serror(syndrome)
    deliver(vcpu)
    assert State.of(vcpu) == before
    vcpu.expect_done()
    assert vcpu.get_events().exception.serror_pending == int(not unmask)


@SYNDROMES
@LEVELS
def test_serror_emulated(kvm_sea_vm: VmFactory, el0: bool, syndrome: int | None) -> None:
    """An SError that is not masked is taken at the instruction at which the vCPU stopped.

    KVM enters it by software (since 6.17), or leaves it to the hardware: the guest cannot tell.
    """
    (vcpu,) = kvm_sea_vm(guests.serror_unmasked(el0=el0)).vcpus
    vcpu.expect_sync(1)
    inject_unmasked(vcpu, syndrome)


def inject_unmasked(vcpu: Vcpu, syndrome: int | None, *, by_software: bool = False) -> None:
    """Inject an SError that the vCPU takes at once, in one of the two ways, and let the guest check it."""
    before = State.of(vcpu)
    expect_iss(vcpu, syndrome)
    vcpu.inject_serror(syndrome)
    if vcpu.get_events().exception.serror_pending:
        assert not by_software, "the SError was left to the hardware"
        assert State.of(vcpu) == before
    else:
        assert State.of(vcpu) == before.after_serror(vcpu, IDS if syndrome is None else syndrome)
    vcpu.expect_done()
    assert vcpu.get_events().exception.serror_pending == 0


@DOUBLE_FAULT
@LEVELS
@pytest.mark.kvm_sea_requires("double-fault2")
def test_mmio_ease(kvm_sea_vm: VmFactory, el0: bool) -> None:
    """With SCTLR2_EL1.EASE the abort arrives at the vector of SErrors; its syndrome and address are as without."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio(ACCESSES["ldr-x"], el0=el0, ease=True)), user=el0)
    run_to_mmio(vcpu, ACCESSES["ldr-x"])
    abort_and_check(vcpu, ease=True)


@DOUBLE_FAULT
@SYNDROMES
@pytest.mark.kvm_sea_requires("double-fault2")
def test_serror_nmea(kvm_sea_vm: VmFactory, syndrome: int | None) -> None:
    """With SCTLR2_EL1.NMEA a mask does not hold an SError back. Kernels that know the register enter it by software."""
    (vcpu,) = kvm_sea_vm(guests.serror_unmasked(sctlr2=NMEA)).vcpus
    vcpu.expect_sync(1)
    inject_unmasked(vcpu, syndrome, by_software=True)


@pytest.mark.parametrize(
    ("kind", "level", "el0"),
    [
        pytest.param("ldr-x", 1, False, id="ldr-x-level1-el1"),
        pytest.param("ldr-x", 2, False, id="ldr-x-level2-el1"),
        pytest.param("ldr-x", 3, False, id="ldr-x-level3-el1"),
        pytest.param("stp", 3, True, id="stp-level3-el0"),
        pytest.param("fetch", 3, False, id="fetch-level3-el1"),
    ],
)
def test_s1ptw_abort(kvm_sea_vm: VmFactory, kind: str, level: int, el0: bool) -> None:
    """A table of the guest's stage 1 lies where there is no memory: KVM tells the guest, and at which level."""
    access = ACCESSES[kind]
    vm = kvm_sea_vm(guests.mmio(access, WALK_GVA, el0=el0))
    (vcpu,) = vm.vcpus
    vm.map(WALK_GVA, GuestPA(MMIO), 1, user=el0)
    _, entry, _ = vm.page_tables.walk(WALK_GVA)[level - 1]
    vm.memory.write_u64(entry, descriptors.table(vm.max_gpa - PAGE_SIZE))
    vcpu.expect_done()
    status = syndromes.fsc(vcpu.get_reg("esr_el1"))
    with known_defect("walk-level-not-told", when=kernel_version(vcpu) < (7, 0)):
        assert status == syndromes.fsc_sea_walk(level)


def test_fetch_without_memory(kvm_sea_vm: VmFactory) -> None:
    """Code where there is no memory is no MMIO: KVM answers with an instruction abort, and no exit."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio(ACCESSES["fetch"])))
    vcpu.expect_done()
    assert vcpu.get_reg("esr_el1") == syndromes.syndrome(EC.IABT_CURRENT, syndromes.FSC_SEA)


def test_beyond_the_ipa_space(kvm_sea_vm: VmFactory) -> None:
    """An address that the VM cannot have is an external abort, where the host could have it. KVM gives the guest its
    guest physical address in FAR_EL1, which is the virtual one here.
    """
    vm = kvm_sea_vm(guests.mmio(ACCESSES["ldr-x"], BEYOND))
    (vcpu,) = vm.vcpus
    host = vm.check_extension(kvm.KVM_CAP_ARM_VM_IPA_SIZE)
    if not vm.max_gpa <= BEYOND < 1 << host:
        pytest.skip(
            f"[ipa-space] the host has {host} bits of guest physical addresses, the VM as many; a host with more"
        )
    vcpu.set_reg("tcr_el1", vcpu.get_reg("tcr_el1") | IPS)
    vm.map(BEYOND, GuestPA(BEYOND), 1)
    vcpu.expect_done()
    assert vcpu.get_reg("esr_el1") == syndromes.syndrome(EC.DABT_CURRENT, syndromes.FSC_SEA)


def test_masked_serror_lets_mmio_complete(kvm_sea_vm: VmFactory) -> None:
    """Only an exception that is entered voids an MMIO; an SError that waits does not."""
    vcpu = map_mmio(kvm_sea_vm(guests.mmio_answered(ACCESSES["ldr-x"])))
    run_to_mmio(vcpu, ACCESSES["ldr-x"])
    vcpu.inject_serror()
    vcpu.expect_done()
    assert vcpu.vm.get_global("value") == ANSWER
    assert vcpu.get_events().exception.serror_pending == 1


def test_unmasked_serror_and_mmio(kvm_sea_vm: VmFactory) -> None:
    """An SError that KVM enters voids the MMIO, which is made again; one that hardware takes comes after it."""
    vm = kvm_sea_vm(guests.mmio_after_serror())
    vcpu = map_mmio(vm)
    run_to_mmio(vcpu, ACCESSES["ldr-x"])
    vcpu.inject_serror()
    entered = not vcpu.get_events().exception.serror_pending
    if entered:
        run_to_mmio(vcpu, ACCESSES["ldr-x"])
    vcpu.expect_done()
    assert vm.get_global("serror_pc") == vm.symbol("access") + (0 if entered else 4)
    assert vm.get_global("value") == ANSWER


@pytest.mark.kvm_sea_distinct("kernel.immediate_injection", "cpu.nested")
@pytest.mark.kvm_sea_requires("virtual-el2")
def test_serror_amo(kvm_sea_vm: VmFactory) -> None:
    """At EL2 with HCR_EL2.TGE and AMO clear an SError pends while it is masked, and is taken when it is not.

    With E2H an implementation may take AMO as 1 there (Arm ARM, D22105), and KVM does.
    """
    (vcpu,) = kvm_sea_vm(serror_at_el2(), el2=True).vcpus
    vcpu.expect_sync(THERE)
    vcpu.inject_serror()
    assert vcpu.get_events().exception.serror_pending == 1
    vcpu.expect_done()
    assert vcpu.get_events().exception.serror_pending == 0
