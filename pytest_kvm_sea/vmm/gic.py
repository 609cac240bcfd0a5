# SPDX-License-Identifier: GPL-2.0-only
"""KVM's interrupt controller. No guest here takes an interrupt; but KVM runs no vCPU with a virtual EL2 without one."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.structures import CreateDevice, DeviceAttr

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import File
    from pytest_kvm_sea.vmm.vm import Vm

DISTRIBUTOR, REDISTRIBUTORS = 0x3000_0000, 0x3010_0000
"""Guest physical addresses of its frames; 128 KiB of redistributor for each vCPU."""


def add_gic(vm: Vm) -> File:
    """Give the VM a VGICv3, when all its vCPUs are there and none has run. Raises OSError with the kernel's errno."""
    request = CreateDevice(type=kvm.KVM_DEV_TYPE_ARM_VGIC_V3)
    vm.file.ioctl(kvm.KVM_CREATE_DEVICE, request)
    gic = vm.host.adopt(request.fd)
    for frame, address in (
        (kvm.KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR),
        (kvm.KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTORS),
    ):
        value = ctypes.c_uint64(address)
        attribute = DeviceAttr(group=kvm.KVM_DEV_ARM_VGIC_GRP_ADDR, attr=frame, addr=ctypes.addressof(value))
        gic.ioctl(kvm.KVM_SET_DEVICE_ATTR, attribute)
    start = DeviceAttr(group=kvm.KVM_DEV_ARM_VGIC_GRP_CTRL, attr=kvm.KVM_DEV_ARM_VGIC_CTRL_INIT)
    gic.ioctl(kvm.KVM_SET_DEVICE_ATTR, start)
    return gic
