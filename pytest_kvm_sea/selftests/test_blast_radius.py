# SPDX-License-Identifier: GPL-2.0-only
"""The argument of the series: how much dies with a memory cell.

The guest is a small kernel with two EL0 processes, of which one reads the broken cell. With the SError that KVM injects
today the kernel panics, and both die. With the abort replayed the kernel knows whose it is: that process is killed, and
the other finishes its work. Poison that the kernel itself reads is a panic in either case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.selftests.guests_processes import FINISHED, KILLED, PANIC, RUNNING, TOTAL, two_processes
from pytest_kvm_sea.selftests.scenario import (
    NEEDS,
    START_GVA,
    Broken,
    add_memory,
    break_memory,
    check_exit,
    replay,
    run_to_sea,
    run_to_stage,
)

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.vmm.vm import Vm

GVA = GuestVA(START_GVA + 0x4B80)
WAYS = pytest.mark.parametrize("way", ["events", "one-reg"])

pytestmark = [
    pytest.mark.kvm_sea_requires(*NEEDS),
    pytest.mark.kvm_sea_distinct("kernel.uapi", "cpu.sea_far"),
]


def broken_vm(kvm_sea_vm: VmFactory, einj: Einj, *, by_kernel: bool) -> tuple[Vm, Broken]:
    """A VM with two processes, and a broken cell that one of them will read, or have the kernel read."""
    vm = kvm_sea_vm(two_processes(GVA, by_kernel=by_kernel))
    add_memory(vm, user=True)
    return vm, break_memory(vm, einj, GVA)


def states(vm: Vm) -> tuple[int, int]:
    """What became of the process that reads the cell, and of the one that works."""
    return vm.get_global("reader"), vm.get_global("worker")


@WAYS
def test_one_process_dies(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, way: str) -> None:
    """A process reads the cell, the VMM replays the abort: it is killed, and the other finishes its work."""
    vm, broken = broken_vm(kvm_sea_vm, kvm_sea_einj, by_kernel=False)
    (vcpu,) = vm.vcpus
    vm.enable_sea_to_user()
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken)
    replay(vcpu, sea, way)
    vcpu.expect_done()
    assert states(vm) == (KILLED, FINISHED)
    assert vm.get_global("total") == TOTAL


def test_everything_dies_without_the_exit(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """As today: KVM injects an SError, nobody knows whose it is, the guest kernel panics with both processes."""
    vm, broken = broken_vm(kvm_sea_vm, kvm_sea_einj, by_kernel=False)
    run_to_stage(vm.vcpus[0], broken, PANIC)
    assert states(vm) == (RUNNING, RUNNING)


@WAYS
def test_the_kernel_itself_reads_it(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj, way: str) -> None:
    """The replay does not save a kernel that consumed the error: it panics, on an abort from its own level."""
    vm, broken = broken_vm(kvm_sea_vm, kvm_sea_einj, by_kernel=True)
    (vcpu,) = vm.vcpus
    vm.enable_sea_to_user()
    sea = run_to_sea(vcpu, broken)
    check_exit(vcpu, sea, broken)
    replay(vcpu, sea, way)
    vcpu.expect_sync(PANIC)
    assert states(vm) == (RUNNING, RUNNING)


def test_the_kernel_itself_reads_it_without_the_exit(kvm_sea_vm: VmFactory, kvm_sea_einj: Einj) -> None:
    """A panic as well, by SError."""
    vm, broken = broken_vm(kvm_sea_vm, kvm_sea_einj, by_kernel=True)
    run_to_stage(vm.vcpus[0], broken, PANIC)
    assert states(vm) == (RUNNING, RUNNING)
