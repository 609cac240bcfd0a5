# SPDX-License-Identifier: GPL-2.0-only
"""What the VMM makes of a guest: results, and errors that say where and what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.layout import DEFAULT_UCALL_MMIO
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.vmm.errors import (
    GuestFailure,
    GuestTimeoutError,
    RunError,
    UcallProtocolError,
    UnexpectedExit,
    UnhandledException,
    VmmError,
)
from pytest_kvm_sea.vmm.exits import MmioExit, SeaExit, SystemEventExit
from pytest_kvm_sea.vmm.vm import Vm

MakeVm = Callable[..., Vm]
PSCI_SYSTEM_OFF = 0x8400_0008


def program(code: Callable[[Guest], None]) -> GuestProgram:
    return GuestProgram.build(code, globals={"value": 7})


def store_ucall(value: int, size: int = 8) -> Callable[[Guest], None]:
    def code(g: Guest) -> None:
        (g.write_u64 if size == 8 else g.write_u32)(DEFAULT_UCALL_MMIO, value)
        g.done()

    return code


def test_a_guest_prints_and_is_done(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.printf("one %d\n", 1)
        g.sync(3)
        g.printf("global %lu\n", g.load_global("value"))
        g.done()

    vm = make_vm(program(code))
    (vcpu,) = vm.vcpus
    vcpu.expect_sync(3)
    assert vm.console == ["one 1\n"]
    assert vm.get_global("value") == 7
    vm.set_global("value", 1 << 63)
    vcpu.expect_done()
    assert vm.console[1:] == [f"global {1 << 63}\n"]


def test_failed_assertion_names_line_and_pc(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.assert_eq(g.load_global("value"), 8)
        g.done()

    with pytest.raises(GuestFailure, match=r"0x7 != 0x8.*\n.*test_vcpu\.py:\d+, guest PC code\+0x") as caught:
        make_vm(program(code)).vcpus[0].expect_done()
    assert isinstance(caught.value, AssertionError)


def test_unhandled_exception_tells_syndrome_and_place(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.brk(5)

    with pytest.raises(UnhandledException, match=r"vector 4, exception class 0x3c\n.*esr_el1=0xf2000005.*\n.*code\+0x"):
        make_vm(program(code)).vcpus[0].expect_done()


def test_undefined_instruction_is_the_guests_problem(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.word(0)

    with pytest.raises(UnhandledException, match=r"exception class 0x0\n.*esr_el1=0x2000000"):
        make_vm(program(code)).vcpus[0].expect_done()


def test_endless_loop_ends_in_bounded_time_and_says_where(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        counter = g.variable(0)
        with g.loop():
            counter.set(counter + 1)

    vm = make_vm(program(code))
    vm.vcpus[0].timeout = 0.05
    started = time.monotonic()
    with pytest.raises(GuestTimeoutError, match=r"did not end within 0\.05 s.*code\+0x.*test_vcpu\.py:\d+"):
        vm.vcpus[0].expect_done()
    assert time.monotonic() - started < 5


def test_waiting_guest_ends_too(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.wfi()
        g.done()

    vm = make_vm(program(code))
    vm.vcpus[0].timeout = 0.02
    with pytest.raises(GuestTimeoutError):
        vm.vcpus[0].expect_done()


def test_time_out_in_another_thread(make_vm: MakeVm) -> None:
    """A time-out is for the thread that runs the vCPU, and no other."""

    def code(g: Guest) -> None:
        with g.loop():
            g.nop()

    vm = make_vm(program(code))
    other = vm.add_vcpu()
    vm.vcpus[0].timeout, other.timeout = 0.05, 0.3
    ends: dict[int, float] = {}

    def run(number: int) -> None:
        with pytest.raises(GuestTimeoutError):
            vm.vcpus[number].run()
        ends[number] = time.monotonic()

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends[1] - started >= 0.3


HOSTILE = {
    "outside memory": (store_ucall(0x7FFF_FFFF_F000), "0x7ffffffff000.*not mapped"),
    "not an address": (store_ucall(0xDEAD_BEEF_DEAD_BEEF), "48 bits"),
    "the end of memory": (store_ucall(0x28_0000 - 8), "not"),
    "no room": (store_ucall((1 << 64) - 1), "no room for a ucall"),
    "too small": (store_ucall(0x1000, size=4), "a ucall is a store of 8 bytes, not this MMIO: store of 4 bytes"),
    "unknown command": (store_ucall(0x1_0000), "unknown command|not mapped|ucall"),
}


@pytest.mark.parametrize(("code", "text"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_a_ucall(make_vm: MakeVm, code: Callable[[Guest], None], text: str) -> None:
    with pytest.raises(UcallProtocolError, match=f"(?s)({text}).*guest at .*code\\+0x"):
        make_vm(program(code)).vcpus[0].resume()


def test_load_from_the_ucall_address(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.read_u64(DEFAULT_UCALL_MMIO)
        g.done()

    with pytest.raises(UcallProtocolError, match="not this MMIO: load of 8 bytes"):
        make_vm(program(code)).vcpus[0].resume()


def test_mmio_elsewhere_is_an_exit(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.write_u16(0x3000_0002, 0xBEEF)
        g.sync(g.read_u8(0x3000_0000))
        g.done()

    vm = make_vm(program(code))
    vm.map(GuestVA(0x3000_0000), GuestPA(0x3000_0000), 1, device=True)
    (vcpu,) = vm.vcpus
    store = vcpu.expect(MmioExit)
    assert (store.address, store.size, store.is_write, store.data) == (0x3000_0002, 2, True, b"\xef\xbe")
    load = vcpu.expect(MmioExit)
    assert (load.address, load.size, load.is_write) == (0x3000_0000, 1, False)
    vcpu.answer_mmio(b"\x2a")
    vcpu.expect_sync(0x2A)
    vcpu.expect_done()


def test_switching_off(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.hvc(0, PSCI_SYSTEM_OFF)

    assert make_vm(program(code)).vcpus[0].expect(SystemEventExit) == SystemEventExit(1)


def test_unexpected_results_are_told(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.sync(1)
        g.done()

    (vcpu,) = make_vm(program(code)).vcpus
    with pytest.raises(UnexpectedExit, match="expected SeaExit, got the guest's SYNC; guest at code"):
        vcpu.expect(SeaExit)
    with pytest.raises(UnexpectedExit, match="expected the guest's SYNC, got the guest's DONE"):
        vcpu.expect_sync(2)


def test_wrong_stage_is_told(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.sync(1)

    with pytest.raises(UnexpectedExit, match="expected stage 2, got stage 1"):
        make_vm(program(code)).vcpus[0].expect_sync(2)


def test_run_error_keeps_the_errno(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.read_pair(0x3000_0000)

    vm = make_vm(program(code))
    vm.map(GuestVA(0x3000_0000), GuestPA(0x3000_0000), 1)
    with pytest.raises(RunError, match=r"KVM_RUN failed with ENOSYS \(Function not implemented\), guest at code"):
        vm.vcpus[0].resume()


def test_instruction_abort_where_the_revision_has_none(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.done()

    with pytest.raises(VmmError, match=r"mainline has no ext_iabt_pending; use vmm\.injection\.write_abort"):
        make_vm(program(code)).vcpus[0].inject_instruction_abort()


def test_unknown_symbol_lists_the_known(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.done()

    with pytest.raises(VmmError, match=r"no symbol 'valu'.*value"):
        make_vm(program(code)).get_global("valu")


def test_ucall_address_in_memory(make_vm: MakeVm) -> None:
    def code(g: Guest) -> None:
        g.done()

    with pytest.raises(VmmError, match="0x100000 is memory"):
        make_vm(GuestProgram.build(code, ucall_mmio=GuestVA(0x10_0000)))


@pytest.mark.parametrize("ipa_bits", [36, 40, 48])
def test_address_spaces(make_vm: MakeVm, ipa_bits: int) -> None:
    vm = make_vm(ipa_bits=ipa_bits)
    assert vm.max_gpa == 1 << ipa_bits
    vm.add_memory(GuestPA(vm.max_gpa - 0x1_0000), 0x1_0000)
    with pytest.raises(OSError, match="Bad address"):
        vm.add_memory(GuestPA(vm.max_gpa), 0x1_0000)


def test_small_hosts_get_small_vms(make_vm: MakeVm) -> None:
    with pytest.raises(OSError, match="Invalid"):
        make_vm(ipa_bits=52)


def test_close_twice(make_vm: MakeVm) -> None:
    vm = make_vm()
    vm.close()
    vm.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        vm.check_extension(1)
