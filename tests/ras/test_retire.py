# SPDX-License-Identifier: GPL-2.0-only
"""Poisoned pages are taken out of service, and that is verified."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Backing, File
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages, Platform, Process
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.errors import RetireError
from pytest_kvm_sea.ras.retire import HARD_OFFLINE, MADV_HWPOISON, is_offline, retire
from pytest_kvm_sea.sim.files import fail
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


def test_of_hugetlb_memory_one_page_goes_out_of_service(host: SimHost) -> None:
    """And the process loses all of the huge page, which leaves its pool (measured on Linux 7.3.4)."""
    memory = host.map_memory(2 * MIB, backing=Backing.HUGETLB_2M)
    memory.view[0] = 1
    hpa = host.process.hpa_of(memory.address)
    assert hpa is not None
    retire(host, HostPA(hpa + 0x5000))
    assert is_offline(host, HostPA(hpa + 0x5000))
    assert not is_offline(host, hpa)
    assert not is_offline(host, HostPA(hpa + 2 * MIB - 1))
    assert host.physical.pool_size(2 * MIB) == 7


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


# Without the file in sysfs


class NoFile(SimHost):
    """A kernel without CONFIG_MEMORY_HOTPLUG."""

    def open(self, path: str, flags: int, /) -> File:
        if path == HARD_OFFLINE:
            fail(errno.ENOENT, path)
        return super().open(path, flags)


@pytest.fixture
def no_file() -> Iterator[NoFile]:
    made = NoFile(BASE)
    yield made
    made.close()


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.THP, Backing.HUGETLB_2M])
def test_madvise_serves_while_the_page_is_mapped(no_file: NoFile, backing: Backing) -> None:
    memory = no_file.map_memory(2 * MIB, backing=backing)
    memory.view[0x5000] = 1
    hva = HostVA(memory.address + 0x5000)
    hpa = Einj(no_file).inject_at(hva).address
    assert retire(no_file, hpa, hva) == MADV_HWPOISON
    assert is_offline(no_file, hpa)
    # Poisoned and known, the page has no address any more: that is no failure.
    assert retire(no_file, hpa, hva) == MADV_HWPOISON


def test_the_client_gives_the_address_that_it_needs(no_file: NoFile) -> None:
    memory = no_file.map_memory(4096)
    memory.view[0] = 1
    with Einj(no_file) as einj:
        hpa = einj.inject_at(memory.address).address
    assert is_offline(no_file, hpa)


@pytest.mark.parametrize("why", ["unknown", "moved", "unmapped"])
def test_madvise_does_not_hit_another_page(no_file: NoFile, why: str) -> None:
    memory = no_file.process.map_memory(4096)
    memory.view[0] = 1
    hpa = HostPA(memory.hpa(0))
    if why == "moved":
        no_file.process.migrate(memory)
    if why == "unmapped":
        memory.close()
    with pytest.raises(
        RetireError, match=r"still in service: opening .*hard_offline_page failed with ENOENT"
    ) as refused:
        retire(no_file, hpa, None if why == "unknown" else memory.address)
    assert refused.value.errno == errno.ENOENT
    assert not any(is_offline(no_file, HostPA(each)) for each in (hpa, memory.hpa(0)))


@pytest.mark.parametrize(("code", "name"), [(errno.EPERM, "EPERM"), (errno.EINVAL, "EINVAL")])
def test_both_ways_that_failed_are_told(no_file: NoFile, monkeypatch: pytest.MonkeyPatch, code: int, name: str) -> None:
    memory = no_file.map_memory(4096)
    memory.view[0] = 1
    hpa = no_file.process.hpa_of(memory.address)
    assert hpa is not None

    def refuse(_address: HostVA) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(no_file, "poison_page", refuse)
    with pytest.raises(
        RetireError, match=rf"hard_offline_page failed with ENOENT .*; MADV_HWPOISON failed with {name}"
    ):
        retire(no_file, hpa, memory.address)


def test_a_kernel_that_only_says_so_is_not_believed(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.firmware.failure, "handle", lambda _hpa: None)
    with pytest.raises(RetireError, match=r"took it, but bit 19 of /proc/kpageflags is not set"):
        retire(host, HostPA(0x9000_0000))
