# SPDX-License-Identifier: GPL-2.0-only
"""Numbers and layouts against values written down from a running kernel and its headers, not from this package."""

from __future__ import annotations

import ctypes

import pytest

from pytest_kvm_sea.uapi import kvm, registers, structures
from pytest_kvm_sea.uapi.revisions import MAINLINE, REVISIONS, SERIES_V1, Revision
from pytest_kvm_sea.uapi.structures import KvmRun

REQUESTS = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_RUN": 0xAE80,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_SET_VCPU_EVENTS": 0x4040AEA0,
    "KVM_ENABLE_CAP": 0x4068AEA3,
    "KVM_GET_ONE_REG": 0x4010AEAB,
    "KVM_SET_ONE_REG": 0x4010AEAC,
    "KVM_ARM_VCPU_INIT": 0x4020AEAE,
    "KVM_SET_SIGNAL_MASK": 0x4004AE8B,
    "KVM_ARM_PREFERRED_TARGET": 0x8020AEAF,
    "KVM_GET_REG_LIST": 0xC008AEB0,
}
STRUCTURE_SIZES = {
    structures.UserspaceMemoryRegion: 32,
    structures.EnableCap: 104,
    structures.VcpuInit: 32,
    structures.OneReg: 16,
    structures.VcpuEvents: 64,
    structures.VcpuEventsV1: 64,
    structures.KvmRun: 32 + 256,
}
REGISTER_IDS = {
    "x0": 0x6030_0000_0010_0000,
    "x30": 0x6030_0000_0010_003C,
    "sp_el0": 0x6030_0000_0010_003E,
    "pc": 0x6030_0000_0010_0040,
    "pstate": 0x6030_0000_0010_0042,
    "sp_el1": 0x6030_0000_0010_0044,
    "elr_el1": 0x6030_0000_0010_0046,
    "spsr_el1": 0x6030_0000_0010_0048,
    "v0": 0x6040_0000_0010_0054,
    "v31": 0x6040_0000_0010_00D0,
    "fpsr": 0x6020_0000_0010_00D4,
    "fpcr": 0x6020_0000_0010_00D5,
    "mpidr_el1": 0x6030_0000_0013_C005,
    "sctlr_el1": 0x6030_0000_0013_C080,
    "esr_el1": 0x6030_0000_0013_C290,
    "far_el1": 0x6030_0000_0013_C300,
    "vbar_el1": 0x6030_0000_0013_C600,
}
SEA_OFFSETS = {
    "mainline": {"flags": 32, "esr": 40, "gva": 48, "gpa": 56},
    "series-v1": {"esr": 32, "flags": 40, "gva": 48, "gpa": 56},
}


@pytest.mark.parametrize(("name", "number"), REQUESTS.items())
def test_request_numbers(name: str, number: int) -> None:
    assert getattr(kvm, name) == number


@pytest.mark.parametrize(("structure", "size"), STRUCTURE_SIZES.items())
def test_structure_sizes(structure: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(structure) == size


@pytest.mark.parametrize(("name", "identifier"), REGISTER_IDS.items())
def test_register_ids(name: str, identifier: int) -> None:
    assert registers.register_id(name) == identifier
    assert registers.register_name(identifier) == name


def test_unknown_register_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="esr_el9"):
        registers.register_id("esr_el9")


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
def test_arm_sea_layout(revision: Revision) -> None:
    run = KvmRun()
    sea = revision.arm_sea(run)
    base = ctypes.addressof(run)
    for field, offset in SEA_OFFSETS[revision.name].items():
        assert ctypes.addressof(sea) - base + getattr(type(sea), field).offset == offset


def test_numbers_of_the_revisions_never_meet() -> None:
    """What one revision calls ARM_SEA the other must not: a probe by number alone would lie."""
    assert (MAINLINE.exit_arm_sea, MAINLINE.cap_sea_to_user, MAINLINE.flag_gpa_valid) == (41, 245, 1)
    assert (SERIES_V1.exit_arm_sea, SERIES_V1.cap_sea_to_user, SERIES_V1.cap_inject_ext_iabt) == (40, 240, 241)
    assert (SERIES_V1.flag_gva_valid, SERIES_V1.flag_gpa_valid) == (1, 2)
    assert MAINLINE.cap_inject_ext_iabt is None


def test_the_byte_that_became_iabt_is_padding_upstream() -> None:
    assert structures.ExceptionEventsV1.ext_iabt_pending.offset == 3  # type: ignore[attr-defined] # a ctypes descriptor
    assert structures.ExceptionEvents.pad.offset == 3  # type: ignore[attr-defined]
    assert structures.ExceptionEvents.serror_esr.offset == 8  # type: ignore[attr-defined]
