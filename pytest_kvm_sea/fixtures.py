# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures. None is autouse; what they need is imported when a test asks for them.

| fixture            | gives                                                                    |
|--------------------|--------------------------------------------------------------------------|
| kvm_sea_target     | what the test runs on; every test that uses a fixture is parametrised over it |
| kvm_sea_host       | the host: the machine itself, or a fresh simulated one                    |
| kvm_sea_vm         | a function that makes a VM and loads a program into it                    |
| kvm_sea_einj       | the client of EINJ: injects memory errors                                 |
| kvm_sea_pagemap    | host virtual to host physical addresses                                   |
| kvm_sea_firmware   | a firmware that breaks stage-2 tables, where the host has one             |
| kvm_sea_ucalls     | a function that runs a vCPU and gives what the guest says, call by call   |
| kvm_sea_debugfs    | the directory of the simulated debugfs tree, for `ls` and `cat`           |
| kvm_sea_fake_einj  | a function that makes EINJ's files alone, for programs that use them      |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm_sea.guest.program import GuestProgram
    from pytest_kvm_sea.guest.ucall import Ucall
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.ras.firmware import Firmware
    from pytest_kvm_sea.ras.pagemap import Pagemap
    from pytest_kvm_sea.sim.fake_einj import FakeEinj
    from pytest_kvm_sea.targets import Target
    from pytest_kvm_sea.vmm.vcpu import Vcpu
    from pytest_kvm_sea.vmm.vm import Vm

EINJ_NEEDS = ("arm64", "einj-table", "einj-module", "lockdown", "einj-parameters", "pagemap-pfn")
"""What every injection of a memory error at an address needs."""


class FakeEinjFactory(Protocol):
    """Makes fake trees of EINJ's files, each below a directory of its own, or below one that is given."""

    def __call__(self, platform: str | Path | Platform = "ampereone", *, root: Path | None = None) -> FakeEinj: ...


class VmFactory(Protocol):
    """Makes VMs; they are closed when the test is over."""

    def __call__(
        self, program: GuestProgram | None = None, *, vcpus: int = 1, ipa_bits: int | None = None, el2: bool = False
    ) -> Vm:
        """``el2``: the vCPUs start at a virtual EL2; see `Vm.add_vcpu`."""
        ...


@pytest.fixture
def kvm_sea_host(request: pytest.FixtureRequest, kvm_sea_target: Target) -> Iterator[Host]:
    """The host. Skips the test where it lacks what the marks `kvm_sea_requires` name, and says everything it lacks."""
    from pytest_kvm_sea import injection, requirements, storytelling
    from pytest_kvm_sea.providers import open_host, probe_host

    shared = probe_host(request.config, kvm_sea_target)
    with injection.turn_of_test(request.node, shared):  # probes map hugetlb memory, too
        requirements.require(shared, requirements.required(request.node))
        with open_host(request.config, kvm_sea_target) as host:
            storytelling.begin(request.node, kvm_sea_target, host, fresh=host is not shared)
            yield host


@pytest.fixture
def kvm_sea_vm(request: pytest.FixtureRequest, kvm_sea_target: Target, kvm_sea_host: Host) -> Iterator[VmFactory]:
    """Make a VM: `kvm_sea_vm(program)`, with one vCPU that will run it."""
    from pytest_kvm_sea import injection, options, requirements, storytelling
    from pytest_kvm_sea.providers import probe_host
    from pytest_kvm_sea.vmm.vm import Vm

    requirements.require(probe_host(request.config, kvm_sea_target), ["kvm"])
    timeout = options.settings(request.config).timeout
    evidence = storytelling.evidence_of(request.node)
    made = ExitStack()

    def make(
        program: GuestProgram | None = None, *, vcpus: int = 1, ipa_bits: int | None = None, el2: bool = False
    ) -> Vm:
        evidence.watch()
        vm = Vm(kvm_sea_host, ipa_bits=ipa_bits, trace=evidence.trace)
        made.callback(vm.close)
        evidence.vms.append(vm)
        if program is not None:
            vm.load(program)
        for _ in range(vcpus):
            vm.add_vcpu(el2=el2).timeout = timeout
        return vm

    with made:
        yield make
        injection.retire_before_unmapping(request.node)


