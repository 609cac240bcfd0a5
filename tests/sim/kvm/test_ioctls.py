# SPDX-License-Identifier: GPL-2.0-only
"""The simulated KVM's ioctls, as a program that knows only the kernel's API sees them."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.hosts.contract import File
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.registers import CORE_IDS, register_id
from pytest_kvm_sea.uapi.structures import EnableCap, KvmRun, OneReg, UserspaceMemoryRegion, VcpuEvents, VcpuInit

PSCI = 1 << kvm.KVM_ARM_VCPU_PSCI_0_2


class Guest:
    """File descriptors of one VM, and its memory."""

    def __init__(self, platform: str = "ampereone", vm_type: int = 0) -> None:
        self.host = SimHost(load_platform(platform))
        self.dev = self.host.open("/dev/kvm", os.O_RDWR)
        self.vm = self.host.adopt(self.dev.ioctl(kvm.KVM_CREATE_VM, vm_type))
        self.vcpu = self.host.adopt(self.vm.ioctl(kvm.KVM_CREATE_VCPU, 0))
        self.run = KvmRun.from_buffer(self.vcpu.mmap(self.dev.ioctl(kvm.KVM_GET_VCPU_MMAP_SIZE)))

    def init(self) -> Guest:
        self.vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(kvm.KVM_ARM_TARGET_GENERIC_V8))
        return self

    def load(self, *words: int) -> Guest:
        self.memory = self.host.map_memory(0x1_0000)
        self.memory.view[: 4 * len(words)] = struct.pack(f"<{len(words)}I", *words)
        self.vm.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, UserspaceMemoryRegion(0, 0, 0, 0x1_0000, self.memory.address))
        return self


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.host.close()


def failing(file: File, request: int, argument: object = 0) -> int:
    """The errno that an ioctl gives."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what is asked for
        file.ioctl(request, argument)  # type: ignore[arg-type] # also what nobody would pass
    assert caught.value.errno is not None
    return caught.value.errno


def get_reg(guest: Guest, identifier: int) -> int:
    value = ctypes.c_uint64()
    guest.vcpu.ioctl(kvm.KVM_GET_ONE_REG, OneReg(identifier, ctypes.addressof(value)))
    return value.value


def set_reg(guest: Guest, identifier: int, number: int) -> None:
    value = ctypes.c_uint64(number)
    guest.vcpu.ioctl(kvm.KVM_SET_ONE_REG, OneReg(identifier, ctypes.addressof(value)))


def test_device(guest: Guest) -> None:
    assert guest.dev.ioctl(kvm.KVM_GET_API_VERSION) == 12
    assert guest.dev.ioctl(kvm.KVM_GET_VCPU_MMAP_SIZE) == 0x2000
    assert failing(guest.dev, kvm.KVM_GET_API_VERSION, 1) == errno.EINVAL
    assert failing(guest.dev, kvm.KVM_RUN) == errno.EINVAL


CAPABILITIES = {
    # platform: capability -> value, as KVM_CHECK_EXTENSION gives it on the device and on a VM
    "ampereone": {245: 1, 240: 0, 241: 0, 178: 1, 177: 1, 158: 1, 41: 1, 165: 48, 10: 32767, 81: 1, 136: 1, 9999: 0},
    "series-v1": {245: 0, 240: 1, 241: 1, 178: 1},
    "no-sea-capability": {245: 0, 240: 0, 241: 0, 178: 1},
    "no-ras": {245: 1, 158: 0},
}


@pytest.mark.parametrize(("platform", "expected"), CAPABILITIES.items())
def test_capabilities(platform: str, expected: dict[int, int]) -> None:
    guest = Guest(platform)
    for file in (guest.dev, guest.vm):
        assert {number: file.ioctl(kvm.KVM_CHECK_EXTENSION, number) for number in expected} == expected


@pytest.mark.parametrize(("vm_type", "number"), [(31, errno.EINVAL), (49, errno.EINVAL), (1 << 8, errno.EINVAL)])
def test_vm_types_that_are_refused(guest: Guest, vm_type: int, number: int) -> None:
    assert failing(guest.dev, kvm.KVM_CREATE_VM, vm_type) == number


