# SPDX-License-Identifier: GPL-2.0-only
"""A virtual EL2 in the simulated KVM (arch/arm64/kvm/nested.c, emulate-nested.c, inject_fault.c).

To which level exceptions go is told by selftests/test_nested.py; this is about what no guest of those does.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import GuestPA
from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.esr import EC, FNV, syndrome
from pytest_kvm_sea.arm64.operands import X
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.kvm.nested import Nested
from pytest_kvm_sea.sim.kvm.vcpu import Vcpu as SimVcpu
from pytest_kvm_sea.uapi import kvm as uapi
from pytest_kvm_sea.uapi.structures import CreateDevice, DeviceAttr, VcpuInit
from pytest_kvm_sea.vmm.exits import MmioExit, SeaExit
from pytest_kvm_sea.vmm.vcpu import Vcpu
from pytest_kvm_sea.vmm.vm import Vm

Bare = Callable[..., Vcpu]

CODE, VECTORS, TABLES = 0x1_0000, 0x2_0000, 0x3_0000
CELL = 0x10_0040
MMIO = 0x0900_0000
SELF, LDR_X0_X1, STR_X0_X1, ERET = 0x1400_0000, 0xF940_0020, 0xF900_0020, 0xD69F_03E0
VM, AMO, TGE, HCD, RW, E2H, TEA = 1 << 0, 1 << 5, 1 << 27, 1 << 29, 1 << 31, 1 << 34, 1 << 37
TMEA = 1 << 19
UNKNOWN = 0x1DE7_EC7E_DBAD_C0DE
A, IL, PAN, MASKED = 1 << 8, 1 << 20, 1 << 22, 0x3C0
EL0, EL1T, EL1H, EL2T, EL2H = 0, 4, 5, 8, 9
NESTED = "nested"
TRACKED = replace(load_platform(NESTED), cpu=replace(load_platform(NESTED).cpu, sea_far=True))


def words(*emit: Callable[[Assembler], object]) -> list[int]:
    """Instructions as numbers."""
    code = Assembler()
    for one in emit:
        one(code)
    data = code.assemble(CODE)
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def inside(vcpu: Vcpu) -> SimVcpu:
    """The simulated KVM's side of it."""
    host = vcpu.vm.host
    assert isinstance(host, SimHost)
    return host._machine.vms[-1].vcpus[vcpu.number]


def nested(vcpu: Vcpu) -> Nested:
    found = inside(vcpu).nested
    assert found is not None
    return found


def run_to_vector(vcpu: Vcpu) -> int:
    """Run until the guest stores to MMIO, which its vectors do; the offset of the vector."""
    for vector in range(16):
        vcpu.vm.memory.view(GuestPA(VECTORS + vector * 0x80), 4)[:] = STR_X0_X1.to_bytes(4, "little")
    exit_ = vcpu.run()
    assert isinstance(exit_, MmioExit), str(exit_)
    return vcpu.pc - VECTORS


def test_a_host_without_it_gives_none(bare: Bare) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        bare(SELF, el2=True)


@pytest.mark.parametrize(("platform", "number"), [("nested", 1), ("ampereone", 0)])
def test_the_capability(bare: Bare, platform: str, number: int) -> None:
    assert bare(SELF, platform=platform).vm.check_extension(uapi.KVM_CAP_ARM_EL2) == number


def test_all_vcpus_of_a_vm_have_it_or_none(bare: Bare) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True)
    with pytest.raises(OSError, match="Invalid argument"):
        vcpu.vm.add_vcpu()


def test_what_a_vcpu_is_after_its_initialisation(bare: Bare) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True)
    vcpu.set_reg("hcr_el2", TGE)
    vcpu.set_reg("vbar_el1", 0x7000)
    init = VcpuInit()
    vcpu.vm.file.ioctl(uapi.KVM_ARM_PREFERRED_TARGET, init)
    init.features[0] |= 1 << uapi.KVM_ARM_VCPU_PSCI_0_2 | 1 << uapi.KVM_ARM_VCPU_HAS_EL2
    vcpu.vm.complete_for_el2()
    vcpu.ioctl(uapi.KVM_ARM_VCPU_INIT, init)
    assert vcpu.registers("pstate", "hcr_el2", "vbar_el1", "vbar_el2", "sctlr_el2", "esr_el2") == {
        "pstate": MASKED | EL2H,
        "hcr_el2": E2H,
        "vbar_el1": 0,
        "vbar_el2": 0,
        "sctlr_el2": 0,
        "esr_el2": 0,
    }
    assert vcpu.get_reg("ttbr0_el1") == vcpu.get_reg("sp_el2") == UNKNOWN
    assert run(vcpu) == errno.EINTR
    assert vcpu.get_reg("sctlr_el2") == 0x3050_0980, "RES1, since the first KVM_RUN"


