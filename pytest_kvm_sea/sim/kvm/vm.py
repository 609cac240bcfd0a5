# SPDX-License-Identifier: GPL-2.0-only
"""A VM: its ioctls and what its vCPUs share (arch/arm64/kvm/arm.c)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pytest_kvm_sea.cpu.features import id_registers
from pytest_kvm_sea.sim.kvm.arguments import as_number, fail, read_structure, write_structure
from pytest_kvm_sea.sim.kvm.capabilities import MAX_VCPUS
from pytest_kvm_sea.sim.kvm.file import Handler, KvmFile
from pytest_kvm_sea.sim.kvm.memslots import REGION2_SIZE, REGION_SIZE, Memslots
from pytest_kvm_sea.sim.kvm.stage2 import Stage2
from pytest_kvm_sea.sim.kvm.vcpu import Vcpu
from pytest_kvm_sea.sim.kvm.vgic import Vgic
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.userfault import KVM_SET_USER_MEMORY_REGION2

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument
    from pytest_kvm_sea.sim.kvm.device import Machine

_ENABLE_CAP = struct.Struct("<II32x64x")
_CREATE_DEVICE = struct.Struct("<III")
_VCPU_INIT = struct.Struct("<8I")


class Vm(KvmFile):
    """The file of one VM, and the VM itself."""

    def __init__(self, machine: Machine, ipa_bits: int) -> None:
        super().__init__()
        self._machine = machine
        self.behaviour = machine.behaviour
        self.features = machine.features
        self.process = machine.process
        self.physical = machine.physical
        self.apei = machine.apei
        self.routes_sea_to_el2 = machine.routes_sea_to_el2
        self.ipa_bits = ipa_bits
        self.id_limits = dict(id_registers(machine.features))
        """What the host has: the most that a VM may be told that it has."""
        self.id_registers = dict(self.id_limits)
        self.memslots = Memslots(self.behaviour.page_size, ipa_bits, userfault=self.behaviour.userfault)
        self.stage2 = Stage2(self.memslots, self.process, self.physical, ipa_bits, parity=machine.parity)
        self.exits_on_sea = False
        self.nisv_to_user = False
        self.has_run = False
        self.vgic: Vgic | None = None
        self.vcpu_features: int | None = None
        """What the first KVM_ARM_VCPU_INIT asked for: all vCPUs of a VM have the same features."""
        self.vcpus: dict[int, Vcpu] = {}

    def unknown_request(self) -> int:
        return errno.EINVAL

    def _check_extension(self, argument: Argument) -> int:
        return self._machine.check_extension(argument)

    def _create_vcpu(self, argument: Argument) -> int:
        number = as_number(argument)
        if not 0 <= number < MAX_VCPUS:
            fail(errno.EINVAL)
        if number in self.vcpus:
            fail(errno.EEXIST)
        vcpu = Vcpu(self, number)
        self.vcpus[number] = vcpu
        return self._machine.install(vcpu)

    def _set_user_memory_region(self, argument: Argument) -> int:
        self.memslots.set_region(read_structure(argument, REGION_SIZE))
        return self._flush()

    def _set_user_memory_region2(self, argument: Argument) -> int:
        self.memslots.set_region2(read_structure(argument, REGION2_SIZE))
        return self._flush()

    def _flush(self) -> int:
        for vcpu in tuple(self.vcpus.values()):
            vcpu.flush()
        return 0

    def _enable_cap(self, argument: Argument) -> int:
        capability, flags = _ENABLE_CAP.unpack(read_structure(argument, _ENABLE_CAP.size))
        if flags:
            fail(errno.EINVAL)
        if capability == kvm.KVM_CAP_ARM_NISV_TO_USER:
            self.nisv_to_user = True
        elif self.behaviour.sea_to_user and capability == self.behaviour.revision.cap_sea_to_user:
            self.exits_on_sea = True
        else:
            fail(errno.EINVAL)
        return 0

    def _create_device(self, argument: Argument) -> int:
        """A VGICv3, the only device here. ENODEV for others, EBUSY once a vCPU has run, EEXIST for a second one."""
        kind, _, flags = _CREATE_DEVICE.unpack(read_structure(argument, _CREATE_DEVICE.size))
        if kind != kvm.KVM_DEV_TYPE_ARM_VGIC_V3:
            fail(errno.ENODEV)
        if flags & kvm.KVM_CREATE_DEVICE_TEST:
            return 0
        if self.vgic is not None:
            fail(errno.EEXIST)
        if self.has_run:
            fail(errno.EBUSY)
        self.vgic = Vgic(self.ipa_bits)
        write_structure(argument, _CREATE_DEVICE.pack(kind, self._machine.install(self.vgic), flags))
        return 0

    def _preferred_target(self, argument: Argument) -> int:
        write_structure(argument, _VCPU_INIT.pack(kvm.KVM_ARM_TARGET_GENERIC_V8, *[0] * 7))
        return 0

    REQUESTS: ClassVar[Mapping[int, Handler]] = {
        kvm.KVM_CHECK_EXTENSION: _check_extension,
        kvm.KVM_CREATE_VCPU: _create_vcpu,
        kvm.KVM_SET_USER_MEMORY_REGION: _set_user_memory_region,
        KVM_SET_USER_MEMORY_REGION2: _set_user_memory_region2,
        kvm.KVM_ENABLE_CAP: _enable_cap,
        kvm.KVM_ARM_PREFERRED_TARGET: _preferred_target,
        kvm.KVM_CREATE_DEVICE: _create_device,
    }