@pytest.mark.parametrize("bits", [32, 36, 40, 48])
def test_the_size_of_the_address_space(bits: int) -> None:
    guest = Guest(vm_type=bits)
    memory = guest.host.map_memory(0x1000)
    top = UserspaceMemoryRegion(0, 0, (1 << bits) - 0x1000, 0x1000, memory.address)
    assert guest.vm.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, top) == 0
    beyond = UserspaceMemoryRegion(1, 0, 1 << bits, 0x1000, memory.address)
    assert failing(guest.vm, kvm.KVM_SET_USER_MEMORY_REGION, beyond) == errno.EFAULT


def test_enable_cap(guest: Guest) -> None:
    for capability in (245, 177):
        guest.vm.ioctl(kvm.KVM_ENABLE_CAP, EnableCap(cap=capability))
        guest.vm.ioctl(kvm.KVM_ENABLE_CAP, EnableCap(cap=capability, args=(1, 2, 3, 4)))
        assert failing(guest.vm, kvm.KVM_ENABLE_CAP, EnableCap(cap=capability, flags=1)) == errno.EINVAL
    for capability in (178, 158, 240, 241, 9999):
        assert failing(guest.vm, kvm.KVM_ENABLE_CAP, EnableCap(cap=capability)) == errno.EINVAL


def test_vcpus(guest: Guest) -> None:
    assert failing(guest.vm, kvm.KVM_CREATE_VCPU, 0) == errno.EEXIST
    assert failing(guest.vm, kvm.KVM_CREATE_VCPU, 512) == errno.EINVAL
    other = guest.host.adopt(guest.vm.ioctl(kvm.KVM_CREATE_VCPU, 17))
    other.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(kvm.KVM_ARM_TARGET_GENERIC_V8))
    value = ctypes.c_uint64()
    other.ioctl(kvm.KVM_GET_ONE_REG, OneReg(register_id("mpidr_el1"), ctypes.addressof(value)))
    assert value.value == 0x8000_0101


BEFORE_INIT = {
    "KVM_GET_ONE_REG": OneReg(CORE_IDS["x0"], 0),
    "KVM_SET_ONE_REG": OneReg(CORE_IDS["x0"], 0),
    "KVM_GET_REG_LIST": bytearray(8),
    "KVM_GET_VCPU_EVENTS": VcpuEvents(),
    "KVM_SET_VCPU_EVENTS": VcpuEvents(),
    "KVM_RUN": 0,
}


@pytest.mark.parametrize(("name", "argument"), BEFORE_INIT.items())
def test_nothing_works_before_init(guest: Guest, name: str, argument: object) -> None:
    assert failing(guest.vcpu, getattr(kvm, name), argument) == errno.ENOEXEC


INITS = {
    "unknown target": (VcpuInit(3), errno.EINVAL),
    "AArch32": (VcpuInit(5, (1 << kvm.KVM_ARM_VCPU_EL1_32BIT,)), errno.EINVAL),
    "unknown feature": (VcpuInit(5, (1 << 30,)), errno.ENOENT),
    "feature in another word": (VcpuInit(5, (0, 1)), errno.ENOENT),
}


@pytest.mark.parametrize(("init", "number"), INITS.values(), ids=INITS)
def test_init_that_is_refused(guest: Guest, init: VcpuInit, number: int) -> None:
    assert failing(guest.vcpu, kvm.KVM_ARM_VCPU_INIT, init) == number


def test_init_again_resets_but_keeps_its_features(guest: Guest) -> None:
    guest.vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(5, (PSCI,)))
    set_reg(guest, CORE_IDS["x5"], 7)
    assert failing(guest.vcpu, kvm.KVM_ARM_VCPU_INIT, VcpuInit(5)) == errno.EINVAL
    assert get_reg(guest, CORE_IDS["x5"]) == 7
    guest.vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(5, (PSCI,)))
    assert get_reg(guest, CORE_IDS["x5"]) == 0


def test_all_vcpus_of_a_vm_have_the_same_features(guest: Guest) -> None:
    guest.vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(5, (PSCI,)))
    other = guest.host.adopt(guest.vm.ioctl(kvm.KVM_CREATE_VCPU, 1))
    assert failing(other, kvm.KVM_ARM_VCPU_INIT, VcpuInit(5)) == errno.EINVAL
    other.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(5, (PSCI,)))


def test_an_id_register_may_grow_back_to_what_the_host_has(guest: Guest) -> None:
    guest.init()
    identifier = register_id("id_aa64pfr0_el1")
    host_has = get_reg(guest, identifier)
    set_reg(guest, identifier, host_has & ~(0xF << 28))
    set_reg(guest, identifier, host_has)
    assert get_reg(guest, identifier) == host_has


