# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU: its ioctls, and KVM_RUN (arch/arm64/kvm/arm.c, handle_exit.c)."""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.sim.kvm import events
from pytest_kvm_sea.sim.kvm.abort import handle_abort
from pytest_kvm_sea.sim.kvm.arguments import as_number, fail, read_structure, write_structure
from pytest_kvm_sea.sim.kvm.fault import FaultInfo
from pytest_kvm_sea.sim.kvm.file import Handler, KvmFile
from pytest_kvm_sea.sim.kvm.hypercalls import NOT_SUPPORTED, smccc_call
from pytest_kvm_sea.sim.kvm.inject import Injector
from pytest_kvm_sea.sim.kvm.mmio import Mmio
from pytest_kvm_sea.sim.kvm.nested import HCR_HCD, Nested, show_el2
from pytest_kvm_sea.sim.kvm.registers import Registers
from pytest_kvm_sea.sim.uaccess import copy_from_user, copy_to_user
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.structures import VCPU_EVENTS_SIZE, KvmRun

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.traps import Trap
    from pytest_kvm_sea.hosts.contract import Argument
    from pytest_kvm_sea.sim.kvm.vm import Vm

SLICE = 100_000
"""Instructions between two looks at signals."""
_MPIDR, _PFR0 = sysreg("mpidr_el1"), sysreg("id_aa64pfr0_el1")
_RAS_SHIFT = 28
_ONE_REG = struct.Struct("<QQ")
_VCPU_INIT = struct.Struct("<8I")
_REG_LIST_COUNT = struct.Struct("<Q")
_INSTRUCTION_SIZE = 4
_ISS_WFE = 1 << 0
_HAS_EL2 = 1 << kvm.KVM_ARM_VCPU_HAS_EL2
_SUPPORTED_FEATURES = 1 << kvm.KVM_ARM_VCPU_POWER_OFF | 1 << kvm.KVM_ARM_VCPU_PSCI_0_2
_KNOWN_FEATURES = (1 << 10) - 1
_SIGSET_SIZE = 8
_WAIT_POLL_SECONDS = 0.05
_FLUSH_POLL_SECONDS = 0.0001


def _mpidr(number: int) -> int:
    """MPIDR_EL1 of a vCPU: 16 at affinity level 0 (reset_mpidr)."""
    return 1 << 31 | number & 0xF | (number >> 4 & 0xFF) << 8


