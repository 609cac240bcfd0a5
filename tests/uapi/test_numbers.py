# SPDX-License-Identifier: GPL-2.0-only
"""Numbers and layouts against values written down from a running kernel and its headers, not from this package."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import yaml

from pytest_kvm_sea.uapi import kvm, registers, structures, userfault
from pytest_kvm_sea.uapi.revisions import MAINLINE, REVISIONS, SERIES_V1, Revision
from pytest_kvm_sea.uapi.structures import KvmRun

HEADERS = yaml.safe_load((Path(__file__).parents[2] / "fixtures/uapi/linux-7.3.4.yaml").read_text())
"""Written by a C program that was compiled with the kernel's own headers."""
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "kvm_run": structures.KvmRun,
    "kvm_vcpu_events": structures.VcpuEvents,
    "kvm_userspace_memory_region": structures.UserspaceMemoryRegion,
    "kvm_enable_cap": structures.EnableCap,
    "kvm_one_reg": structures.OneReg,
    "kvm_create_device": structures.CreateDevice,
    "kvm_device_attr": structures.DeviceAttr,
    "kvm_vcpu_init": structures.VcpuInit,
}
SEA_OFFSETS = {
    "mainline": {"flags": 32, "esr": 40, "gva": 48, "gpa": 56},
    "series-v1": {"esr": 32, "flags": 40, "gva": 48, "gpa": 56},
    "follow-up": {"flags": 32, "esr": 40, "gva": 48, "gpa": 56},
}


@pytest.mark.parametrize(("name", "number"), HEADERS["requests"].items())
def test_request_numbers(name: str, number: int) -> None:
    assert getattr(kvm, name) == number


@pytest.mark.parametrize(("name", "number"), HEADERS["constants"].items())
def test_constants(name: str, number: int) -> None:
    revision = {
        "KVM_CAP_ARM_SEA_TO_USER": MAINLINE.cap_sea_to_user,
        "KVM_EXIT_ARM_SEA": MAINLINE.exit_arm_sea,
        "KVM_EXIT_ARM_SEA_FLAG_GPA_VALID": MAINLINE.flag_gpa_valid,
    }
    if name in revision:
        assert revision[name] == number
    elif name.startswith("KVM_EXIT_"):
        assert kvm.Exit[name.removeprefix("KVM_EXIT_")] == number
    else:
        assert getattr(kvm, name) == number


def test_every_number_of_ours_was_compared() -> None:
    named = {name for name, value in vars(kvm).items() if name.startswith("KVM_") and isinstance(value, int)}
    # KVM_MEM_MAX_NR_PAGES and KVM_USER_MEM_SLOTS are limits of the kernel, not of its headers.
    assert named - HEADERS["requests"].keys() - HEADERS["constants"].keys() == {
        "KVM_MEM_MAX_NR_PAGES",
        "KVM_USER_MEM_SLOTS",
    }


@pytest.mark.parametrize(("name", "size"), HEADERS["sizes"].items())
def test_structure_sizes(name: str, size: int) -> None:
    if name == "kvm_regs":
        assert size == registers.CORE_WORDS * 4
    else:
        assert ctypes.sizeof(STRUCTURES[name]) == size


@pytest.mark.parametrize(("path", "offset"), HEADERS["offsets"].items())
def test_offsets(path: str, offset: int) -> None:
    name, *fields = path.split(".")
    made = STRUCTURES[name]()
    place = ctypes.addressof(made)
    for field in fields[:-1]:
        made = getattr(made, field)
    assert ctypes.addressof(made) + getattr(type(made), fields[-1]).offset - place == offset


@pytest.mark.parametrize(("name", "identifier"), HEADERS["registers"].items())
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


def test_events_of_the_follow_up() -> None:
    """The layout in the mail: the abort's syndrome after the SError's, the whole as large as ever."""
    events = structures.VcpuEventsFollowUp
    exception = structures.ExceptionEventsFollowUp
    assert ctypes.sizeof(events) == 64
    assert ctypes.sizeof(exception) == 24
    offsets = {name: getattr(exception, name).offset for name, _kind in exception._fields_}
    assert offsets == {
        "serror_pending": 0,
        "serror_has_esr": 1,
        "ext_dabt_pending": 2,
        "ext_iabt_pending": 3,
        "ext_abt_has_esr": 4,
        "pad": 5,
        "serror_esr": 8,
        "ext_abt_esr": 16,
    }


def test_userfault_numbers() -> None:
    """KVM_SET_USER_MEMORY_REGION2 as strace shows it on a kernel that has it."""
    assert userfault.KVM_SET_USER_MEMORY_REGION2 == 0x40A0_AE49
    assert ctypes.sizeof(userfault.UserspaceMemoryRegion2) == 160
