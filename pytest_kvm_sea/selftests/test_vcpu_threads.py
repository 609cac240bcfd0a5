# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU in KVM_RUN and the other threads of its VMM: what ends the run, and what has to wait for it."""

from __future__ import annotations

import errno
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.uapi import kvm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.vmm.vcpu import Vcpu

pytestmark = pytest.mark.kvm_sea_distinct("kernel.immediate_injection")
SECONDS = 1
"""Longer than a thread that is free to go on needs; only a kernel that is wrong makes a test wait for so long."""


@pytest.fixture(autouse=True)
def quick_turns() -> Iterator[None]:
    """On a simulated host the guest is a thread of this interpreter, which else gives up its turn every 5 ms only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


class Runner(threading.Thread):
    """One KVM_RUN of a guest that spins, in a thread of its own. Always ended, by the guest if by nothing else."""

    def __init__(self, vcpu: Vcpu) -> None:
        super().__init__()
        self.errno: int | None = None
        """How KVM_RUN ended; 0 for success."""
        self._vcpu = vcpu

    def run(self) -> None:
        try:
            self._vcpu.ioctl(kvm.KVM_RUN)
            self.errno = 0
        except OSError as error:
            self.errno = error.errno

    def __enter__(self) -> Self:
        self._vcpu.expect_sync(1)
        self.start()
        deadline = time.monotonic() + self._vcpu.timeout
        while not self._vcpu.vm.get_global("count"):
            assert time.monotonic() < deadline, "the guest does not run"
            time.sleep(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._vcpu.vm.set_global("go", 1)
        self.join()


def test_signal_ends_the_run(kvm_sea_vm: VmFactory) -> None:
    """A signal for the thread ends KVM_RUN with EINTR where the guest is, and the guest goes on at the next."""
    vm = kvm_sea_vm(guests.spinner())
    (vcpu,) = vm.vcpus
    with Runner(vcpu) as runner:
        assert runner.ident is not None
        vm.host.interrupt(runner.ident)
        runner.join(SECONDS)
        ended, reason = runner.errno, vcpu.exit_reason
    assert (ended, reason) == (errno.EINTR, kvm.Exit.INTR)
    vcpu.expect_done()


def test_events_wait_for_the_run(kvm_sea_vm: VmFactory) -> None:
    """The registers of a vCPU that runs are on the processor: events from another thread wait until it stops."""
    vm = kvm_sea_vm(guests.spinner())
    (vcpu,) = vm.vcpus
    with Runner(vcpu) as runner:
        injector = threading.Thread(target=vcpu.inject_serror)
        injector.start()
        injector.join(0.02)
        waits = injector.is_alive()
    injector.join()
    assert waits, "KVM_SET_VCPU_EVENTS did not wait for KVM_RUN"
    assert runner.errno == 0
    assert vcpu.get_events().exception.serror_pending == 1