class Vcpu(KvmFile):
    """The file of one vCPU, and the vCPU itself."""

    def __init__(self, vm: Vm, number: int) -> None:
        super().__init__()
        self.vm = vm
        self.number = number
        self._shared = bytearray(2 * vm.behaviour.page_size)
        self.run_page = KvmRun.from_buffer(self._shared)
        self.cpu = Cpu(vm.stage2, vm.features)
        self.cpu.hcr_tea = vm.routes_sea_to_el2
        self.fault = FaultInfo()
        self.inject = Injector(self.cpu, vm.behaviour, vm.stage2, self.fault)
        self.mmio = Mmio(self.cpu, self.run_page, self.fault)
        # What identifies this vCPU, before what the VM's vCPUs have in common.
        own = {_MPIDR: _mpidr(number)}
        self.cpu.id_registers = ChainMap(own, vm.id_registers)
        self.registers = Registers(self.cpu, vm, own)
        self.nested: Nested | None = None
        """The virtual EL2, if KVM_ARM_VCPU_INIT asked for one."""
        self._features: int | None = None
        self._powered_off = False
        self._has_run = False
        self._signal = threading.Event()
        self._generation: object = None
        self._in_guest = False
        self._lock = threading.Lock()
        self.thread: int | None = None
        """The thread that is in KVM_RUN, if one is."""

    # The file

    def unknown_request(self) -> int:
        return errno.EINVAL

    def ioctl(self, request: int, argument: Argument = 0, /) -> int:
        """One ioctl at a time, as vcpu->mutex has it."""
        with self._lock:
            return super().ioctl(request, argument)

    def mmap(self, length: int, /) -> memoryview:
        self._check_open()
        if length > len(self._shared):
            fail(errno.EINVAL)
        return memoryview(self._shared)[:length]

    def signal(self) -> None:
        """A signal is pending for the thread that runs this vCPU."""
        self._signal.set()
        self.cpu.kicked = True

    @property
    def has_ras(self) -> bool:
        """kvm_has_ras: the guest sees FEAT_RAS."""
        return bool(self.vm.id_registers[_PFR0] >> _RAS_SHIFT & 0xF)

    # ioctls

    def _check_initialised(self) -> None:
        if self._features is None:
            fail(errno.ENOEXEC)

    def _init(self, argument: Argument) -> int:
        target, *features = _VCPU_INIT.unpack(read_structure(argument, _VCPU_INIT.size))
        powered_off = bool(features[0] & 1 << kvm.KVM_ARM_VCPU_POWER_OFF)
        wanted = features[0] & ~(1 << kvm.KVM_ARM_VCPU_POWER_OFF)
        if target != kvm.KVM_ARM_TARGET_GENERIC_V8:
            fail(errno.EINVAL)
        if any(features[1:]) or wanted & ~_KNOWN_FEATURES:
            fail(errno.ENOENT)
        supported = _SUPPORTED_FEATURES | (_HAS_EL2 if self.vm.behaviour.nested else 0)
        if wanted & ~supported or self.vm.vcpu_features not in {None, wanted}:
            fail(errno.EINVAL)
        self.vm.vcpu_features = self._features = wanted
        self._powered_off = powered_off
        self._reset()
        return 0

    def _reset(self) -> None:
        self.cpu.reset()
        self.cpu.vserror = None
        if (self._features or 0) & _HAS_EL2:
            self._have_el2()
        self.mmio.needed = False

    def _have_el2(self) -> None:
        if self.nested is None:
            self.nested = self.inject.nested = Nested(self.cpu, self.vm.stage2)
            self.registers.have_el2(self.nested)
            show_el2(self.vm.id_registers)
            show_el2(self.vm.id_limits)
        else:
            self.nested.reset()

    def _get_one_reg(self, argument: Argument) -> int:
        self._check_initialised()
        identifier, address = _ONE_REG.unpack(read_structure(argument, _ONE_REG.size))
        copy_to_user(address, self.registers.get(identifier))
        return 0

    def _set_one_reg(self, argument: Argument) -> int:
        self._check_initialised()
        identifier, address = _ONE_REG.unpack(read_structure(argument, _ONE_REG.size))
        self.registers.check(identifier)
        self.registers.set(identifier, copy_from_user(address, self.registers.size(identifier)))
        return 0

    def _get_reg_list(self, argument: Argument) -> int:
        self._check_initialised()
        (room,) = _REG_LIST_COUNT.unpack(read_structure(argument, _REG_LIST_COUNT.size))
        found = self.registers.ids()
        write_structure(argument, _REG_LIST_COUNT.pack(len(found)))
        if room < len(found):
            fail(errno.E2BIG)
        write_structure(argument, struct.pack(f"<{len(found)}Q", *found), _REG_LIST_COUNT.size)
        return 0

    def _set_signal_mask(self, argument: Argument) -> int:
        """The signals of the simulated process are not those of this one: the mask is checked and has no effect."""
        if isinstance(argument, int) and argument == 0:
            return 0
        if int.from_bytes(read_structure(argument, 4), "little") != _SIGSET_SIZE:
            fail(errno.EINVAL)
        return 0

    def _get_events(self, argument: Argument) -> int:
        self._check_initialised()
        write_structure(argument, events.get_events(self))
        return 0

    def _set_events(self, argument: Argument) -> int:
        self._check_initialised()
        events.set_events(self, read_structure(argument, VCPU_EVENTS_SIZE))
        return 0

    def commit_events(self) -> None:
        """Since 6.17 an exception that an ioctl marked is entered by the ioctl, and cancels an MMIO that waits."""
        if self.vm.behaviour.immediate:
            self._enter_pending()

    # KVM_RUN

    def _run(self, argument: Argument) -> int:
        if as_number(argument):
            fail(errno.EINVAL)
        self._check_initialised()
        self._first_run()
        if self.run_page.exit_reason == kvm.Exit.MMIO and not self.inject.pending:
            self.mmio.complete()
        self.thread = threading.get_ident()
        try:
            if self.run_page.immediate_exit:
                fail(errno.EINTR)
            self.run_page.exit_reason = kvm.Exit.UNKNOWN
            self.run_page.flags = 0
            return self._enter_until_exit()
        finally:
            self.thread = None
            self.inject.retry_serror()
            self._enter_pending()

    def _first_run(self) -> None:
        """Before it a VGIC must be complete, and a vCPU with EL2 must have one (kvm_arch_vcpu_run_pid_change)."""
        if self._has_run:
            return
        if self.vm.vgic is not None:
            self.vm.vgic.check_complete()
        elif self.nested is not None:
            fail(errno.EAGAIN)
        if self.nested is not None:
            self.nested.finalise()
        self._has_run = self.vm.has_run = True

    def _enter_until_exit(self) -> int:
        cpu = self.cpu
        while True:
            # Before the look at the signal: one that comes in between kicks again.
            cpu.kicked = False
            if self._signal.is_set():
                self._take_signal()
            if self._powered_off:
                self._wait_for_signal()
                continue
            self.inject.retry_serror()
            self._enter_pending()
            trap = self._run_slice()
            if trap is None or not self.fault.record(trap, cpu):
                continue
            if not _HANDLERS.get(syndromes.ec(trap.esr), Vcpu._unknown)(self):
                return 0

    def _run_slice(self) -> Trap | None:
        """Guest code for a while, over stage 2 as it is when it begins."""
        self._in_guest = True
        try:
            generation = self.vm.stage2.generation
            if generation != self._generation:
                self._generation = generation
                self.cpu.invalidate_tlb()
            return self.cpu.run(SLICE)
        finally:
            self._in_guest = False

    def flush(self) -> None:
        """What stage 2 was before its last change is used no more when this returns (kvm_flush_remote_tlbs)."""
        generation = self.vm.stage2.generation
        while self._in_guest and self._generation != generation:
            self.cpu.kicked = True
            time.sleep(_FLUSH_POLL_SECONDS)

    def _enter_pending(self) -> None:
        """Enter the exception that is marked, if one is; an MMIO that waits for its completion is void then."""
        if self.inject.commit():
            self.mmio.needed = False

    def _take_signal(self) -> None:
        self._signal.clear()
        self.run_page.exit_reason = kvm.Exit.INTR
        fail(errno.EINTR)

    def _wait_for_signal(self) -> None:
        """Nothing wakes a vCPU but a signal: there are no interrupts here. Short waits let Ctrl-C through."""
        while not self._signal.wait(_WAIT_POLL_SECONDS):
            pass

    # One handler per exception class

    def _abort(self) -> bool:
        return handle_abort(self)

    def _hypercall(self) -> bool:
        """The guest hypervisor's, where there is one, whoever calls."""
        if self.nested is not None:
            if self.nested.hcr & HCR_HCD:
                self.inject.undefined()
            else:
                self.inject.to_el2(self.fault.esr)
            return True
        return smccc_call(self.cpu, self.run_page)

    def _secure_call(self) -> bool:
        self.cpu.pc += _INSTRUCTION_SIZE
        if self.fault.esr & 0xFFFF:
            self.cpu.x[0] = NOT_SUPPORTED
            return True
        return smccc_call(self.cpu, self.run_page)

    def _wait(self) -> bool:
        """WFE goes on, WFI sleeps until something wakes it; an SError that is pending does."""
        self.cpu.pc += _INSTRUCTION_SIZE
        if not self.fault.esr & _ISS_WFE and self.cpu.vserror is None:
            self._wait_for_signal()
        return True

    def _system_access(self) -> bool:
        if self.nested is None or not self.nested.system_access(self.fault.esr):
            self.inject.undefined()
        return True

    def _exception_return(self) -> bool:
        if self.nested is not None:
            self.nested.eret()
        return True

    def _unknown(self) -> bool:
        self.inject.undefined()
        return True

    REQUESTS: ClassVar[Mapping[int, Handler]] = {
        kvm.KVM_RUN: _run,
        kvm.KVM_ARM_VCPU_INIT: _init,
        kvm.KVM_GET_ONE_REG: _get_one_reg,
        kvm.KVM_SET_ONE_REG: _set_one_reg,
        kvm.KVM_GET_REG_LIST: _get_reg_list,
        kvm.KVM_SET_SIGNAL_MASK: _set_signal_mask,
        kvm.KVM_GET_VCPU_EVENTS: _get_events,
        kvm.KVM_SET_VCPU_EVENTS: _set_events,
    }


_HANDLERS: dict[int, Callable[[Vcpu], bool]] = {
    EC.DABT_LOWER: Vcpu._abort,  # noqa: SLF001 - the table is the class's own
    EC.IABT_LOWER: Vcpu._abort,  # noqa: SLF001
    EC.HVC64: Vcpu._hypercall,  # noqa: SLF001
    EC.SMC64: Vcpu._secure_call,  # noqa: SLF001
    EC.WFX: Vcpu._wait,  # noqa: SLF001
    EC.SYSREG: Vcpu._system_access,  # noqa: SLF001
    EC.ERET: Vcpu._exception_return,  # noqa: SLF001
}
