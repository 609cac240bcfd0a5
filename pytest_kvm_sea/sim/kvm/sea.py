# SPDX-License-Identifier: GPL-2.0-only
"""A guest's synchronous external abort (arch/arm64/kvm/mmu.c kvm_handle_guest_sea; kvm_ras.c of the series)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.sim.kvm.fault import is_sea_on_walk

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.kvm.behaviour import Behaviour
    from pytest_kvm_sea.sim.kvm.fault import FaultInfo
    from pytest_kvm_sea.uapi.structures import KvmRun


def host_owns_sea(behaviour: Behaviour, esr: int) -> bool:
    """Whether the abort was of an access that the host made, or cannot be told from one."""
    if not behaviour.host_owns_sea:
        return False
    if not behaviour.ras:
        return True
    return is_sea_on_walk(esr) and bool(esr & syndromes.S1PTW)


def exit_to_user(behaviour: Behaviour, fault: FaultInfo, run: KvmRun, *, vm_has_ras: bool) -> None:
    """Fill in KVM_EXIT_ARM_SEA."""
    revision = behaviour.revision
    sea = revision.arm_sea(run)
    ctypes.memset(ctypes.addressof(sea), 0, ctypes.sizeof(sea))
    run.exit_reason = revision.exit_arm_sea
    sea.esr = fault.esr & _visible(behaviour, vm_has_ras=vm_has_ras)
    if not fault.esr & syndromes.FNV:
        sea.gva = fault.far
        sea.flags |= revision.flag_gva_valid or 0
    if fault.ipa is not None:
        sea.gpa = fault.ipa
        sea.flags |= revision.flag_gpa_valid


def _visible(behaviour: Behaviour, *, vm_has_ras: bool) -> int:
    """The bits of ESR_EL2 that userspace may see; the series shows them all."""
    mask = behaviour.revision.esr_mask
    if behaviour.host_owns_sea and not vm_has_ras:
        mask &= ~syndromes.SET_MASK
    return mask