def test_the_guest_sees_the_mpidr_that_is_set(guest: Guest) -> None:
    guest.init().load(0xD538_00A0, 0x3900_0020)  # mrs x0, mpidr_el1; strb w0, [x1]
    set_reg(guest, register_id("mpidr_el1"), 0x8000_0005)
    set_reg(guest, CORE_IDS["x1"], 0x800_0000)
    guest.vcpu.ioctl(kvm.KVM_RUN)
    assert get_reg(guest, CORE_IDS["x0"]) == get_reg(guest, register_id("mpidr_el1")) == 0x8000_0005


def test_an_unknown_register_is_told_before_a_bad_address(guest: Guest) -> None:
    assert failing(guest.init().vcpu, kvm.KVM_SET_ONE_REG, OneReg(register_id("s3_0_c15_c15_7"), 8)) == errno.ENOENT


def test_memory_is_gone_when_the_ioctl_returns(guest: Guest) -> None:
    """Another thread runs the guest, which counts in memory; after the slot is deleted not one store arrives."""
    ldr, add, str_, loop = 0xF940_0020, 0x9100_0400, 0xF900_0020, 0x17FF_FFFD
    guest.init().load(ldr, add, str_, loop)
    data = guest.host.map_memory(0x1_0000)
    guest.vm.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, UserspaceMemoryRegion(1, 0, 0x10_0000, 0x1_0000, data.address))
    set_reg(guest, CORE_IDS["x1"], 0x10_0000)
    runner = threading.Thread(target=lambda: guest.vcpu.ioctl(kvm.KVM_RUN))
    runner.start()
    while not data.view[0]:
        time.sleep(0.001)
    guest.vm.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, UserspaceMemoryRegion(1, 0, 0x10_0000, 0, data.address))
    count = bytes(data.view[:8])
    runner.join(10)
    assert not runner.is_alive()
    assert guest.run.exit_reason == kvm.Exit.MMIO
    assert bytes(data.view[:8]) == count


def test_preferred_target(guest: Guest) -> None:
    init = VcpuInit()
    guest.vm.ioctl(kvm.KVM_ARM_PREFERRED_TARGET, init)
    assert (init.target, list(init.features)) == (5, [0] * 7)


REGISTER_IDS = {
    "another architecture": (0x7030_0000_0000_0000, errno.EINVAL),
    "an offset that is no field": (CORE_IDS["x1"] + 1, errno.EINVAL),
    "the wrong size": (CORE_IDS["x1"] - (1 << 52), errno.EINVAL),
    "beyond the structure": (CORE_IDS["x0"] | 0x1000, errno.ENOENT),
    "a system register that KVM does not have": (register_id("s3_0_c15_c15_7"), errno.ENOENT),
    "a system register of 32 bits": (register_id("esr_el1") - (1 << 52), errno.ENOENT),
    "firmware register": (0x6030_0000_0014_0000, errno.ENOENT),
}


@pytest.mark.parametrize(("identifier", "number"), REGISTER_IDS.values(), ids=REGISTER_IDS)
def test_register_ids_that_are_refused(guest: Guest, identifier: int, number: int) -> None:
    value = ctypes.create_string_buffer(16)
    for request in (kvm.KVM_GET_ONE_REG, kvm.KVM_SET_ONE_REG):
        assert failing(guest.init().vcpu, request, OneReg(identifier, ctypes.addressof(value))) == number


@pytest.mark.parametrize("address", [0, 8, (1 << 64) - 8, 1 << 47])
def test_bad_addresses_are_efault(guest: Guest, address: int) -> None:
    for request in (kvm.KVM_GET_ONE_REG, kvm.KVM_SET_ONE_REG):
        assert failing(guest.init().vcpu, request, OneReg(CORE_IDS["x0"], address)) == errno.EFAULT
    for request in (kvm.KVM_GET_VCPU_EVENTS, kvm.KVM_SET_VCPU_EVENTS, kvm.KVM_GET_ONE_REG):
        assert failing(guest.vcpu, request, address) == errno.EFAULT
    assert failing(guest.vcpu, kvm.KVM_SET_VCPU_EVENTS, bytearray(63)) == errno.EFAULT


def test_structures_may_be_given_by_address(guest: Guest) -> None:
    value = ctypes.c_uint64(99)
    one_reg = OneReg(CORE_IDS["x3"], ctypes.addressof(value))
    guest.init().vcpu.ioctl(kvm.KVM_SET_ONE_REG, ctypes.addressof(one_reg))
    assert get_reg(guest, CORE_IDS["x3"]) == 99


