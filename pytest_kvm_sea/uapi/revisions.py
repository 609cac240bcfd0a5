# SPDX-License-Identifier: GPL-2.0-only
"""The revisions of KVM's user API for guest SEAs.

Which one a host speaks is chosen, never guessed from a number: the numbers of the series mean other things upstream
(capability 240 is KVM_CAP_ARM_EL2, exit 40 is KVM_EXIT_TDX). Mainline: Linux kernel commit ad9c62bd8946 (in v6.19).
The series: the mail 20250505161412.1926643-1-jiaqiyan@google.com. Its follow-up, which lets the VMM say more of an
abort that it injects: 20250731212004.1437336-1-jiaqiyan@google.com, on top of the series' third version,
20250731205844.1346839-1-jiaqiyan@google.com; neither was merged as it was posted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pytest_kvm_sea.uapi.structures import (
    ArmSea,
    ArmSeaV1,
    KvmRun,
    VcpuEvents,
    VcpuEventsFollowUp,
    VcpuEventsV1,
)

AnyVcpuEvents: TypeAlias = VcpuEvents | VcpuEventsV1 | VcpuEventsFollowUp
"""struct kvm_vcpu_events of some revision."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the API: the numbers and layouts that differ."""

    name: str
    exit_arm_sea: int
    """KVM_EXIT_ARM_SEA."""
    cap_sea_to_user: int
    """KVM_CAP_ARM_SEA_TO_USER."""
    cap_inject_ext_iabt: int | None
    """KVM_CAP_ARM_INJECT_EXT_IABT, and with it ext_iabt_pending; None where it does not exist."""
    flag_gva_valid: int | None
    """KVM_EXIT_ARM_SEA_FLAG_GVA_VALID; None where ESR.FnV says it."""
    flag_gpa_valid: int
    """KVM_EXIT_ARM_SEA_FLAG_GPA_VALID."""
    arm_sea_field: str
    """The member of the exit union: `arm_sea` or `arm_sea_v1`."""
    vcpu_events: type[AnyVcpuEvents]
    """struct kvm_vcpu_events."""
    esr_mask: int
    """The bits of ESR_EL2 that arm_sea.esr may have (SET, bits 12:11, only where the VM has FEAT_RAS)."""

    injects_with_esr: bool = False
    """ext_abt_has_esr and ext_abt_esr exist: the VMM gives the ISS of the abort that it injects."""

    @property
    def flags_mask(self) -> int:
        """All flags of arm_sea that exist in this revision."""
        return self.flag_gpa_valid | (self.flag_gva_valid or 0)

    def arm_sea(self, run: KvmRun) -> ArmSea | ArmSeaV1:
        """kvm_run.arm_sea in this revision's layout."""
        sea: ArmSea | ArmSeaV1 = getattr(run, self.arm_sea_field)
        return sea


MAINLINE = Revision(
    name="mainline",
    exit_arm_sea=41,
    cap_sea_to_user=245,
    cap_inject_ext_iabt=None,
    flag_gva_valid=None,
    flag_gpa_valid=1 << 0,
    arm_sea_field="arm_sea",
    vcpu_events=VcpuEvents,
    esr_mask=0xFE00_1F7F,
)

SERIES_V1 = Revision(
    name="series-v1",
    exit_arm_sea=40,
    cap_sea_to_user=240,
    cap_inject_ext_iabt=241,
    flag_gva_valid=1 << 0,
    flag_gpa_valid=1 << 1,
    arm_sea_field="arm_sea_v1",
    vcpu_events=VcpuEventsV1,
    esr_mask=0xFFFF_FFFF_FFFF_FFFF,
)

FOLLOW_UP = Revision(
    name="follow-up",
    exit_arm_sea=41,
    cap_sea_to_user=244,
    cap_inject_ext_iabt=245,
    flag_gva_valid=None,
    flag_gpa_valid=1 << 0,
    arm_sea_field="arm_sea",
    vcpu_events=VcpuEventsFollowUp,
    esr_mask=0xFE00_1F7F,
    injects_with_esr=True,
)

REVISIONS: dict[str, Revision] = {revision.name: revision for revision in (MAINLINE, SERIES_V1, FOLLOW_UP)}