def test_the_identification_registers_say_so(bare: Bare) -> None:
    with_el2, without = bare(SELF, platform=NESTED, el2=True), bare(SELF, platform=NESTED)
    assert with_el2.get_reg("id_aa64pfr0_el1") >> 8 & 0xF == 1
    assert with_el2.get_reg("id_aa64mmfr4_el1") >> 24 & 0xF == 0xE
    assert without.get_reg("id_aa64pfr0_el1") >> 8 & 0xF == 0
    with pytest.raises(OSError, match="No such file") as caught:
        without.get_reg("hcr_el2")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("mode", [0b0001, 0b0010, 0b0011, 0b0110, 0b0111, 0b1010, 0b1100, 0b1101, 0b1_0000])
def test_modes_that_pstate_does_not_take(bare: Bare, mode: int) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True)
    with pytest.raises(OSError, match="Invalid argument"):
        vcpu.set_reg("pstate", mode)
    assert vcpu.get_reg("pstate") == MASKED | EL2H


@pytest.mark.parametrize("mode", [EL0, EL1T, EL1H, EL2T, EL2H])
def test_modes_that_it_takes(bare: Bare, mode: int) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True, hcr_el2=RW)
    vcpu.set_reg("pstate", MASKED | mode)
    assert vcpu.get_reg("pstate") == MASKED | mode
    assert nested(vcpu).in_l2 == (mode < EL2T)


@pytest.mark.parametrize("tge", [False, True])
@pytest.mark.parametrize("mode", [0b0001, 0b0010, 0b0011, EL1T, EL1H, 0b0110, 0b1010, 0b1100, 0b1101, 0b1_0000])
def test_a_return_to_where_there_is_nothing(bare: Bare, mode: int, tge: bool) -> None:
    """PSTATE.IL, and still at EL2: an illegal mode, or EL1 with HCR_EL2.TGE (Arm ARM, D1.4.5)."""
    if mode in {EL1T, EL1H} and not tge:
        pytest.skip("that is no illegal return")
    vcpu = bare(ERET, platform=NESTED, el2=True, hcr_el2=RW | (TGE if tge else 0))
    vcpu.set_reg("spsr_el2", 0x5 << 28 | PAN | A | mode)
    vcpu.set_reg("elr_el2", CODE + 0x100)
    nested(vcpu).eret()
    assert vcpu.registers("pc", "pstate") == {"pc": CODE + 0x100, "pstate": 0x5 << 28 | IL | PAN | A | EL2H}
    vcpu.set_reg("x1", MMIO)
    assert run_to_vector(vcpu) == 0x200
    assert vcpu.get_reg("esr_el2") == syndrome(EC.ILLEGAL_STATE)


def test_the_return_of_a_guest_hypervisor(bare: Bare) -> None:
    """To EL1 of L2: its registers are those that the hypervisor gave it under their other names."""
    vcpu = bare(
        *words(
            lambda a: a.msr("vbar_el12", X[2]),
            lambda a: a.msr("sp_el1", X[3]),
            lambda a: a.mrs(X[4], "vbar_el12"),
            lambda a: a.mrs(X[5], "vbar_el2"),
            lambda a: a.mrs(X[6], "currentel"),
            lambda a: a.eret(),
        ),
        platform=NESTED,
        el2=True,
        hcr_el2=RW,
        x1=MMIO,
        x2=VECTORS,
        x3=0x8000,
        spsr_el2=MASKED | EL1H,
        elr_el2=CODE + 0x200,
    )
    vcpu.vm.memory.view(GuestPA(CODE + 0x200), 4)[:] = STR_X0_X1.to_bytes(4, "little")
    assert isinstance(vcpu.run(), MmioExit)
    assert vcpu.registers("pc", "pstate", "x4", "x5", "x6", "vbar_el1", "sp_el1") == {
        "pc": CODE + 0x200,
        "pstate": MASKED | EL1H,
        "x4": VECTORS,
        "x5": VECTORS,
        "x6": 2 << 2,
        "vbar_el1": VECTORS,
        "sp_el1": 0x8000,
    }


