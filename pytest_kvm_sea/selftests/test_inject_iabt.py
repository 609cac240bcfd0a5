# SPDX-License-Identifier: GPL-2.0-only
"""inject_iabt: the VMM injects an external instruction abort into a guest, without a real one.

The port of inject_iabt.c of the seed. ext_iabt_pending exists in the series only; elsewhere the VMM can still take the
exception by registers, and the byte must be refused.

Not taken over from the original: the assertion that the guest sees FnV. KVM copies FnV from the vCPU's last trap, and
a vCPU that never ran has none: ESR_EL1 is 0x84000010 there (the second version of the series dropped the assertion).
The original never noticed, because its loop ends at the guest's first printf.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC, IL
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.delivery import WITHOUT_MEMORY_ERRORS, kernel_version
from pytest_kvm_sea.vmm.injection import write_abort

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.vmm.vcpu import Vcpu

pytestmark = WITHOUT_MEMORY_ERRORS
STATE = ("pc", "pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1")
SERROR, DABT, IABT = 0, 2, 3
"""Offsets in struct kvm_vcpu_events; byte 3 is ext_iabt_pending, or padding."""
FIRST_PAD, LAST_PAD, SIZE = 4, 7, 64
INJECT_IABT = pytest.mark.kvm_sea_requires("inject-ext-iabt")
WAYS = (pytest.param("events", marks=INJECT_IABT), "one-reg")


def inject(vcpu: Vcpu, way: str) -> None:
    """An instruction abort, by KVM_SET_VCPU_EVENTS or by registers."""
    if way == "events":
        vcpu.inject_instruction_abort()
    else:
        write_abort(vcpu, GuestVA(0), instruction=True)


def set_bytes(vcpu: Vcpu, bytes_at: dict[int, int]) -> None:
    """KVM_SET_VCPU_EVENTS with single bytes of the structure set, by offset."""
    data = bytearray(ctypes.sizeof(vcpu.vm.revision.vcpu_events))
    for offset, value in bytes_at.items():
        data[offset] = value
    vcpu.set_events(vcpu.vm.revision.vcpu_events.from_buffer_copy(data))


def refused(vcpu: Vcpu, *wrong: dict[int, int]) -> None:
    """KVM_SET_VCPU_EVENTS gives EINVAL for each, and the guest is as it was."""
    before = vcpu.registers(*STATE)
    for bytes_at in wrong:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            set_bytes(vcpu, bytes_at)
        assert caught.value.errno == errno.EINVAL, f"bytes {bytes_at}"
        assert vcpu.pc == before["pc"], f"bytes {bytes_at}"
    assert vcpu.registers(*STATE) == before
    assert vcpu.get_events().exception.serror_pending == 0


@pytest.mark.kvm_sea_requires("inject-ext-iabt")
def test_inject_iabt(kvm_sea_vm: VmFactory) -> None:
    """The original: both kinds of abort at once are refused, one instruction abort reaches the guest's handler."""
    (vcpu,) = kvm_sea_vm(guests.idle()).vcpus
    refused(vcpu, {DABT: 1, IABT: 1})
    vcpu.inject_instruction_abort()
    vcpu.expect_done()
    assert any(line.startswith("Guest SEA esr_el1=") for line in vcpu.vm.console)


@pytest.mark.parametrize("way", WAYS)
def test_before_the_first_run(kvm_sea_vm: VmFactory, way: str) -> None:
    """The state that the guest's handler finds: where it was, what it was, an address of 0, no FnV."""
    (vcpu,) = kvm_sea_vm(guests.idle()).vcpus
    before = vcpu.registers("pc", "pstate")
    inject(vcpu, way)
    vcpu.expect_done()
    assert vcpu.registers("elr_el1", "spsr_el1", "far_el1") == {
        "elr_el1": before["pc"],
        "spsr_el1": before["pstate"],
        "far_el1": 0,
    }
    assert vcpu.get_reg("esr_el1") & ~IL == EC.IABT_CURRENT << syndromes.EC_SHIFT | syndromes.FSC_SEA
    assert vcpu.get_events().exception.serror_pending == 0


