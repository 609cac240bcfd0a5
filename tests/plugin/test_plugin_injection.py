# SPDX-License-Identifier: GPL-2.0-only
"""Injection as a user meets it: leave, lock, journal, dry run, and the end of a test."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pytest_kvm_sea import providers
from pytest_kvm_sea.hosts.contract import Host
from pytest_kvm_sea.ras import journal, lock
from pytest_kvm_sea.sim.memory_failure import MemoryFailure
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.targets import Target
from tests.ras.ras_hosts import NAME, Server

INJECTS = """
import pytest
from pytest_kvm_sea.hosts.contract import Backing

def inject(host, einj):
    memory = host.map_memory(0x1000)
    memory.view[:] = b"x" * memory.size
    return einj.inject_at(memory.address)

def test_injects(kvm_sea_host, kvm_sea_einj):
    inject(kvm_sea_host, kvm_sea_einj)
"""
LINUX = "--kvm-sea-host=linux"
NAMED = f"--kvm-sea-einj-host={NAME}"
SIM = "--kvm-sea-platform=ampereone"


class Places:
    """Where a run on a real server leaves its files, and the servers that it had."""

    def __init__(self, directory: Path) -> None:
        self.lock = directory / "run" / lock.NAME
        self.journal = directory / "lib" / "pytest-kvm-sea" / journal.NAME
        self.hosts: list[Server] = []

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.journal.read_text().splitlines()]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Places:
    """`--kvm-sea-host=linux` is a simulated host that takes itself for a real server."""
    made = Places(tmp_path)
    make_host = providers.make_host

    def make(target: Target) -> Host:
        if target.host != "linux":
            return make_host(target)
        made.hosts.append(Server())
        return made.hosts[-1]

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name, module, attribute in (("run", lock, "DIRECTORY"), ("lib", journal, "SYSTEM_STATE")):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module, attribute, tmp_path / name)
    monkeypatch.setattr(providers, "make_host", make)
    return made


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments, no_reraise_ctrlc=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), f"*no host was named; --kvm-sea-einj-host={NAME}*"),
        (("--kvm-sea-einj-host=other",), f"*'{NAME}'*names 'other'; --kvm-sea-einj-host={NAME}*"),
        (("-o", "kvm_sea_einj_host=other"), "*names 'other'*"),
    ],
)
def test_a_real_host_has_to_be_named(
    pytester: pytest.Pytester, places: Places, arguments: tuple[str, ...], reason: str
) -> None:
    pytester.makepyfile(INJECTS)
    result = run(pytester, LINUX, *arguments)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*[[]einj-host] {reason}"])
    assert not any(host.firmware.injections for host in places.hosts)
    assert not places.lock.exists()
    assert not places.journal.exists()


@pytest.mark.parametrize("arguments", [(NAMED,), ("-o", f"kvm_sea_einj_host={NAME}")])
def test_on_a_named_host_everything_is_guarded(
    pytester: pytest.Pytester, places: Places, arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(INJECTS)
    result = run(pytester, LINUX, *arguments)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"kvm-sea: host linux, *, memory errors on {NAME}"])
    assert places.events() == ["begin", "injected", "restored", "retired"]
    assert "test_injects[linux-mainline]" in json.loads(places.journal.read_text().splitlines()[0])["test"]
    assert places.lock.read_text() == ""
    (granule,) = places.hosts[0].physical.poison_granules
    assert places.hosts[0].physical.is_offline(granule)


def test_a_simulated_host_needs_nothing(pytester: pytest.Pytester, places: Places) -> None:
    pytester.makepyfile(INJECTS)
    run(pytester, SIM).assert_outcomes(passed=1)
    assert not places.lock.exists()
    assert not places.journal.exists()


@pytest.mark.parametrize("way", ["option", "ini"])
def test_a_journal_on_demand(pytester: pytest.Pytester, places: Places, way: str) -> None:
    pytester.makepyfile(INJECTS)
    if way == "ini":
        pytester.makeini("[pytest]\nkvm_sea_journal = logs/mine.jsonl\n")
    run(pytester, SIM, *(["--kvm-sea-journal=logs/mine.jsonl"] if way == "option" else [])).assert_outcomes(passed=1)
    assert len((pytester.path / "logs/mine.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "ending", ["assert False", "raise KeyboardInterrupt", "raise SystemExit(3)", "pytest.skip('x')"]
)
def test_however_a_test_ends_the_page_goes_and_the_lock_is_free(
    pytester: pytest.Pytester, places: Places, ending: str
) -> None:
    pytester.makepyfile(INJECTS + f"    {ending}\n")
    run(pytester, LINUX, NAMED)
    assert places.events() == ["begin", "injected", "restored", "retired"]
    assert places.lock.read_text() == ""
    (granule,) = places.hosts[0].physical.poison_granules
    assert places.hosts[0].physical.is_offline(granule)


@pytest.mark.parametrize("order", ["kvm_sea_vm, kvm_sea_einj", "kvm_sea_einj, kvm_sea_vm"])
def test_pages_go_before_memory_is_unmapped(
    pytester: pytest.Pytester, places: Places, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Whichever fixture is made first: a page that is unmapped is handed out again."""
    pytester.makepyfile(
        f"""
        from pytest_kvm_sea.addresses import GuestPA
        def test_x({order}):
            vm = kvm_sea_vm()
            region = vm.add_memory(GuestPA(0x8000_0000), 0x1000)
            region.memory.view[:] = b"x" * 0x1000
            kvm_sea_einj.inject_at(region.memory.address)
        """
    )
    mapped: list[bool] = []
    handle = MemoryFailure.handle

    def note(self: MemoryFailure, hpa: int) -> None:
        mapped.append(places.hosts[0].process.hva_of(places.hosts[0].physical.poison_granules[0]) is not None)
        handle(self, hpa)

    monkeypatch.setattr(MemoryFailure, "handle", note)
    run(pytester, LINUX, NAMED).assert_outcomes(passed=1)
    assert mapped == [True]


