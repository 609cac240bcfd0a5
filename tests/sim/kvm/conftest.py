# SPDX-License-Identifier: GPL-2.0-only
"""Bare guests on simulated hosts: a few instruction words, registers set by hand, MMU off unless a test turns it on."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

import pytest

from pytest_kvm_sea.addresses import GuestPA
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.platforms.model import Platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vcpu import Vcpu
from pytest_kvm_sea.vmm.vm import Vm

CODE = 0x1_0000
VECTORS = 0x2_0000
MMU_OFF = 0xC5_0078


class Bare(Protocol):
    def __call__(
        self, *words: int, platform: str | Platform = "ampereone", el2: bool = False, **registers: int
    ) -> Vcpu: ...


@pytest.fixture
def bare() -> Iterator[Bare]:
    """Make a VM with this code at CODE, vectors at VECTORS (every vector a branch to itself), and one vCPU."""
    made: list[tuple[SimHost, Vm]] = []

    def make(*words: int, platform: str | Platform = "ampereone", el2: bool = False, **registers: int) -> Vcpu:
        host = SimHost(load_platform(platform) if isinstance(platform, str) else platform)
        vm = Vm(host)
        made.append((host, vm))
        vm.memory.view(GuestPA(CODE), 4 * len(words))[:] = struct.pack(f"<{len(words)}I", *words)
        for vector in range(16):
            vm.memory.view(GuestPA(VECTORS + vector * 0x80), 4)[:] = struct.pack("<I", 0x1400_0000)
        vcpu = vm.add_vcpu(el2=el2)
        vcpu.timeout = 0.2
        level = "el2" if el2 else "el1"
        for name, value in {f"sctlr_{level}": MMU_OFF, f"vbar_{level}": VECTORS, "pc": CODE, **registers}.items():
            vcpu.set_reg(name, value)
        return vcpu

    yield make
    for host, vm in made:
        vm.close()
        host.close()
