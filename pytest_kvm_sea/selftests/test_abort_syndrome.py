# SPDX-License-Identifier: GPL-2.0-only
"""ext_abt_esr: the VMM gives the syndrome of the abort that it injects, as the follow-up of the series proposes.

With it a VMM can tell the guest what KVM_EXIT_ARM_SEA told it, above all FnV: mainline's guests never learn that
FAR_EL1 is garbage.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.arm64.esr import AR, CM, EC, FNV, ISS_MASK, ISV, SF, WNR, syndrome
from pytest_kvm_sea.selftests import guests_external as guests
from pytest_kvm_sea.selftests.delivery import State, deliver

if TYPE_CHECKING:
    from typing import Any

    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.vmm.vcpu import Vcpu

pytestmark = [pytest.mark.kvm_sea_requires("abort-esr"), pytest.mark.kvm_sea_distinct("kernel.uapi")]
KINDS = pytest.mark.parametrize("kind", ["ext_dabt_pending", "ext_iabt_pending"], ids=["data", "instruction"])


def stopped(kvm_sea_vm: VmFactory) -> Vcpu:
    """A vCPU that ran, and waits at EL1."""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    vcpu.expect_sync(1)
    return vcpu


def set_events(vcpu: Vcpu, **fields: int) -> None:
    events: Any = vcpu.vm.revision.vcpu_events()
    for name, value in fields.items():
        setattr(events.exception, name, value)
    vcpu.set_events(events)


@KINDS
@pytest.mark.parametrize("iss", [0, FNV, ISV | SF | AR, CM | WNR | FNV], ids=hex)
def test_the_syndrome_is_the_vmms(kvm_sea_vm: VmFactory, kind: str, iss: int) -> None:
    """Its bits are added to the status of an external abort; class and IL stay KVM's."""
    vcpu = stopped(kvm_sea_vm)
    set_events(vcpu, **{kind: 1, "ext_abt_has_esr": 1, "ext_abt_esr": iss})
    deliver(vcpu)
    exception_class = EC.DABT_CURRENT if kind == "ext_dabt_pending" else EC.IABT_CURRENT
    # Kernels before 7.2 copy IL from the last trap, which was one of 32 bits here.
    assert vcpu.get_reg("esr_el1") == syndrome(exception_class, 0x10 | iss)


@KINDS
def test_without_has_esr_it_is_not_looked_at(kvm_sea_vm: VmFactory, kind: str) -> None:
    vcpu = stopped(kvm_sea_vm)
    set_events(vcpu, **{kind: 1, "ext_abt_esr": FNV})
    deliver(vcpu)
    assert vcpu.get_reg("esr_el1") & ISS_MASK == 0x10


@KINDS
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"ext_abt_has_esr": 1, "ext_abt_esr": ISS_MASK + 1}, id="too wide"),
        pytest.param({"serror_pending": 1, "serror_has_esr": 1, "serror_esr": ISS_MASK + 1}, id="SError too wide"),
        pytest.param({"ext_dabt_pending": 1, "ext_iabt_pending": 1}, id="both"),
    ],
)
def test_a_refusal_has_no_effect(kvm_sea_vm: VmFactory, kind: str, wrong: dict[str, int]) -> None:
    """EINVAL, and nothing has happened: neither the abort nor the SError."""
    vcpu = stopped(kvm_sea_vm)
    before = State.of(vcpu)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        set_events(vcpu, **({kind: 1, "serror_pending": 1} | wrong))
    assert caught.value.errno == errno.EINVAL
    deliver(vcpu)
    assert State.of(vcpu) == before
    assert vcpu.get_events().exception.serror_pending == 0


def test_an_abort_is_never_reported(kvm_sea_vm: VmFactory) -> None:
    """KVM_GET_VCPU_EVENTS tells nothing of it: it has been delivered."""
    vcpu = stopped(kvm_sea_vm)
    set_events(vcpu, ext_dabt_pending=1, ext_abt_has_esr=1, ext_abt_esr=FNV)
    exception: Any = vcpu.get_events().exception
    assert (exception.ext_dabt_pending, exception.ext_abt_has_esr, exception.ext_abt_esr) == (0, 0, 0)