@pytest.mark.parametrize("name", ["s3_4_c15_c0_0", "sp_el2", "s3_5_c15_c0_0"])
def test_registers_that_el2_does_not_have_are_undefined(bare: Bare, name: str) -> None:
    vcpu = bare(*words(lambda a: a.mrs(X[0], name)), platform=NESTED, el2=True, x1=MMIO)
    assert run_to_vector(vcpu) == 0x200
    assert vcpu.registers("esr_el2", "elr_el2") == {"esr_el2": syndrome(EC.UNKNOWN), "elr_el2": CODE}


@pytest.mark.parametrize("name", ["hcr_el2", "vbar_el12", "sp_el1"])
def test_registers_of_el2_are_undefined_in_l2(bare: Bare, name: str) -> None:
    vcpu = bare(*words(lambda a: a.mrs(X[0], name)), platform=NESTED, el2=True, hcr_el2=RW, x1=MMIO)
    vcpu.set_reg("pstate", MASKED | EL1H)
    vcpu.set_reg("vbar_el1", VECTORS)
    assert run_to_vector(vcpu) == 0x200
    assert vcpu.registers("esr_el1", "elr_el1") == {"esr_el1": syndrome(EC.UNKNOWN), "elr_el1": CODE}


def test_e2h_cannot_be_cleared(bare: Bare) -> None:
    vcpu = bare(
        *words(lambda a: a.msr("hcr_el2", X[2]), lambda a: a.mrs(X[3], "hcr_el2")),
        STR_X0_X1,
        platform=NESTED,
        el2=True,
        x1=MMIO,
        x2=RW,
    )
    assert isinstance(vcpu.run(), MmioExit)
    assert vcpu.registers("x3", "hcr_el2") == {"x3": RW | E2H, "hcr_el2": RW | E2H}


@pytest.mark.parametrize(("disabled", "esr"), [(False, syndrome(EC.HVC64, 7)), (True, syndrome(EC.UNKNOWN))])
def test_hypercalls(bare: Bare, disabled: bool, esr: int) -> None:
    """Every HVC is the guest hypervisor's, its own among them, unless HCR_EL2.HCD says that there are none."""
    hcr = RW | (HCD if disabled else 0)
    vcpu = bare(*words(lambda a: a.hvc(7)), platform=NESTED, el2=True, hcr_el2=hcr, x1=MMIO)
    assert run_to_vector(vcpu) == 0x200
    assert vcpu.get_reg("esr_el2") == esr


@pytest.mark.parametrize(
    ("hcr", "hcrx", "pstate", "abort", "serror"),
    [
        pytest.param(0, 0, EL1H | A, False, False, id="neither"),
        pytest.param(TEA, 0, EL1H, True, False, id="tea"),
        pytest.param(AMO, 0, EL1H, False, True, id="amo"),
        pytest.param(0, TMEA, EL1H, False, False, id="tmea-unmasked"),
        pytest.param(0, TMEA, EL1H | A, True, True, id="tmea-masked"),
        pytest.param(0, TMEA, EL0, False, False, id="tmea-el0-unmasked"),
        pytest.param(0, TMEA, EL0 | A, False, True, id="tmea-el0-masked"),
    ],
)
def test_whose_an_exception_of_l2_is(bare: Bare, hcr: int, hcrx: int, pstate: int, abort: bool, serror: bool) -> None:
    for inject, expected in ((Vcpu.inject_data_abort, abort), (Vcpu.inject_serror, serror)):
        vcpu = bare(SELF, platform=NESTED, el2=True, hcr_el2=RW | hcr, hcrx_el2=hcrx)
        vcpu.set_reg("pstate", pstate)
        inject(vcpu)
        assert (vcpu.get_reg("pstate") & 0xF == EL2H) == expected, inject.__name__


