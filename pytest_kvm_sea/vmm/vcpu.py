# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU as a VMM drives it: registers, events, and running it."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.guest.errors import UcallError
from pytest_kvm_sea.guest.ucall import Ucall, UcallCommand, parse_ucall
from pytest_kvm_sea.reports.trace import Step, Who
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.registers import register_id
from pytest_kvm_sea.uapi.structures import KvmRun, OneReg, VcpuInit
from pytest_kvm_sea.vmm.errors import (
    GuestFailure,
    GuestTimeoutError,
    RunError,
    UcallProtocolError,
    UnexpectedExit,
    UnhandledException,
    VmmError,
)
from pytest_kvm_sea.vmm.exits import MmioExit, SeaExit, SigbusExit, VmExit, decode_exit
from pytest_kvm_sea.vmm.watchdog import WATCHDOG

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument, File, Sigbus
    from pytest_kvm_sea.uapi.revisions import AnyVcpuEvents
    from pytest_kvm_sea.vmm.vm import Vm

DEFAULT_TIMEOUT = 10.0
_LOOP_SAMPLES = 8
_SAMPLE_SECONDS = 0.002
_UCALL_SIZE = 8
_NO_UCALL = (1 << 64) - 1
_AFTER_EVENTS = {
    el: tuple(
        (name, register_id(name))
        for name in ("pc", f"vbar_{el}", "pstate", f"esr_{el}", f"far_{el}", f"elr_{el}", f"spsr_{el}")
    )
    for el in ("el1", "el2")
}
"""What tells whether an exception was taken to a level, and how. Read often, so by their numbers."""
_MODE_MASK, _MODE_EL2T = 0xF, 0x8
_HCR_TGE = 1 << 27
_E = TypeVar("_E")