def test_every_listed_register_can_be_read_and_written_back(guest: Guest) -> None:
    count = bytearray(8)
    assert failing(guest.init().vcpu, kvm.KVM_GET_REG_LIST, count) == errno.E2BIG
    number = int.from_bytes(count, "little")
    listed = bytearray(struct.pack("<Q", number) + bytes(8 * number))
    guest.vcpu.ioctl(kvm.KVM_GET_REG_LIST, listed)
    identifiers = struct.unpack(f"<{number}Q", listed[8:])
    assert len(set(identifiers)) == number
    assert {CORE_IDS["pc"], register_id("esr_el1"), register_id("id_aa64pfr0_el1")} <= set(identifiers)
    for identifier in identifiers:
        value = ctypes.create_string_buffer(16)
        one_reg = OneReg(identifier, ctypes.addressof(value))
        guest.vcpu.ioctl(kvm.KVM_GET_ONE_REG, one_reg)
        guest.vcpu.ioctl(kvm.KVM_SET_ONE_REG, one_reg)


PLAIN = ["x0", "x30", "pc", "sp_el0", "sp_el1", "elr_el1", "spsr_el1", "esr_el1", "far_el1", "tpidr_el0", "spsr_abt"]


@pytest.mark.parametrize("name", PLAIN)
def test_registers_hold_what_is_written(guest: Guest, name: str) -> None:
    guest.init()
    others = {other: get_reg(guest, register_id(other)) for other in PLAIN if other != name}
    set_reg(guest, register_id(name), 0x1122_3344_5566_7788)
    assert get_reg(guest, register_id(name)) == 0x1122_3344_5566_7788
    assert {other: get_reg(guest, register_id(other)) for other in others} == others


@pytest.mark.parametrize(("pstate", "good"), [(0x3C5, True), (0x0, True), (0x4, True), (0x9, False), (0x1F, False)])
def test_modes(guest: Guest, pstate: int, good: bool) -> None:
    guest.init()
    if good:
        set_reg(guest, CORE_IDS["pstate"], pstate)
        assert get_reg(guest, CORE_IDS["pstate"]) == pstate
    else:
        with pytest.raises(OSError, match="Invalid"):
            set_reg(guest, CORE_IDS["pstate"], pstate)


def test_immediate_exit_completes_the_mmio_and_runs_nothing(guest: Guest) -> None:
    ldrb_x0_x1, nop = 0x3940_0020, 0xD503_201F
    guest.init().load(ldrb_x0_x1, nop, 0x1400_0000)
    set_reg(guest, CORE_IDS["x1"], 0x800_0000)
    guest.vcpu.ioctl(kvm.KVM_RUN)
    assert (guest.run.exit_reason, guest.run.mmio.phys_addr, guest.run.mmio.len) == (6, 0x800_0000, 1)
    guest.run.mmio.data[0] = 0xAB
    guest.run.immediate_exit = 1
    for _ in range(2):
        assert failing(guest.vcpu, kvm.KVM_RUN) == errno.EINTR
        assert get_reg(guest, CORE_IDS["pc"]) == 4
        assert get_reg(guest, CORE_IDS["x0"]) == 0xAB


# The kernel's handling of a load's result: sign extension to the register, then truncation (mmio.c).
LOADS = {
    "ldrb": (0x3940_0020, 1, 0xFFFF_FFFF_FFFF_FF80, 0x80),
    "ldrsb w": (0x39C0_0020, 1, 0x80, 0xFFFF_FF80),
    "ldrsb x": (0x3980_0020, 1, 0x80, 0xFFFF_FFFF_FFFF_FF80),
    "ldrsh w": (0x79C0_0020, 2, 0x8000, 0xFFFF_8000),
    "ldrsh x": (0x7980_0020, 2, 0x8000, 0xFFFF_FFFF_FFFF_8000),
    "ldrsw": (0xB980_0020, 4, 0x8000_0000, 0xFFFF_FFFF_8000_0000),
    "ldr w": (0xB940_0020, 4, 0xFFFF_FFFF_8000_0000, 0x8000_0000),
    "ldr x": (0xF940_0020, 8, 0x8000_0000_0000_0001, 0x8000_0000_0000_0001),
    "ldr xzr": (0xF940_003F, 8, 1, 0x5555),
}