def test_an_abort_of_l2_in_the_registers_of_el2(bare: Bare) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True, hcr_el2=RW | TEA)
    vcpu.set_reg("pstate", PAN | EL1T)
    vcpu.set_reg("sp_el2", 0x6000)
    before = vcpu.registers("esr_el1", "far_el1", "elr_el1", "spsr_el1", "vbar_el1", "sp_el1")
    vcpu.inject_data_abort()
    assert vcpu.registers("pc", "pstate", "esr_el2", "elr_el2", "spsr_el2", "sp_el2") == {
        "pc": VECTORS + 0x400,
        "pstate": PAN | MASKED | EL2H,
        "esr_el2": 0x9200_0010,
        "elr_el2": CODE,
        "spsr_el2": PAN | EL1T,
        "sp_el2": 0x6000,
    }
    assert vcpu.registers(*before) == before


def test_an_abort_of_l2_as_an_serror(bare: Bare) -> None:
    """SCTLR2_EL2.EASE counts, not SCTLR2_EL1's."""
    platform = replace(load_platform(NESTED), cpu=replace(load_platform(NESTED).cpu, ease=True))
    for el, offset in (("el1", 0x400), ("el2", 0x580)):
        vcpu = bare(SELF, platform=platform, el2=True, hcr_el2=RW | TEA)
        vcpu.set_reg("pstate", EL1H)
        vcpu.set_reg(f"sctlr2_{el}", 1 << 5)
        vcpu.inject_data_abort()
        assert vcpu.pc == VECTORS + offset, el


def test_an_serror_that_is_masked_follows_its_routing(bare: Bare) -> None:
    """It pends for L2; when HCR_EL2.AMO comes on it is the hypervisor's at the next KVM_RUN, masked as it is in L2."""
    vcpu = bare(SELF, platform=NESTED, el2=True, hcr_el2=RW)
    vcpu.set_reg("pstate", MASKED | EL1H)
    vcpu.inject_serror(0x1234)
    assert vcpu.get_events().exception.serror_pending == 1
    vcpu.set_reg("hcr_el2", RW | AMO)
    assert vcpu.run_interrupted() == errno.EINTR
    assert vcpu.get_events().exception.serror_pending == 0
    assert vcpu.registers("pc", "esr_el2") == {"pc": VECTORS + 0x580, "esr_el2": syndrome(EC.SERROR, 0x1234)}


def test_the_gpa_of_an_exit_is_the_one_that_stage_1_gave(bare: Bare) -> None:
    """Behind the stage 2 of the guest hypervisor that is an address of L2, which the VMM has no memory at."""
    vcpu = bare(LDR_X0_X1, SELF, platform=TRACKED, el2=True, hcr_el2=RW | VM)
    vm: Vm = vcpu.vm
    shifted = 1 << 30
    vm.memory.write_u64(GuestPA(TABLES), 0x7FD)
    vm.memory.write_u64(GuestPA(TABLES + 8), 0x7FD)
    vcpu.set_reg("vttbr_el2", TABLES)
    vcpu.set_reg("vtcr_el2", 1 << 6 | 25)
    vcpu.set_reg("pstate", MASKED | EL1H)
    vcpu.set_reg("sctlr_el1", 0xC5_0078)
    vcpu.set_reg("x1", shifted + CELL)
    vm.memory.view(GuestPA(CELL), 1)[0] = 1
    host = inside(vcpu).vm
    hpa = host.process.hpa_of(vm.memory.hva(GuestPA(CELL)))
    assert hpa is not None
    host.physical.poison(hpa)
    vm.enable_sea_to_user()
    sea = vcpu.run()
    assert isinstance(sea, SeaExit), str(sea)
    assert (sea.gva, sea.gpa, sea.gpa_valid) == (shifted + CELL, (shifted + CELL) & ~0xFFF, True)
    assert sea.esr & FNV == 0


def test_registers_that_only_el2_has() -> None:
    """None is forgotten: each that KVM lists for a vCPU with EL2 can be read and written."""
    host = SimHost(load_platform(NESTED))
    with Vm(host) as vm:
        vcpu = vm.add_vcpu(el2=True)
        for name in ("hcrx_el2", "vttbr_el2", "vtcr_el2", "vmpidr_el2", "hpfar_el2", "sp_el2", "tpidr_el2"):
            vcpu.set_reg(name, 0x5A000)
            assert vcpu.get_reg(name) == 0x5A000, name
        listed = inside(vcpu).registers.ids()
        assert all(any(number & 0xFFFF == sysreg(name) for number in listed) for name in ("hcr_el2", "vbar_el2"))
        assert not any(number & 0xFFFF == sysreg("vbar_el12") for number in listed)
    host.close()


