# SPDX-License-Identifier: GPL-2.0-only
"""Structures of KVM's user API (include/uapi/linux/kvm.h, arch/arm64/include/uapi/asm/kvm.h)."""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

KVM_RUN_UNION_SIZE = 256
VCPU_EVENTS_SIZE = 64


class UserspaceMemoryRegion(ctypes.Structure):
    """struct kvm_userspace_memory_region, 32 bytes."""

    _fields_: ClassVar[tuple[tuple[str, Any], ...]] = (
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest_phys_addr", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("userspace_addr", ctypes.c_uint64),
    )
    slot: int
    flags: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int


class EnableCap(ctypes.Structure):
    """struct kvm_enable_cap, 104 bytes."""

    _fields_ = (
        ("cap", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 4),
        ("pad", ctypes.c_uint8 * 64),
    )
    cap: int
    flags: int
    args: ctypes.Array[ctypes.c_uint64]


class VcpuInit(ctypes.Structure):
    """struct kvm_vcpu_init, 32 bytes."""

    _fields_ = (("target", ctypes.c_uint32), ("features", ctypes.c_uint32 * 7))
    target: int
    features: ctypes.Array[ctypes.c_uint32]


class OneReg(ctypes.Structure):
    """struct kvm_one_reg: register id and the *address* of its value in the caller's memory."""

    _fields_ = (("id", ctypes.c_uint64), ("addr", ctypes.c_uint64))
    id: int
    addr: int


class CreateDevice(ctypes.Structure):
    """struct kvm_create_device, 12 bytes; KVM writes ``fd``."""

    _fields_ = (("type", ctypes.c_uint32), ("fd", ctypes.c_uint32), ("flags", ctypes.c_uint32))
    type: int
    fd: int
    flags: int


