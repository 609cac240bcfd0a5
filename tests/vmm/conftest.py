# SPDX-License-Identifier: GPL-2.0-only
"""VMs on a simulated host."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vm import Vm


@pytest.fixture
def make_vm() -> Iterator[Callable[..., Vm]]:
    made: list[tuple[SimHost, Vm]] = []

    def make(program: GuestProgram | None = None, *, platform: str = "ampereone", ipa_bits: int | None = None) -> Vm:
        host = SimHost(load_platform(platform))
        vm = Vm(host, ipa_bits=ipa_bits)
        made.append((host, vm))
        if program is not None:
            vm.load(program)
            vm.add_vcpu().timeout = 2.0
        return vm

    yield make
    for host, vm in made:
        vm.close()
        host.close()