def attribute(vm: Vm, group: int, attr: int, value: int = 0) -> int:
    """KVM_SET_DEVICE_ATTR on the VGIC of a VM, which is made if it is not there; the errno."""
    host = vm.host
    assert isinstance(host, SimHost)
    if not hasattr(vm, "test_gic"):
        request = CreateDevice(type=uapi.KVM_DEV_TYPE_ARM_VGIC_V3)
        vm.file.ioctl(uapi.KVM_CREATE_DEVICE, request)
        vm.test_gic = host.adopt(request.fd)  # type: ignore[attr-defined]
    number = ctypes.c_uint64(value)
    try:
        vm.test_gic.ioctl(  # type: ignore[attr-defined]
            uapi.KVM_SET_DEVICE_ATTR, DeviceAttr(group=group, attr=attr, addr=ctypes.addressof(number))
        )
    except OSError as error:
        return error.errno or 0
    return 0


def run(vcpu: Vcpu) -> int:
    """KVM_RUN with immediate_exit, without the VMM's help; the errno."""
    vcpu._run_page.immediate_exit = 1
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        vcpu.ioctl(uapi.KVM_RUN)
    return caught.value.errno or 0


def test_a_vcpu_with_el2_needs_an_interrupt_controller_to_run(bare: Bare) -> None:
    vcpu = bare(SELF, platform=NESTED, el2=True)
    addresses, control = uapi.KVM_DEV_ARM_VGIC_GRP_ADDR, uapi.KVM_DEV_ARM_VGIC_GRP_CTRL
    assert run(vcpu) == errno.EAGAIN
    assert attribute(vcpu.vm, addresses, uapi.KVM_VGIC_V3_ADDR_TYPE_DIST, 0x1000) == errno.EINVAL
    assert attribute(vcpu.vm, addresses, uapi.KVM_VGIC_V3_ADDR_TYPE_DIST, 1 << 40) == errno.E2BIG
    assert attribute(vcpu.vm, addresses, uapi.KVM_VGIC_V3_ADDR_TYPE_DIST, 1 << 30) == 0
    assert attribute(vcpu.vm, addresses, uapi.KVM_VGIC_V3_ADDR_TYPE_DIST, 1 << 30) == errno.EEXIST
    assert run(vcpu) == errno.ENXIO
    assert attribute(vcpu.vm, addresses, uapi.KVM_VGIC_V3_ADDR_TYPE_REDIST, 2 << 30) == 0
    assert run(vcpu) == errno.EBUSY
    assert attribute(vcpu.vm, control, 99) == errno.ENXIO
    assert attribute(vcpu.vm, control, uapi.KVM_DEV_ARM_VGIC_CTRL_INIT) == 0
    assert run(vcpu) == errno.EINTR


@pytest.mark.parametrize(
    ("kind", "flags", "code"),
    [
        pytest.param(uapi.KVM_DEV_TYPE_ARM_VGIC_V3, uapi.KVM_CREATE_DEVICE_TEST, 0, id="test"),
        pytest.param(4, 0, errno.ENODEV, id="another-device"),
        pytest.param(uapi.KVM_DEV_TYPE_ARM_VGIC_V3, 0, errno.EEXIST, id="second"),
    ],
)
def test_devices(bare: Bare, kind: int, flags: int, code: int) -> None:
    vm = bare(SELF).vm
    vm.file.ioctl(uapi.KVM_CREATE_DEVICE, CreateDevice(type=uapi.KVM_DEV_TYPE_ARM_VGIC_V3))
    if code:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            vm.file.ioctl(uapi.KVM_CREATE_DEVICE, CreateDevice(type=kind, flags=flags))
        assert caught.value.errno == code
    else:
        vm.file.ioctl(uapi.KVM_CREATE_DEVICE, CreateDevice(type=kind, flags=flags))


def test_no_device_comes_after_the_first_run(bare: Bare) -> None:
    vcpu = bare(SELF)
    assert run(vcpu) == errno.EINTR
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        vcpu.vm.file.ioctl(uapi.KVM_CREATE_DEVICE, CreateDevice(type=uapi.KVM_DEV_TYPE_ARM_VGIC_V3))
    assert caught.value.errno == errno.EBUSY