class DeviceAttr(ctypes.Structure):
    """struct kvm_device_attr, 24 bytes; ``addr`` is the address of the value in the caller's memory."""

    _fields_ = (
        ("flags", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("attr", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
    )
    flags: int
    group: int
    attr: int
    addr: int


class ExceptionEvents(ctypes.Structure):
    """The exception part of struct kvm_vcpu_events as mainline has it."""

    _fields_ = (
        ("serror_pending", ctypes.c_uint8),
        ("serror_has_esr", ctypes.c_uint8),
        ("ext_dabt_pending", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 5),
        ("serror_esr", ctypes.c_uint64),
    )
    serror_pending: int
    serror_has_esr: int
    ext_dabt_pending: int
    pad: ctypes.Array[ctypes.c_uint8]
    serror_esr: int


class VcpuEvents(ctypes.Structure):
    """struct kvm_vcpu_events as mainline has it, 64 bytes."""

    _fields_ = (("exception", ExceptionEvents), ("reserved", ctypes.c_uint32 * 12))
    exception: ExceptionEvents
    reserved: ctypes.Array[ctypes.c_uint32]


class ExceptionEventsV1(ctypes.Structure):
    """The exception part of struct kvm_vcpu_events of the series: one pad byte became ext_iabt_pending."""

    _fields_ = (
        ("serror_pending", ctypes.c_uint8),
        ("serror_has_esr", ctypes.c_uint8),
        ("ext_dabt_pending", ctypes.c_uint8),
        ("ext_iabt_pending", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 4),
        ("serror_esr", ctypes.c_uint64),
    )
    serror_pending: int
    serror_has_esr: int
    ext_dabt_pending: int
    ext_iabt_pending: int
    pad: ctypes.Array[ctypes.c_uint8]
    serror_esr: int


class VcpuEventsV1(ctypes.Structure):
    """struct kvm_vcpu_events of the series, 64 bytes."""

    _fields_ = (("exception", ExceptionEventsV1), ("reserved", ctypes.c_uint32 * 12))
    exception: ExceptionEventsV1
    reserved: ctypes.Array[ctypes.c_uint32]


class ExceptionEventsFollowUp(ctypes.Structure):
    """The exception part of struct kvm_vcpu_events of the follow-up: 24 bytes, with a syndrome for the abort."""

    _fields_ = (
        ("serror_pending", ctypes.c_uint8),
        ("serror_has_esr", ctypes.c_uint8),
        ("ext_dabt_pending", ctypes.c_uint8),
        ("ext_iabt_pending", ctypes.c_uint8),
        ("ext_abt_has_esr", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("serror_esr", ctypes.c_uint64),
        ("ext_abt_esr", ctypes.c_uint64),
    )
    serror_pending: int
    serror_has_esr: int
    ext_dabt_pending: int
    ext_iabt_pending: int
    ext_abt_has_esr: int
    pad: ctypes.Array[ctypes.c_uint8]
    serror_esr: int
    ext_abt_esr: int


class VcpuEventsFollowUp(ctypes.Structure):
    """struct kvm_vcpu_events of the follow-up, 64 bytes as ever: what `exception` grew by, `reserved` has less."""

    _fields_ = (("exception", ExceptionEventsFollowUp), ("reserved", ctypes.c_uint32 * 10))
    exception: ExceptionEventsFollowUp
    reserved: ctypes.Array[ctypes.c_uint32]


class Mmio(ctypes.Structure):
    """kvm_run.mmio."""

    _fields_ = (
        ("phys_addr", ctypes.c_uint64),
        ("data", ctypes.c_uint8 * 8),
        ("len", ctypes.c_uint32),
        ("is_write", ctypes.c_uint8),
    )
    phys_addr: int
    data: ctypes.Array[ctypes.c_uint8]
    len: int
    is_write: int


class ArmNisv(ctypes.Structure):
    """kvm_run.arm_nisv."""

    _fields_ = (("esr_iss", ctypes.c_uint64), ("fault_ipa", ctypes.c_uint64))
    esr_iss: int
    fault_ipa: int


class ArmSea(ctypes.Structure):
    """kvm_run.arm_sea as mainline has it (v6.19 and later)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("esr", ctypes.c_uint64),
        ("gva", ctypes.c_uint64),
        ("gpa", ctypes.c_uint64),
    )
    flags: int
    esr: int
    gva: int
    gpa: int


class ArmSeaV1(ctypes.Structure):
    """kvm_run.arm_sea of the series: esr and flags the other way round."""

    _fields_ = (
        ("esr", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("gva", ctypes.c_uint64),
        ("gpa", ctypes.c_uint64),
    )
    flags: int
    esr: int
    gva: int
    gpa: int


class FailEntry(ctypes.Structure):
    """kvm_run.fail_entry."""

    _fields_ = (("hardware_entry_failure_reason", ctypes.c_uint64), ("cpu", ctypes.c_uint32))
    hardware_entry_failure_reason: int
    cpu: int


class Internal(ctypes.Structure):
    """kvm_run.internal."""

    _fields_ = (("suberror", ctypes.c_uint32), ("ndata", ctypes.c_uint32), ("data", ctypes.c_uint64 * 16))
    suberror: int
    ndata: int
    data: ctypes.Array[ctypes.c_uint64]


class SystemEvent(ctypes.Structure):
    """kvm_run.system_event."""

    _fields_ = (("type", ctypes.c_uint32), ("ndata", ctypes.c_uint32), ("data", ctypes.c_uint64 * 16))
    type: int
    ndata: int
    data: ctypes.Array[ctypes.c_uint64]


class MemoryFault(ctypes.Structure):
    """kvm_run.memory_fault."""

    _fields_ = (("flags", ctypes.c_uint64), ("gpa", ctypes.c_uint64), ("size", ctypes.c_uint64))
    flags: int
    gpa: int
    size: int


class _RunUnion(ctypes.Union):
    _fields_ = (
        ("mmio", Mmio),
        ("arm_nisv", ArmNisv),
        ("arm_sea", ArmSea),
        ("arm_sea_v1", ArmSeaV1),
        ("fail_entry", FailEntry),
        ("internal", Internal),
        ("system_event", SystemEvent),
        ("memory_fault", MemoryFault),
        ("padding", ctypes.c_uint8 * KVM_RUN_UNION_SIZE),
    )


class KvmRun(ctypes.Structure):
    """struct kvm_run, the page shared between KVM and the VMM, up to the end of the exit union.

    The union's members lie over each other: only the one that ``exit_reason`` names means anything.
    """

    _anonymous_ = ("exit",)
    _fields_ = (
        ("request_interrupt_window", ctypes.c_uint8),
        ("immediate_exit", ctypes.c_uint8),
        ("padding1", ctypes.c_uint8 * 6),
        ("exit_reason", ctypes.c_uint32),
        ("ready_for_interrupt_injection", ctypes.c_uint8),
        ("if_flag", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("cr8", ctypes.c_uint64),
        ("apic_base", ctypes.c_uint64),
        ("exit", _RunUnion),
    )
    immediate_exit: int
    exit_reason: int
    flags: int
    mmio: Mmio
    arm_nisv: ArmNisv
    arm_sea: ArmSea
    arm_sea_v1: ArmSeaV1
    fail_entry: FailEntry
    internal: Internal
    system_event: SystemEvent
    memory_fault: MemoryFault