@pytest.mark.parametrize("way", WAYS)
def test_at_el0(kvm_sea_vm: VmFactory, way: str) -> None:
    """An abort into guest user space arrives as one from a lower exception level."""
    (vcpu,) = kvm_sea_vm(guests.stopped_at_el0()).vcpus
    vcpu.expect_sync(1)
    inject(vcpu, way)
    vcpu.expect_done()


@pytest.mark.kvm_sea_requires("inject-ext-dabt")
@pytest.mark.parametrize("el0", [False, True], ids=["el1", "el0"])
def test_data_abort_is_still_a_data_abort(kvm_sea_vm: VmFactory, el0: bool) -> None:
    """The positive control for the new byte beside it."""
    program = guests.stopped_at_el0(instruction=False) if el0 else guests.idle(instruction=False)
    (vcpu,) = kvm_sea_vm(program).vcpus
    if el0:
        vcpu.expect_sync(1)
    vcpu.inject_data_abort()
    vcpu.expect_done()


@pytest.mark.parametrize(
    "way", [*WAYS, pytest.param("ext-dabt", marks=pytest.mark.kvm_sea_requires("inject-ext-dabt"))]
)
def test_il_bit(kvm_sea_vm: VmFactory, way: str) -> None:
    """IL is 1 in the syndrome of every abort (Arm ARM, ESR_EL1.IL). Kernels before 7.2 copy it from the last trap."""
    (vcpu,) = kvm_sea_vm(guests.idle(instruction=way != "ext-dabt")).vcpus
    if way == "ext-dabt":
        vcpu.inject_data_abort()
    else:
        inject(vcpu, way)
    vcpu.expect_done()
    copied = way != "one-reg" and kernel_version(vcpu) < (7, 2)
    with known_defect("il-from-last-trap", when=copied):
        assert vcpu.get_reg("esr_el1") & IL


def test_reserved_bytes_are_refused(kvm_sea_vm: VmFactory) -> None:
    """Padding and reserved words must be zero, also beside events that are in order."""
    (vcpu,) = kvm_sea_vm(guests.idle()).vcpus
    first = FIRST_PAD + int(vcpu.vm.revision.injects_with_esr)  # ext_abt_has_esr
    words = ctypes.sizeof(vcpu.vm.revision.vcpu_events().reserved)
    reserved = (*range(first, LAST_PAD + 1), *range(SIZE - words, SIZE))
    refused(vcpu, *({offset: 1} for offset in reserved))
    refused(vcpu, *({SERROR: 1, DABT: 1, offset: 1} for offset in reserved))


def test_the_byte_is_padding_where_the_capability_is_not(kvm_sea_vm: VmFactory) -> None:
    """Refused upstream, for whatever reason one sets it; accepted in the series. That tells the two EINVALs apart."""
    (vcpu,) = kvm_sea_vm(guests.idle()).vcpus
    if vcpu.vm.revision.cap_inject_ext_iabt is None:
        refused(vcpu, {IABT: 1})
    else:
        set_bytes(vcpu, {IABT: 1})
        vcpu.expect_done()


@pytest.mark.kvm_sea_requires("inject-ext-iabt")
def test_refusing_both_keeps_an_serror_that_came_with_them(kvm_sea_vm: VmFactory) -> None:
    """The series looks at the SError first and takes nothing back: not atomic. Its follow-up checks all of it first."""
    (vcpu,) = kvm_sea_vm(guests.idle()).vcpus
    before = vcpu.registers(*STATE)
    with pytest.raises(OSError, match="Invalid argument"):
        set_bytes(vcpu, {SERROR: 1, DABT: 1, IABT: 1})
    assert vcpu.registers(*STATE) == before
    with known_defect("events-not-atomic", when=vcpu.vm.revision.name == "series-v1"):
        assert vcpu.get_events().exception.serror_pending == 0
