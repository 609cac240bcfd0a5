# SPDX-License-Identifier: GPL-2.0-only
"""Guests in C on any host, simulated or real: those of the two originals, and one that has every part of the header.

Not collected by itself. The executables have to lie in fixtures/elf, or in elf in the current directory; the machine
that `pytest_kvm_sea.emulated` boots gets this file and that directory with ``--copy``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.fixtures import VmFactory
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.selftests.scenario import (
    EINJ_GVA,
    NEEDS,
    add_memory,
    break_memory,
    check_exit,
    populate,
    replay,
    run_to_sea,
)
from pytest_kvm_sea.vmm.errors import GuestFailure, VmmError
from pytest_kvm_sea.vmm.injection import write_abort

PLACES = (Path("elf"), Path(__file__).parent / "../../fixtures/elf")
SIZE = 0x200_0000
"""Memory that EINJ_GVA is in."""


def guest(name: str) -> GuestProgram:
    return GuestProgram.from_elf(next(place / name for place in PLACES if (place / name).exists()))


@pytest.mark.kvm_sea_requires(*NEEDS)
def test_sea_to_user(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """Consume, exit, inject; the guest's handler is content."""
    vm = kvm_sea_vm(guest("sea_to_user.elf"))
    (vcpu,) = vm.vcpus
    add_memory(vm, size=SIZE)
    vm.enable_sea_to_user()
    populate(vm, EINJ_GVA)
    broken = break_memory(vm, kvm_sea_einj, EINJ_GVA)
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken)
    assert vcpu.pc == vm.symbol("access")
    replay(vcpu, sea, "events")
    lacks_fnv = vm.revision.name == "mainline" and not sea.far_valid
    with known_defect("mainline-fnv", when=lacks_fnv, raises=GuestFailure):
        vcpu.expect_done()
    garbage = [] if sea.far_valid else ["Guest observed garbage value in FAR\n"]
    assert vm.console[0].startswith("Guest SEA esr_el1=0x9")
    assert vm.console[1:] == garbage


@pytest.mark.kvm_sea_requires("kvm")
def test_sea_to_user_without_an_error(kvm_sea_vm: VmFactory) -> None:
    """The guest tells memory that is not broken from an abort: the test above can fail."""
    vm = kvm_sea_vm(guest("sea_to_user.elf"))
    add_memory(vm, size=SIZE)
    vm.write_u64(EINJ_GVA, 0xBAADCAFE)
    with pytest.raises(
        GuestFailure, match=f"gva={EINJ_GVA:#x}, data=0xbaadcafe\n  at sea_to_user.c:[0-9]+, guest PC guest"
    ):
        vm.vcpus[0].resume()
    assert vm.get_global("data") == 0xBAADCAFE


@pytest.mark.parametrize(
    "way", [pytest.param("events", marks=pytest.mark.kvm_sea_requires("inject-ext-iabt")), "one-reg"]
)
def test_inject_iabt(kvm_sea_vm: VmFactory, way: str) -> None:
    """The handler is there before the guest's first instruction."""
    vm = kvm_sea_vm(guest("inject_iabt.elf"))
    (vcpu,) = vm.vcpus
    if way == "events":
        vcpu.inject_instruction_abort()
    else:
        write_abort(vcpu, GuestVA(0), instruction=True)
    vcpu.expect_done()
    assert vm.console[0].startswith("Guest SEA esr_el1=0x8")


def test_inject_iabt_without_an_abort(kvm_sea_vm: VmFactory) -> None:
    with pytest.raises(GuestFailure, match="Unconditional guest failure: Guest should only run SEA handler"):
        kvm_sea_vm(guest("inject_iabt.elf")).vcpus[0].resume()


@pytest.mark.parametrize("name", ["exceptions", "exceptions-zig"])
def test_exceptions(kvm_sea_vm: VmFactory, name: str) -> None:
    """EL0, SVCs, breakpoints, formats, variables of all sizes."""
    vm = kvm_sea_vm(guest(f"{name}.elf"))
    (vcpu,) = vm.vcpus
    assert (vm.get_global("byte"), vm.get_global("half")) == (0x80, 0x8001)
    vcpu.expect_sync(2)
    assert (vm.get_global("word"), vm.get_global("flag")) == (0xFFFF_FFFE, 1)
    vm.set_global("byte", 0x7F)
    vm.set_global("half", 1)
    vm.set_global("word", -3)
    vm.set_global("doubleword", 1 << 63)
    vm.set_global("flag", 0)
    with pytest.raises(VmmError, match=r"'byte' has 1 bytes; 0x100 does not fit"):
        vm.set_global("byte", 0x100)
    with pytest.raises(VmmError, match=r"'table' has 24 bytes.* use vm.read\(vm.symbol\('table'\), 24\)"):
        vm.get_global("table")
    assert vm.read(vm.symbol("table"), 24) == bytes([1, *[0] * 7, 2, *[0] * 7, 3, *[0] * 7])
    vcpu.expect_done()
    assert vm.console == [
        "127 1 -3 0x8000000000000000 0\n",
        "text|c|    1|-1   |000ab|0x10|100%|24\n",
        "sum 55 after 10 calls, EL0 sees 3\n",
        f"EL0: class 0x24, far {vm.symbol('breakpoints') % 4096:#x}, stack 1\n",
    ]
    assert vm.get_global("svcs") == 10
