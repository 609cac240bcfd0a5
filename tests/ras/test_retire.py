# SPDX-License-Identifier: GPL-2.0-only
"""Poisoned pages are taken out of service, and that is verified."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages, Platform, Process
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.errors import RetireError
from pytest_kvm_sea.ras.retire import is_offline, retire
from pytest_kvm_sea.sim.host import SimHost

BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(8, 0))


@pytest.fixture
def host() -> Iterator[SimHost]:
    made = SimHost(BASE)
    yield made
    made.close()


def test_a_retired_page_is_not_handed_out_again(host: SimHost) -> None:
    memory = host.map_memory(4096)
    memory.view[0] = 1
    hpa = Einj(host).inject_at(memory.address).address
    assert not is_offline(host, hpa)
    retire(host, hpa)
    assert is_offline(host, hpa)
    retire(host, hpa)
    memory.close()
    again = host.process.map_memory(4096)
    assert again.hpa(0) != hpa
    assert not host.physical.poisoned(again.hpa(0), 4096)


def test_without_it_the_next_mapping_is_hit(host: SimHost) -> None:
    memory = host.map_memory(4096)
    memory.view[0] = 1
    hpa = Einj(host).inject_at(memory.address).address
    memory.close()
    assert host.process.map_memory(4096).hpa(0) == hpa
    assert host.physical.poisoned(hpa, 8)


def test_of_hugetlb_memory_all_of_the_huge_page_goes(host: SimHost) -> None:
    memory = host.map_memory(2 * MIB, backing=Backing.HUGETLB_2M)
    memory.view[0] = 1
    hpa = host.process.hpa_of(memory.address)
    assert hpa is not None
    retire(host, HostPA(hpa + 0x5000))
    assert is_offline(host, hpa)
    assert is_offline(host, HostPA(hpa + 2 * MIB - 1))


@pytest.mark.parametrize(("hpa", "name"), [(0x1000, "ENXIO"), (0x8000_0000, "EBUSY")])
def test_what_the_kernel_refuses_is_told(host: SimHost, hpa: int, name: str) -> None:
    with pytest.raises(RetireError, match=rf"{hpa:#x} is still in service: writing.*{name}") as refused:
        retire(host, HostPA(hpa))
    assert refused.value.errno == getattr(errno, name)


def test_others_than_root_are_told_so() -> None:
    host = SimHost(replace(BASE, process=Process(root=False)))
    with pytest.raises(RetireError, match="EACCES"):
        retire(host, HostPA(0x9000_0000))
    with pytest.raises(RetireError, match="run as root"):
        is_offline(host, HostPA(0x9000_0000))
    host.close()