def test_a_page_that_stays_is_a_warning_in_the_summary(
    pytester: pytest.Pytester, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(INJECTS)
    monkeypatch.setattr(MemoryFailure, "handle", lambda _self, _hpa: None)
    result = run(pytester, LINUX, NAMED, "-W", "default")
    result.assert_outcomes(passed=1)  # other warnings there may be, of what an earlier test left to the collector
    result.stdout.fnmatch_lines(["*PoisonWarning: *still in service*echo 0x* > */hard_offline_page*"])
    # The next run tells it again, until somebody acts.
    result = run(pytester, LINUX, NAMED, "-W", "default")
    result.stdout.fnmatch_lines(["*PoisonWarning: an injection of *test_injects*was not finished*"])


# Waiting

CONFTEST = """
import os
from pathlib import Path
from pytest_kvm_sea import providers
from pytest_kvm_sea.ras import journal, lock
from tests.ras.ras_hosts import Server

HERE = Path(__file__).parent
os.geteuid = lambda: 0
lock.DIRECTORY = journal.SYSTEM_STATE = HERE
providers.make_host = lambda target: Server(tree=HERE / "tree")
"""
SLOW = """
import time
import pytest

@pytest.mark.parametrize("number", range(2))
def test_injects(kvm_sea_host, kvm_sea_einj, number):
    memory = kvm_sea_host.map_memory(0x1000)
    memory.view[:] = b"x" * memory.size
    kvm_sea_einj.inject_at(memory.address)
    (injection,) = kvm_sea_host.firmware.injections[-1:]
    assert injection.target == kvm_sea_host.hpa(memory)
    with open("log", "a") as log:
        print("begin", number, file=log, flush=True)
        time.sleep(0.05)
        print("end", number, file=log, flush=True)
"""


def test_workers_of_xdist_take_turns(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the injection to the end of the test; over one set of EINJ's files, in processes of their own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SLOW)
    (pytester.path / "tree").mkdir()
    Server(tree=pytester.path / "tree").knobs()
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", LINUX, NAMED, "-n", "2", "--dist", "each")
    result.assert_outcomes(passed=4)
    log = (pytester.path / "log").read_text().splitlines()
    assert len(log) == 8
    assert all(re.sub("begin", "end", begin) == end for begin, end in zip(log[::2], log[1::2], strict=True)), log
    found = [json.loads(line) for line in (pytester.path / "pytest-kvm-sea" / journal.NAME).read_text().splitlines()]
    assert [record["event"] for record in found] == ["begin", "injected", "restored", "retired"] * 4
    assert len({record["pid"] for record in found if record["event"] == "begin"}) == 2
    output = result.stdout.str() + result.stderr.str()
    assert re.search(
        rf"waiting to inject.*held by process \d+ on {NAME}, for \S*test_injects\[linux-mainline-\d\]", output
    )


# The dry run


@pytest.mark.parametrize("arguments", [(SIM,), (LINUX,), (LINUX, "--kvm-sea-einj-host=other")], ids=" ".join)
def test_a_dry_run_shows_every_write_and_makes_none(
    pytester: pytest.Pytester, places: Places, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(PhysicalMemory, "poison", lambda _self, _hpa, _length=64: pytest.fail("poisoned"))
    pytester.makepyfile(INJECTS)
    result = run(pytester, "--kvm-sea-dry-run", *arguments)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        [
            "kvm-sea: *, dry run",
            "kvm-sea: *test_injects* would write on *:",
            "echo 0x10 > /sys/kernel/debug/apei/einj/error_type  # Memory Uncorrectable non-fatal",
            "echo 0x2 > /sys/kernel/debug/apei/einj/flags  # *",
            "echo 0x* > /sys/kernel/debug/apei/einj/param1  # the host physical address of 0x*",
            "echo 0xffffffffffffffc0 > /sys/kernel/debug/apei/einj/param2  # 64 bytes",
            "echo 1 > /sys/kernel/debug/apei/einj/notrigger  # *",
            "echo 1 > /sys/kernel/debug/apei/einj/error_inject  # *lost*",
            "echo 0x00000000 > /sys/kernel/debug/apei/einj/notrigger  # as it was before",
            "echo 0x* > /sys/devices/system/memory/hard_offline_page  # *",
            "*[[]dry-run] * writes were shown and none was made; leave out --kvm-sea-dry-run*",
        ],
        consecutive=False,
    )
    assert not places.lock.exists()
    assert not places.journal.exists()


def test_a_dry_run_in_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(INJECTS)
    pytester.makeini("[pytest]\nkvm_sea_dry_run = yes\n")
    run(pytester, SIM).assert_outcomes(skipped=1)
    run(pytester, SIM, "-o", "kvm_sea_dry_run=no").assert_outcomes(passed=1)


def test_a_dry_run_of_what_breaks_no_memory_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(kvm_sea_vm):\n    kvm_sea_vm()\n")
    run(pytester, SIM, "--kvm-sea-dry-run").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kvm-sea-einj-host="], "--kvm-sea-einj-host: '': not the name of a host; valid: what uname -n prints"),
        (["--kvm-sea-einj-host=a "], "--kvm-sea-einj-host: 'a ': not the name of a host"),
        (["--kvm-sea-journal=."], "--kvm-sea-journal: '.': not a file; valid: the path of a file"),
        (["--kvm-sea-journal="], "--kvm-sea-journal: '': not a file"),
        (
            ["-o", "kvm_sea_dry_run=perhaps"],
            "-o kvm_sea_dry_run: 'perhaps': neither true nor false; valid values: true",
        ),
    ],
)
def test_bad_values(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    pytester.makepyfile(INJECTS)
    result = run(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