class Vcpu:
    """One vCPU, initialised for AArch64 with PSCI 0.2."""

    def __init__(self, vm: Vm, number: int, file: File, mmap_size: int, *, el2: bool = False) -> None:
        """``el2``: with a virtual EL2, where it starts. OSError EINVAL where KVM offers none."""
        self.vm = vm
        self.number = number
        self.el2 = el2
        self.who = Who(vm.who.vm, number)
        self.running = False
        """Whether some thread is in KVM_RUN: until it is back, the kernel lets nobody else at the registers."""
        self.timeout = DEFAULT_TIMEOUT
        """Seconds that one KVM_RUN may last."""
        self._file = file
        self._mapping = file.mmap(mmap_size)
        self._run_page = KvmRun.from_buffer(self._mapping)
        self._value = ctypes.c_uint64()
        self._one_reg = OneReg(0, ctypes.addressof(self._value))
        self._initialise()

    def _initialise(self) -> None:
        init = VcpuInit()
        self.vm.file.ioctl(kvm.KVM_ARM_PREFERRED_TARGET, init)
        init.features[0] |= 1 << kvm.KVM_ARM_VCPU_PSCI_0_2
        if self.el2:
            init.features[0] |= 1 << kvm.KVM_ARM_VCPU_HAS_EL2
        self._file.ioctl(kvm.KVM_ARM_VCPU_INIT, init)
        mask = self.vm.host.run_mask()
        self._file.ioctl(kvm.KVM_SET_SIGNAL_MASK, bytearray(len(mask).to_bytes(4, "little") + mask))

    def ioctl(self, request: int, argument: Argument = 0) -> int:
        """Any request on the vCPU's file, for what has no method here. Raises OSError with the kernel's errno."""
        return self._file.ioctl(request, argument)

    # Registers

    def get_reg(self, name: str) -> int:
        """KVM_GET_ONE_REG of a 64-bit register: ``x0``, ``pc``, ``pstate``, ``sp_el1``, ``esr_el1`` …"""
        return self.get_reg_by_id(register_id(name))

    def get_reg_by_id(self, identifier: int) -> int:
        """KVM_GET_ONE_REG of a 64-bit register by KVM's own number."""
        self._one_reg.id = identifier
        self._file.ioctl(kvm.KVM_GET_ONE_REG, self._one_reg)
        return self._value.value

    def set_reg(self, name: str, value: int) -> None:
        """KVM_SET_ONE_REG."""
        self._one_reg.id = register_id(name)
        self._value.value = value
        self._file.ioctl(kvm.KVM_SET_ONE_REG, self._one_reg)

    @property
    def regime(self) -> str:
        """``el2`` where EL2 owns what the vCPU runs, itself or its EL0 (HCR_EL2.TGE); else ``el1``."""
        if not self.el2:
            return "el1"
        mode = self.get_reg("pstate") & _MODE_MASK
        tge = not mode and self.get_reg("hcr_el2") & _HCR_TGE
        return "el2" if mode >= _MODE_EL2T or tge else "el1"

    def registers(self, *names: str) -> dict[str, int]:
        """Several registers at once."""
        return {name: self.get_reg(name) for name in names}

    # Events

    def get_events(self) -> AnyVcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        events = self.vm.revision.vcpu_events()
        self._file.ioctl(kvm.KVM_GET_VCPU_EVENTS, events)
        return events

    def set_events(self, events: AnyVcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS. Raises OSError with the kernel's errno."""
        code = 0
        try:
            self._file.ioctl(kvm.KVM_SET_VCPU_EVENTS, events)
        except OSError as error:
            code = error.errno or 0
            raise
        finally:
            if self.vm.trace.enabled:
                self._tell_events(events, code)

    def _tell_events(self, events: AnyVcpuEvents, code: int) -> None:
        """Note what was asked for, and what became of it: KVM takes the exception at once, or leaves it pending."""
        fields = events.exception
        state = {name: self.get_reg_by_id(identifier) for name, identifier in _AFTER_EVENTS[self.regime]}
        self.vm.trace.add(
            Step.EVENTS,
            self.who,
            fields.ext_dabt_pending,
            getattr(fields, "ext_iabt_pending", 0),
            fields.serror_pending,
            fields.serror_esr if fields.serror_has_esr else None,
            code,
            state,
        )

    def inject_data_abort(self, iss: int | None = None) -> None:
        """Ask KVM for an external data abort at the address of the last one (ext_dabt_pending).

        ``iss``: bits for the syndrome, 25 at most, where the revision takes them (VmmError where it does not).
        """
        events = self._abort_events(iss)
        events.exception.ext_dabt_pending = 1
        self.set_events(events)

    def inject_instruction_abort(self, iss: int | None = None) -> None:
        """Ask KVM for an external instruction abort (ext_iabt_pending). VmmError where the revision has none."""
        if self.vm.revision.cap_inject_ext_iabt is None:
            raise VmmError(
                f"revision {self.vm.revision.name} has no ext_iabt_pending; use vmm.injection.write_abort instead"
            )
        events = self._abort_events(iss)
        events.exception.ext_iabt_pending = 1
        self.set_events(events)

    def _abort_events(self, iss: int | None) -> Any:
        """Events with a syndrome for an abort; which fields there are depends on the revision."""
        events = self.vm.revision.vcpu_events()
        if iss is not None:
            if not self.vm.revision.injects_with_esr:
                raise VmmError(
                    f"revision {self.vm.revision.name} takes no syndrome for an abort; use vmm.injection.write_abort"
                )
            events.exception.ext_abt_has_esr = 1
            events.exception.ext_abt_esr = iss
        return events

    def inject_serror(self, syndrome: int | None = None) -> None:
        """Ask KVM for an SError, with a syndrome (ISS, 25 bits) of one's own if given."""
        events = self.vm.revision.vcpu_events()
        events.exception.serror_pending = 1
        if syndrome is not None:
            events.exception.serror_has_esr = 1
            events.exception.serror_esr = syndrome
        self.set_events(events)

    # Running

    @property
    def pc(self) -> GuestVA:
        return GuestVA(self.get_reg("pc"))

    def where(self) -> str:
        """The guest's PC in terms of its program, for messages."""
        return self.vm.locate(self.pc)

    def run(self) -> VmExit:
        """KVM_RUN until it returns to the VMM.

        A SIGBUS that comes meanwhile is a result (SigbusExit), other interruptions are resumed. Raises RunError with
        the kernel's errno, GuestTimeoutError when it takes longer than `timeout`.
        """
        trace = self.vm.trace
        with self.vm.host.capture_sigbus() as signals:
            while True:
                trace.add(Step.RUN, self.who)
                code = self._run_once()
                if received := signals():
                    return self._tell(SigbusExit(tuple(received)))
                if code == 0 or (code == errno.EFAULT and self._run_page.exit_reason == kvm.Exit.MEMORY_FAULT):
                    return self._tell(decode_exit(self._run_page, self.vm.revision))
                if code == errno.EINTR:
                    trace.add(Step.INTERRUPTED, self.who)
                else:
                    trace.add(Step.RUN_FAILED, self.who, code, self.pc)
                    raise RunError(
                        f"KVM_RUN failed with {errno.errorcode.get(code, code)} ({os.strerror(code)}), guest at "
                        f"{self.where()}",
                        code,
                    )

    def _tell(self, result: VmExit) -> VmExit:
        """Note an exit; with the PC where it says something that the exit does not."""
        trace = self.vm.trace
        if isinstance(result, MmioExit):
            trace.add(Step.EXIT, self.who, result, None)
        elif trace.enabled:
            if isinstance(result, SigbusExit):
                for signal in result.signals:
                    trace.broke(hva=signal.address, lsb=signal.lsb)
            elif isinstance(result, SeaExit) and result.gpa_valid:
                trace.broke(ipa=result.gpa)
            trace.add(Step.EXIT, self.who, result, self.pc)
        return result

    @property
    def exit_reason(self) -> int:
        """kvm_run.exit_reason, as the last KVM_RUN left it."""
        return int(self._run_page.exit_reason)

    def answer_mmio(self, data: bytes) -> None:
        """What the load that caused the last MmioExit is to find; at most 8 bytes."""
        for position, byte in enumerate(data):
            self._run_page.mmio.data[position] = byte

    def run_interrupted(self) -> int:
        """KVM_RUN with immediate_exit: what waits is completed, no guest code runs. The errno, EINTR as a rule."""
        self._run_page.immediate_exit = 1
        try:
            return self._ioctl_run()
        finally:
            self._run_page.immediate_exit = 0

    def _run_once(self) -> int:
        """One KVM_RUN under the watchdog: errno, or 0."""
        thread = threading.get_ident()
        with WATCHDOG.guard(self.timeout, lambda: self.vm.host.interrupt(thread)) as deadline:
            code = self._ioctl_run()
        if deadline.expired:
            self.vm.trace.add(Step.TIMEOUT, self.who, self.timeout, self.pc)
            raise GuestTimeoutError(self._timeout_text())
        return code

    def _ioctl_run(self) -> int:
        if self.el2:
            self.vm.complete_for_el2()
        self.running = True
        try:
            self._file.ioctl(kvm.KVM_RUN)
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        finally:
            self.running = False
        return 0

    def _timeout_text(self) -> str:
        return (
            f"the guest did not end within {self.timeout:g} s; it was last at {self.where()}"
            f" and loops over {', '.join(self._sample_loop())}"
        )

    def _sample_loop(self) -> list[str]:
        """Where the guest is, looked at a few times more."""
        places = {self.pc: None}
        thread = threading.get_ident()
        for _ in range(_LOOP_SAMPLES):
            with WATCHDOG.guard(_SAMPLE_SECONDS, lambda: self.vm.host.interrupt(thread)):
                code = self._ioctl_run()
            if code != errno.EINTR:
                break
            places[self.pc] = None
        return [self.vm.locate(pc) for pc in sorted(places)]

    # Talking with the guest

    def resume(self) -> Ucall | VmExit:
        """Run until the guest says something (SYNC, DONE) or there is an exit that is no ucall.

        What it prints goes to `Vm.console`. Raises GuestFailure for a failed assertion of the guest,
        UnhandledException, UcallProtocolError for what is not a ucall, and what `run` raises.
        """
        while True:
            result = self._exchange()
            if not isinstance(result, Ucall):
                return result
            if result.cmd is UcallCommand.PRINTF:
                self.vm.console.append(result.text)
            elif result.cmd is UcallCommand.ABORT:
                raise self._failure(result)
            elif result.cmd is UcallCommand.UNHANDLED:
                raise self._unhandled(result)
            else:
                return result

    def next_ucall(self) -> Ucall:
        """Run until the guest calls the VMM, whatever it has to say. Raises UnexpectedExit for any other exit."""
        result = self._exchange()
        if not isinstance(result, Ucall):
            raise UnexpectedExit(f"expected a ucall, got {result}; guest at {self.where()}")
        return result

    def _exchange(self) -> Ucall | VmExit:
        """One run; a store to the ucall address is taken apart and completed."""
        result = self.run()
        if not isinstance(result, MmioExit) or result.address != self.vm.ucall_address:
            return result
        ucall = self._ucall(result)
        self.vm.trace.add(Step.UCALL, self.who, ucall)
        self._complete_io()
        return ucall

    def _ucall(self, mmio: MmioExit) -> Ucall:
        if not mmio.is_write or mmio.size != _UCALL_SIZE:
            raise UcallProtocolError(f"a ucall is a store of 8 bytes, not this {mmio}; guest at {self.where()}")
        address = int.from_bytes(mmio.data, "little")
        if address == 0:
            return Ucall(UcallCommand.NONE, (0,) * 7)
        if address == _NO_UCALL:
            raise UcallProtocolError(f"the guest had no room for a ucall structure; guest at {self.where()}")
        try:
            return parse_ucall(address, self.vm.reader)
        except UcallError as error:
            raise UcallProtocolError(f"{error}; guest at {self.where()}") from None

    def _complete_io(self) -> None:
        """Let KVM finish the store, so that the PC is past it."""
        code = self.run_interrupted()
        if code != errno.EINTR:
            raise RunError(
                f"KVM_RUN with immediate_exit gave {errno.errorcode.get(code, code)} in place of EINTR", code
            )

    def _failure(self, ucall: Ucall) -> GuestFailure:
        text = f": {ucall.text}" if ucall.text else ""
        return GuestFailure(
            f"guest assertion failed: {ucall.expression}{text}\n"
            f"  at {ucall.file}:{ucall.line}, guest PC {self.where()}",
            self.pc,
        )

    def _unhandled(self, ucall: Ucall) -> UnhandledException:
        state = self.registers("esr_el1", "far_el1", "elr_el1", "spsr_el1")
        cause = f"exception class {ucall.ec:#x}" if ucall.valid_ec else "an interrupt or SError"
        values = " ".join(f"{name}={value:#x}" for name, value in state.items())
        elr = GuestVA(state["elr_el1"])
        return UnhandledException(
            f"the guest took an exception that it has no handler for: vector {ucall.vector}, {cause}\n"
            f"  {values}\n  at {self.vm.locate(elr)}",
            elr,
        )

    # What a test waits for

    def expect(self, kind: type[_E]) -> _E:
        """Resume until an exit of this class. Raises UnexpectedExit that says what came instead."""
        result = self.resume()
        if not isinstance(result, kind):
            raise UnexpectedExit(f"expected {kind.__name__}, got {_describe(result)}; guest at {self.where()}")
        return result

    def expect_sea(self) -> SeaExit:
        """Resume until KVM_EXIT_ARM_SEA."""
        return self.expect(SeaExit)

    def expect_done(self) -> None:
        """Resume until the guest says that it is done."""
        self._expect_ucall(UcallCommand.DONE)

    def expect_sync(self, stage: int) -> None:
        """Resume until the guest says that it reached this stage."""
        ucall = self._expect_ucall(UcallCommand.SYNC)
        if ucall.stage != stage:
            raise UnexpectedExit(f"expected stage {stage}, got stage {ucall.stage}; guest at {self.where()}")

    def expect_sigbus(self) -> tuple[Sigbus, ...]:
        """Resume until the kernel sends SIGBUS."""
        return self.expect(SigbusExit).signals

    def _expect_ucall(self, command: UcallCommand) -> Ucall:
        result = self.resume()
        if not isinstance(result, Ucall) or result.cmd is not command:
            raise UnexpectedExit(
                f"expected the guest's {command.name}, got {_describe(result)}; guest at {self.where()}"
            )
        return result

    def close(self) -> None:
        """Close the file and let go of the shared page: KVM keeps a VM for as long as a vCPU of it is mapped."""
        self._file.close()
        self._run_page = KvmRun()
        self._mapping = memoryview(bytearray())


def _describe(result: Ucall | VmExit) -> str:
    if isinstance(result, Ucall):
        return f"the guest's {result.cmd.name}"
    return str(result)
