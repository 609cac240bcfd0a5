# SPDX-License-Identifier: GPL-2.0-only
"""Hugetlb memory of a real host: one test at a time, whatever the number of workers and sessions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea import providers
from pytest_kvm_sea.hosts.contract import Host
from pytest_kvm_sea.platforms.model import Hugepages
from pytest_kvm_sea.ras import journal, lock
from pytest_kvm_sea.targets import Target
from tests.ras.ras_hosts import BASE, NAME, Server

LINUX = ("--kvm-sea-host=linux", "-p", "no:cacheprovider")
NAMED = f"--kvm-sea-einj-host={NAME}"
PLATFORM = replace(BASE, hugepages=Hugepages(4, 0))

USES = """
import pytest
from pathlib import Path
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.ras import lock

def holder():
    path = lock.default_path()
    return path.read_text() if path.exists() else ""

def huge(host):
    return host.map_memory(2 << 20, backing=Backing.HUGETLB_2M)
"""


@pytest.fixture
def lock_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`--kvm-sea-host=linux` is a simulated host that takes itself for a real server with some huge pages."""
    made: list[Server] = []
    make_host = providers.make_host

    def make(target: Target) -> Host:
        if target.host != "linux":
            return make_host(target)
        made.append(Server(PLATFORM))
        return made[-1]

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path)
    monkeypatch.setattr(journal, "SYSTEM_STATE", tmp_path)
    monkeypatch.setattr(providers, "make_host", make)
    return tmp_path / lock.NAME


def test_the_lock_is_held_from_before_the_mapping_to_the_end_of_the_test(
    pytester: pytest.Pytester, lock_file: Path
) -> None:
    pytester.makepyfile(
        USES
        + """
@pytest.fixture
def late(kvm_sea_host):
    yield
    assert "test_x" in holder()

def test_x(late, kvm_sea_host, kvm_sea_vm):
    kvm_sea_host.map_memory(1 << 20).close()
    kvm_sea_host.map_memory(1 << 20, backing=Backing.THP).close()
    assert holder() == ""
    huge(kvm_sea_host).close()
    assert "test_x" in holder()
    huge(kvm_sea_host).close()

def test_y(kvm_sea_host):
    assert holder() == ""
"""
    )
    pytester.runpytest_inprocess(*LINUX).assert_outcomes(passed=2)
    assert lock_file.read_text() == ""


def test_memory_of_a_vm(pytester: pytest.Pytester, lock_file: Path) -> None:
    """As sea_to_user maps it."""
    pytester.makepyfile(
        USES
        + """
from pytest_kvm_sea.addresses import GuestPA

def test_x(kvm_sea_vm):
    kvm_sea_vm().add_memory(GuestPA(0x8000_0000), 2 << 20, backing=Backing.HUGETLB_2M)
    assert "test_x" in holder()
"""
    )
    pytester.runpytest_inprocess(*LINUX).assert_outcomes(passed=1)
    assert lock_file.read_text() == ""