@pytest.fixture
def kvm_sea_einj(request: pytest.FixtureRequest, kvm_sea_target: Target, kvm_sea_host: Host) -> Iterator[Einj]:
    """Inject memory errors. Skips where EINJ or what it needs is missing, and where the user has not named the host.

    Afterwards the pages are taken out of service: the kernel does not know that they are poisoned, and would hand them
    to somebody else.
    """
    from pytest_kvm_sea import injection, requirements, storytelling
    from pytest_kvm_sea.providers import probe_host

    found = requirements.missing(probe_host(request.config, kvm_sea_target), EINJ_NEEDS)
    found += injection.forbidden(request.config, kvm_sea_host)
    if found:
        pytest.skip(requirements.reason(found))
    evidence = storytelling.evidence_of(request.node)
    evidence.watch()
    with injection.make_einj(request.node, kvm_sea_host, evidence.trace) as einj:
        yield einj
    injection.forget(request.node)


@pytest.fixture
def kvm_sea_firmware(
    request: pytest.FixtureRequest,
    kvm_sea_target: Target,
    kvm_sea_host: Host,
    kvm_sea_vm: VmFactory,  # noqa: ARG001 - what is broken must be repaired before the VMs are closed
) -> Iterator[Firmware]:
    """The firmware of an emulated or simulated host, which breaks stage-2 tables. Skips where there is none."""
    from pytest_kvm_sea import requirements, storytelling
    from pytest_kvm_sea.providers import probe_host
    from pytest_kvm_sea.ras.firmware import Firmware

    requirements.require(probe_host(request.config, kvm_sea_target), ["firmware-stage2"])
    firmware = Firmware(kvm_sea_host, trace=storytelling.evidence_of(request.node).trace)
    yield firmware
    firmware.repair_all()


@pytest.fixture
def kvm_sea_pagemap(request: pytest.FixtureRequest, kvm_sea_host: Host) -> Pagemap:
    """Translate host virtual to host physical addresses."""
    from pytest_kvm_sea import storytelling
    from pytest_kvm_sea.ras.pagemap import Pagemap

    return Pagemap(kvm_sea_host, storytelling.evidence_of(request.node).trace)


@pytest.fixture
def kvm_sea_ucalls() -> Callable[[Vcpu], Iterator[Ucall]]:
    """Everything that the guest says until it is done, one ucall after the other: `for ucall in kvm_sea_ucalls(vcpu)`.

    Raises what `Vcpu.next_ucall` raises: UcallProtocolError for what is no ucall, UnexpectedExit for any other exit.
    """
    from pytest_kvm_sea.guest.ucall import UcallCommand

    def ucalls(vcpu: Vcpu) -> Iterator[Ucall]:
        while True:
            ucall = vcpu.next_ucall()
            yield ucall
            if ucall.cmd in {UcallCommand.DONE, UcallCommand.ABORT, UcallCommand.UNHANDLED}:
                return

    return ucalls


@pytest.fixture
def kvm_sea_debugfs(kvm_sea_host: Host) -> Path:
    """The fake debugfs tree of the simulated host, a real directory: `apei/einj/error_type` and so on are below it."""
    from pytest_kvm_sea.providers import debugfs_of

    return debugfs_of(kvm_sea_host)


@pytest.fixture
def kvm_sea_fake_einj(tmp_path_factory: pytest.TempPathFactory) -> FakeEinjFactory:
    """Make EINJ's files and nothing else: `kvm_sea_fake_einj("einj-v2")`, for tests of programs that inject errors.

    Independent of all other fixtures: a test that uses only this one is not parametrised, and runs on any machine.
    """
    from pytest_kvm_sea.sim.fake_einj import FakeEinj

    def make(platform: str | Path | Platform = "ampereone", *, root: Path | None = None) -> FakeEinj:
        return FakeEinj(tmp_path_factory.mktemp("einj") if root is None else root, platform)

    return make
