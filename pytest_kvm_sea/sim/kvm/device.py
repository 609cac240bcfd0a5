# SPDX-License-Identifier: GPL-2.0-only
"""/dev/kvm, and the machine that all VMs of a simulated host share."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.sim.kvm.arguments import as_number, fail
from pytest_kvm_sea.sim.kvm.behaviour import behaviour_of
from pytest_kvm_sea.sim.kvm.capabilities import capabilities
from pytest_kvm_sea.sim.kvm.file import Handler, KvmFile
from pytest_kvm_sea.sim.kvm.vm import Vm
from pytest_kvm_sea.uapi import kvm

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument, File
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.apei import Apei
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

DEFAULT_IPA_BITS = 40
_MIN_IPA_BITS = 32


class Machine:
    """The host as KVM sees it: what the kernel is, what the cores can do, whose memory it is."""

    def __init__(
        self,
        platform: Platform,
        process: Process,
        physical: PhysicalMemory,
        apei: Apei,
        install: Callable[[File], int],
    ) -> None:
        self.behaviour = behaviour_of(platform)
        self.features = Features(ras=platform.cpu.ras, sea_far=platform.cpu.sea_far, ease=platform.cpu.ease)
        self.process = process
        self.physical = physical
        self.apei = apei
        self.install = install
        self.parity = platform.cpu.parity
        self.routes_sea_to_el2 = platform.cpu.ras or platform.firmware.forwards_sea
        self._capabilities = capabilities(self.behaviour)
        self.vms: list[Vm] = []

    def check_extension(self, argument: Argument) -> int:
        """KVM_CHECK_EXTENSION, of the device and of a VM."""
        return self._capabilities.get(as_number(argument), 0)

    def create_vm(self, ipa_bits: int) -> int:
        vm = Vm(self, ipa_bits)
        self.vms.append(vm)
        return self.install(vm)


class KvmDevice(KvmFile):
    """An open /dev/kvm."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def unknown_request(self) -> int:
        return errno.EINVAL

    def _check_extension(self, argument: Argument) -> int:
        return self._machine.check_extension(argument)

    def _api_version(self, argument: Argument) -> int:
        if as_number(argument):
            fail(errno.EINVAL)
        return kvm.KVM_API_VERSION

    def _vcpu_mmap_size(self, argument: Argument) -> int:
        if as_number(argument):
            fail(errno.EINVAL)
        return 2 * self._machine.behaviour.page_size

    def _create_vm(self, argument: Argument) -> int:
        """The type is the size of the IPA space in bits; 0 stands for 40."""
        vm_type = as_number(argument)
        if vm_type & ~kvm.KVM_VM_TYPE_ARM_IPA_SIZE_MASK:
            fail(errno.EINVAL)
        limit = self._machine.behaviour.ipa_limit
        ipa_bits = vm_type or DEFAULT_IPA_BITS
        if ipa_bits > limit or ipa_bits < _MIN_IPA_BITS:
            fail(errno.EINVAL)
        return self._machine.create_vm(ipa_bits)

    REQUESTS: ClassVar[Mapping[int, Handler]] = {
        kvm.KVM_GET_API_VERSION: _api_version,
        kvm.KVM_CREATE_VM: _create_vm,
        kvm.KVM_CHECK_EXTENSION: _check_extension,
        kvm.KVM_GET_VCPU_MMAP_SIZE: _vcpu_mmap_size,
    }