@pytest.mark.parametrize(("word", "size", "answer", "result"), LOADS.values(), ids=LOADS)
def test_mmio_loads(guest: Guest, word: int, size: int, answer: int, result: int) -> None:
    guest.init().load(word, 0x1400_0000)
    set_reg(guest, CORE_IDS["x0"], 0x5555)
    set_reg(guest, CORE_IDS["x1"], 0x800_0000)
    guest.vcpu.ioctl(kvm.KVM_RUN)
    assert (guest.run.mmio.len, guest.run.mmio.is_write) == (size, 0)
    for position, byte in enumerate(answer.to_bytes(8, "little")):
        guest.run.mmio.data[position] = byte
    guest.run.immediate_exit = 1
    assert failing(guest.vcpu, kvm.KVM_RUN) == errno.EINTR
    assert get_reg(guest, CORE_IDS["x0"]) == result


@pytest.mark.parametrize(("word", "size"), [(0x3900_0020, 1), (0x7900_0020, 2), (0xB900_0020, 4), (0xF900_0020, 8)])
def test_mmio_stores(guest: Guest, word: int, size: int) -> None:
    guest.init().load(word, 0x1400_0000)
    set_reg(guest, CORE_IDS["x0"], 0x8877_6655_4433_2211)
    set_reg(guest, CORE_IDS["x1"], 0x800_0004)
    guest.vcpu.ioctl(kvm.KVM_RUN)
    mmio = guest.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write) == (0x800_0004, size, 1)
    assert bytes(mmio.data)[:size] == bytes.fromhex("1122334455667788")[:size]


def test_a_signal_ends_run_with_eintr(guest: Guest) -> None:
    guest.init().load(0x1400_0000)
    thread = threading.get_ident()
    timer = threading.Timer(0.02, guest.host.interrupt, (thread,))
    timer.start()
    assert failing(guest.vcpu, kvm.KVM_RUN) == errno.EINTR
    assert guest.run.exit_reason == kvm.Exit.INTR
    timer.join()


def test_a_vcpu_that_is_off_waits(guest: Guest) -> None:
    guest.vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, VcpuInit(5, (1 << kvm.KVM_ARM_VCPU_POWER_OFF,)))
    started = time.monotonic()
    threading.Timer(0.02, guest.host.interrupt, (threading.get_ident(),)).start()
    assert failing(guest.vcpu, kvm.KVM_RUN) == errno.EINTR
    assert time.monotonic() - started >= 0.015
    assert get_reg(guest, CORE_IDS["pc"]) == 0


def test_run_takes_no_argument(guest: Guest) -> None:
    assert failing(guest.init().vcpu, kvm.KVM_RUN, 1) == errno.EINVAL


def test_signal_mask(guest: Guest) -> None:
    guest.vcpu.ioctl(kvm.KVM_SET_SIGNAL_MASK, bytearray(struct.pack("<IQ", 8, 0)))
    guest.vcpu.ioctl(kvm.KVM_SET_SIGNAL_MASK, 0)
    assert failing(guest.vcpu, kvm.KVM_SET_SIGNAL_MASK, bytearray(struct.pack("<IQ", 128, 0))) == errno.EINVAL


FILES: dict[str, Callable[[Guest], File]] = {
    "device": lambda guest: guest.dev,
    "VM": lambda guest: guest.vm,
    "vCPU": lambda guest: guest.vcpu,
}


@pytest.mark.parametrize("which", FILES.values(), ids=FILES)
def test_what_files_of_kvm_cannot_do(guest: Guest, which: Callable[[Guest], File]) -> None:
    file = which(guest)
    for call in (lambda: file.read(1), lambda: file.pread(1, 0), lambda: file.write(b"x")):
        with pytest.raises(OSError, match="Invalid argument"):
            call()
    with pytest.raises(OSError, match=r"Invalid argument|No such device"):
        file.mmap(1 << 30)
    unknown = failing(file, 0xAE7F)
    assert unknown == errno.EINVAL
    file.close()
    file.close()
    assert failing(file, kvm.KVM_CHECK_EXTENSION, 1) == errno.EBADF


def test_kvm_that_may_not_be_opened() -> None:
    platform = load_platform("ampereone")
    host = SimHost(replace(platform, process=replace(platform.process, kvm=False)))
    with pytest.raises(PermissionError):
        host.open("/dev/kvm", os.O_RDWR)


def test_descriptors_are_the_hosts(guest: Guest) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        guest.host.adopt(999)
