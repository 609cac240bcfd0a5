# SPDX-License-Identifier: GPL-2.0-only
"""KVM_CHECK_EXTENSION, as arch/arm64/kvm/arm.c answers it."""

from __future__ import annotations

from pytest_kvm_sea.sim.kvm.behaviour import Behaviour
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.revisions import MAINLINE

MAX_VCPUS = 512
ONLINE_CPUS = 8


def capabilities(behaviour: Behaviour) -> dict[int, int]:
    """Capability number to value; everything that is not in it is 0."""
    always = (
        kvm.KVM_CAP_USER_MEMORY,
        kvm.KVM_CAP_MP_STATE,
        kvm.KVM_CAP_SYNC_MMU,
        kvm.KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        kvm.KVM_CAP_VCPU_EVENTS,
        kvm.KVM_CAP_ONE_REG,
        kvm.KVM_CAP_READONLY_MEM,
        kvm.KVM_CAP_ARM_PSCI,
        kvm.KVM_CAP_ENABLE_CAP_VM,
        kvm.KVM_CAP_ARM_PSCI_0_2,
        kvm.KVM_CAP_CHECK_EXTENSION_VM,
        kvm.KVM_CAP_IMMEDIATE_EXIT,
        kvm.KVM_CAP_ARM_NISV_TO_USER,
        kvm.KVM_CAP_ARM_INJECT_EXT_DABT,
    )
    table = dict.fromkeys(always, 1)
    table |= {
        kvm.KVM_CAP_NR_VCPUS: ONLINE_CPUS,
        kvm.KVM_CAP_MAX_VCPUS: MAX_VCPUS,
        kvm.KVM_CAP_MAX_VCPU_ID: MAX_VCPUS,
        kvm.KVM_CAP_NR_MEMSLOTS: kvm.KVM_USER_MEM_SLOTS,
        kvm.KVM_CAP_ARM_INJECT_SERROR_ESR: int(behaviour.ras),
        kvm.KVM_CAP_ARM_VM_IPA_SIZE: behaviour.ipa_limit,
    }
    revision = behaviour.revision
    if behaviour.nested and revision is MAINLINE:
        table[kvm.KVM_CAP_ARM_EL2] = 1
    if behaviour.sea_to_user:
        table[revision.cap_sea_to_user] = 1
    if behaviour.injects_iabt and revision.cap_inject_ext_iabt is not None:
        table[revision.cap_inject_ext_iabt] = 1
    return table