def test_the_probe_maps_some_too(pytester: pytest.Pytester, lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it finds no free page while another session has them, and the test is skipped for nothing."""
    seen: list[str] = []
    map_memory = Server.map_memory

    def look(self: Server, size: int, /, **more: object) -> object:
        memory = map_memory(self, size, **more)  # type: ignore[arg-type] # as they come
        if size == 2 << 20:
            seen.append(lock_file.read_text())
        return memory

    monkeypatch.setattr(Server, "map_memory", look)
    pytester.makepyfile(
        USES
        + """
@pytest.mark.kvm_sea_requires("hugetlb-2m")
def test_x(kvm_sea_host):
    assert "test_x" in holder()

@pytest.mark.kvm_sea_requires("hugetlb-2m")
def test_y(kvm_sea_host):
    assert holder() == ""  # it is known by now

@pytest.mark.kvm_sea_requires("hugetlb-1g")
def test_z(kvm_sea_host): ...
"""
    )
    pytester.runpytest_inprocess(*LINUX).assert_outcomes(passed=2, skipped=1)
    (note,) = seen
    assert "test_x" in note
    assert lock_file.read_text() == ""


def test_hugetlb_and_einj_in_one_test_share_one_turn(pytester: pytest.Pytester, lock_file: Path) -> None:
    """Neither waits for the other, and the end of EINJ's part does not give away what is still mapped."""
    pytester.makepyfile(
        USES
        + """
@pytest.fixture
def late(kvm_sea_host):
    yield
    assert "[linux-mainline-" in holder()

@pytest.mark.parametrize("first", ["einj", "hugetlb"])
def test_x(late, kvm_sea_host, kvm_sea_einj, first):
    if first == "hugetlb":
        memory = huge(kvm_sea_host)
    small = kvm_sea_host.map_memory(4096)
    small.view[0] = 1
    kvm_sea_einj.inject_at(small.address)
    if first == "einj":
        memory = huge(kvm_sea_host)
    kvm_sea_einj.close()
    assert "[linux-mainline-" in holder()
    memory.close()
"""
    )
    pytester.runpytest_inprocess(*LINUX, NAMED).assert_outcomes(passed=2)
    assert lock_file.read_text() == ""


def test_a_simulated_host_needs_none(pytester: pytest.Pytester, lock_file: Path) -> None:
    pytester.makepyfile(
        USES
        + """
@pytest.mark.kvm_sea_requires("hugetlb-2m")
def test_x(kvm_sea_host):
    huge(kvm_sea_host)
"""
    )
    arguments = ("--kvm-sea-platform=ampereone", "-p", "no:cacheprovider")
    pytester.runpytest_inprocess(*arguments).assert_outcomes(passed=1)
    assert not lock_file.exists()


def test_a_lock_that_cannot_be_used_is_an_error_and_no_lack_of_pages(
    pytester: pytest.Pytester, lock_file: Path
) -> None:
    lock_file.mkdir()
    pytester.makepyfile(USES + "@pytest.mark.kvm_sea_requires('hugetlb-2m')\ndef test_x(kvm_sea_host): ...")
    result = pytester.runpytest_inprocess(*LINUX)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*EinjError: the lock {lock_file} cannot be used (*); no hugetlb memory was mapped*"])


# Workers and sessions

CONFTEST = """
import os
import time
from dataclasses import replace
from pathlib import Path
import pytest
from pytest_kvm_sea import providers
from pytest_kvm_sea.platforms.model import Hugepages
from pytest_kvm_sea.ras import journal, lock
from tests.ras.ras_hosts import BASE, Server

HERE = Path(__file__).parent
os.geteuid = lambda: 0
lock.DIRECTORY = journal.SYSTEM_STATE = HERE
providers.make_host = lambda target: Server(replace(BASE, hugepages=Hugepages(4, 0)), tree=HERE / "tree")

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    # All three processes that run tests begin together, however busy the machine is.
    if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses"):
        (HERE / f"ready-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len(list(HERE.glob("ready-*"))) < 3:
            assert time.monotonic() < end
            time.sleep(0.005)
"""
STAMPS = """
import os
import time
import pytest
from pytest_kvm_sea.hosts.contract import Backing

def stamp(word, name):
    with open("log", "a") as log:
        print(word, os.getpid(), name, file=log, flush=True)

@pytest.fixture
def stamped(kvm_sea_host, request):
    yield
    time.sleep(0.02)
    stamp("end", request.node.name)

@pytest.mark.parametrize("number", range(3))
def test_huge(stamped, kvm_sea_host, request, number):
    kvm_sea_host.map_memory(2 << 20, backing=Backing.HUGETLB_2M)
    stamp("begin", request.node.name)

@pytest.mark.parametrize("number", range(3))
def test_einj(stamped, kvm_sea_host, kvm_sea_einj, request, number):
    memory = kvm_sea_host.map_memory(4096)
    memory.view[0] = 1
    kvm_sea_einj.inject_at(memory.address)
    stamp("begin", request.node.name)
"""


def test_no_two_workers_or_sessions_at_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions at once, one of them with two workers; tests of both kinds, over one set of EINJ's files."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(STAMPS)
    (pytester.path / "tree").mkdir()
    Server(tree=pytester.path / "tree").knobs()
    command = [sys.executable, "-m", "pytest", *LINUX, NAMED]
    sessions = [
        subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for more in ([], ["-n", "2"])
    ]
    output = [session.communicate()[0] for session in sessions]
    assert [session.returncode for session in sessions] == [0, 0], "\n".join(output)
    log = [line.split() for line in (pytester.path / "log").read_text().splitlines()]
    assert len(log) == 2 * 6 * 2
    for begin, end in zip(log[::2], log[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end"), log
        assert begin[1:] == end[1:], log
    assert len({line[1] for line in log}) == 3
    assert re.search(
        rf"kvm-sea: waiting (to inject|for hugetlb memory).*held by process \d+ on {NAME}", "".join(output)
    )
