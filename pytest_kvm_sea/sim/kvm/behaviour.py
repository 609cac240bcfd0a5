# SPDX-License-Identifier: GPL-2.0-only
"""What the simulated kernel does where revisions and releases of KVM differ: one table, made from the platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.uapi.revisions import REVISIONS, SERIES_V1, Revision

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Facts of one kernel; each names where it comes from."""

    revision: Revision
    sea_to_user: bool
    """KVM_CAP_ARM_SEA_TO_USER exists."""
    host_owns_sea: bool
    """mmu.c host_owns_sea (v3 of the series and later): SEAs of the host's own accesses never leave the kernel."""
    injects_fnv: bool
    """The series' patch 2: an injected abort says FnV when ESR_EL2 did. Dropped upstream."""
    injects_iabt: bool
    """ext_iabt_pending exists."""
    serror_first: bool
    """KVM_SET_VCPU_EVENTS looks at the SError before the abort (until 6.16)."""
    immediate: bool
    """Exceptions are entered by the ioctl itself, and an unmasked SError by software (since 6.17)."""
    routes_to_el2: bool
    """HCR_EL2 and HCRX_EL2 of a guest hypervisor say whose an abort or SError of its guest is (since 6.17)."""
    nested: bool
    """KVM_ARM_VCPU_HAS_EL2: FEAT_NV2, and kvm-arm.mode=nested."""
    il_from_last_trap: bool
    """An injected syndrome's IL bit is that of ESR_EL2 (until 7.1)."""
    s1ptw_level: bool
    """An abort injected after a stage-2 fault on a stage-1 walk names the walk's level (since 7.0)."""
    userfault: bool
    """KVM userfault, as proposed."""
    ras: bool
    """FEAT_RAS on the host."""
    ease: bool
    """SCTLR2_EL1 exists, with EASE and NMEA."""
    ipa_limit: int
    """Bits of the intermediate physical address space."""
    page_size: int


def behaviour_of(platform: Platform) -> Behaviour:
    """The behaviour of this platform's kernel on its hardware."""
    kernel, cpu = platform.kernel, platform.cpu
    revision = REVISIONS[kernel.uapi]
    series = revision is SERIES_V1
    return Behaviour(
        revision=revision,
        sea_to_user=kernel.sea_to_user,
        host_owns_sea=not series,
        injects_fnv=series,
        injects_iabt=revision.cap_inject_ext_iabt is not None,
        serror_first=not kernel.immediate_injection,
        immediate=kernel.immediate_injection,
        routes_to_el2=kernel.immediate_injection,
        nested=cpu.nested,
        il_from_last_trap=kernel.il_from_last_trap,
        s1ptw_level=kernel.s1ptw_level,
        userfault=kernel.userfault,
        ras=cpu.ras,
        ease=cpu.ease,
        ipa_limit=cpu.ipa_bits,
        page_size=kernel.page_size,
    )
