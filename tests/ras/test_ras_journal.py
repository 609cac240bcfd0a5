# SPDX-License-Identifier: GPL-2.0-only
"""The journal: what is in it, that it is on the disk in time, and what a later session makes of it."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.platforms.model import Process
from pytest_kvm_sea.ras import journal as module
from pytest_kvm_sea.ras.abandoned import abandoned
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.errors import EinjError, JournalError, PoisonWarning
from pytest_kvm_sea.ras.journal import Journal
from pytest_kvm_sea.ras.retire import HARD_OFFLINE, retire
from pytest_kvm_sea.sim.firmware import Status
from tests.ras.ras_hosts import BASE, KNOBS, NAME, Server, guarded

TARGET = 0x8800_0000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def host() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(path: Path) -> list[object]:
    return [record["event"] for record in records(path)]


# What is in it


def test_everything_is_on_the_disk_before_the_first_write(
    host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        sequence.append("directory synced" if directory else f"synced {events(tmp_path / 'journal')[-1]}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    host.before_write = lambda name, _text: sequence.append(name)
    with Einj(host, guarded(tmp_path)) as einj:
        einj.inject_at(host.filled().address)
    assert sequence == [
        "directory synced",
        "synced begin",
        *KNOBS,
        "clean_cache",
        "error_inject",
        *[name for name in reversed(KNOBS) if name != "error_type"],
        "synced injected",
        "synced restored",
        HARD_OFFLINE,
        "synced retired",
    ]


def test_what_is_begun_is_told_in_full(host: Server, tmp_path: Path) -> None:
    host.put("param1", "0x1234")
    before = host.knobs()
    memory = host.filled()
    hva = memory.address + 0x345
    with Einj(host, guarded(tmp_path, "tests/test_x.py::test_x[a]")) as einj:
        injection = einj.inject_at(HostVA(hva))
    begin, injected, restored, retired = records(tmp_path / "journal")
    assert begin.pop("time")
    entry = begin.pop("id")
    assert {record["id"] for record in (injected, restored, retired)} == {entry}
    assert begin == {
        "event": "begin",
        "pid": os.getpid(),
        "host": NAME,
        "boot": "this boot",
        "test": "tests/test_x.py::test_x[a]",
        "hva": f"{hva:#x}",
        "hpa": f"{host.hpa(memory, 0x345):#x}",
        "page_size": 4096,
        "knobs": before,
        "writes": [[write.file, write.text] for write in injection.writes],
    }
    assert restored["unrestored"] == ["error_type"]
    assert retired["by"] == HARD_OFFLINE
    (read,) = Journal(tmp_path / "journal").entries()
    assert read.finished
    assert (read.hpa, read.knobs) == (host.hpa(memory, 0x345), before)


@pytest.mark.parametrize(
    ("status", "certain"),
    [(Status.FAILED, True), (Status.INVALID, True), (Status.TIMEOUT, False)],
    ids=str,
)
def test_a_failure_is_told_with_what_it_means(host: Server, tmp_path: Path, status: Status, certain: bool) -> None:
    """A firmware that did not answer in time may have done it: the page goes out of service."""
    memory = host.filled()
    host.firmware.next_status = status
    with Einj(host, guarded(tmp_path)) as einj:
        with pytest.raises(EinjError):
            einj.inject_at(memory.address)
        assert [injection.certain for injection in einj.injections] == ([] if certain else [False])
    assert events(tmp_path / "journal") == ["begin", "failed", "restored"] + ([] if certain else ["retired"])
    assert records(tmp_path / "journal")[1]["certain"] == certain
    assert host.physical.is_offline(host.hpa(memory)) != certain
    assert Journal(tmp_path / "journal").entries()[0].finished


def test_without_the_journal_nothing_is_written(host: Server, tmp_path: Path) -> None:
    """A disk that is full, a place that may not be written."""
    before = host.knobs()
    (tmp_path / "journal").mkdir()
    written: list[str] = []
    host.before_write = lambda name, _text: written.append(name)
    with Einj(host, guarded(tmp_path)) as einj, pytest.raises(JournalError, match=r"EISDIR.*--kvm-sea-journal"):
        einj.inject_at(host.filled().address)
    assert written == []
    assert host.knobs() == before


def test_a_disk_that_fills_up(host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with Einj(host, guarded(tmp_path)) as einj, pytest.raises(JournalError, match="ENOSPC"):
        einj.inject_at(host.filled().address)
    monkeypatch.undo()
    # The torn line announces nothing, and the next one does not run into it.
    with Einj(host, guarded(tmp_path)) as einj:
        einj.inject_at(host.filled().address)
    assert [entry.finished for entry in Journal(tmp_path / "journal").entries()] == [True]


def test_a_journal_that_fails_later_does_not_stop_the_clean_up(host: Server, tmp_path: Path) -> None:
    memory = host.filled()
    safeguards = guarded(tmp_path)
    assert safeguards.journal is not None

    def break_journal(name: str, _text: str) -> None:
        if name == "error_inject":
            (tmp_path / "journal").unlink()
            (tmp_path / "journal").mkdir()

    host.before_write = break_journal
    before = host.knobs()
    with pytest.warns(PoisonWarning, match="cannot be written: EISDIR"), Einj(host, safeguards) as einj:
        einj.inject_at(memory.address)
    assert host.physical.is_offline(host.hpa(memory))
    assert host.knobs() == {**before, "error_type": "0x10"}
    assert safeguards.lock is not None
    assert not safeguards.lock.held


@given(st.lists(st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1")))))
def test_rubbish_in_the_file_hides_nothing(lines: list[str]) -> None:
    """Whatever stands around an entry, it is found."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        path.write_text("".join(line.replace("\n", " ") + "\n" for line in lines), "utf-8")
        journal = Journal(path)
        entry = journal.begin(host="h", boot="b", test="t", hva=None, hpa="0x8000", knobs={}, writes=[["flags", "1"]])
        assert [found.id for found in journal.entries()] == [entry]


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        '{"event": "begin"}',
        '{"event": "begin", "id": "1", "time": "", "boot": "", "pid": "x", "test": "", "hpa": "0x1", "knobs": {}}',
        '{"event": "begin", "id": "1", "time": "", "boot": "", "pid": 1, "test": "", "hpa": "0x1", "knobs": 3}',
        '{"event": "retired", "id": "unknown"}',
    ],
)
def test_records_of_another_make_are_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal").write_text(line + "\n")
    assert Journal(tmp_path / "journal").entries() == []


def test_no_file_is_an_empty_journal_and_an_unreadable_one_is_not(tmp_path: Path) -> None:
    assert Journal(tmp_path / "absent").entries() == []
    with pytest.raises(JournalError, match=r"cannot be read: EISDIR"):
        Journal(tmp_path).entries()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SYSTEM_STATE", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert module.default_path() == tmp_path / "pytest-kvm-sea/einj-journal.jsonl"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert module.default_path() == tmp_path / "state/pytest-kvm-sea/einj-journal.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert module.default_path() == tmp_path / "me/.local/state/pytest-kvm-sea/einj-journal.jsonl"
    Journal(module.default_path()).begin(hpa="0x1")
    assert module.default_path().exists()


# What is left behind

DIES = """
import os, signal, sys
from pathlib import Path
from pytest_kvm_sea.ras.einj import Einj
from tests.ras.ras_hosts import Server, guarded
directory, at, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
host = Server(tree=directory / "tree")
host.put("error_type", "0x20")
host.put("param1", "0x1234")
print(f"{host.hpa(memory := host.filled()):#x}", flush=True)
if at != "test":
    host.before_write = lambda name, _text: name == at and os.kill(os.getpid(), getattr(signal, how))
einj = Einj(host, guarded(directory, "test_dies"))
einj.inject_at(memory.address)
os.kill(os.getpid(), getattr(signal, how))
"""


def dies(directory: Path, at: str, how: str = "SIGKILL") -> int:
    """A session that dies at this write, or in the test; the address that it injected at."""
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(directory), at, how],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 0, done.stderr
    return int(done.stdout, 16)


@pytest.mark.parametrize(
    ("at", "how", "events_left", "says"),
    [
        # Between the journal and the first write, before the injection, before the files are back, in the test
        ("error_type", "SIGKILL", ["begin"], ["the page of {hpa} may be poisoned"]),
        ("error_inject", "SIGKILL", ["begin"], ["the page of {hpa} may be poisoned", "echo 0x0000000000001234 > "]),
        ("param2", "SIGTERM", ["begin", "injected", "restored"], ["the page of {hpa} may be poisoned"]),
        ("test", "SIGKILL", ["begin", "injected", "restored"], ["the page of {hpa} may be poisoned"]),
    ],
)
def test_a_session_that_died_is_told_of(
    tmp_path: Path, at: str, how: str, events_left: list[str], says: list[str]
) -> None:
    (tmp_path / "tree").mkdir()
    hpa = dies(tmp_path, at, how)
    assert events(tmp_path / "journal") == events_left
    host = Server(tree=tmp_path / "tree")
    spare = host.map_memory(0x20_0000)  # has the pages that the other session had
    before = host.knobs()
    with Einj(host, guarded(tmp_path)) as einj:
        with pytest.warns(PoisonWarning) as told:
            einj.inject_at(host.filled().address)
        (text,) = [str(warning.message) for warning in told]
        for part in says:
            assert part.format(hpa=f"{hpa:#x}") in text
        assert f"echo {hpa:#x} > {HARD_OFFLINE}" in text
        assert "for test_dies" in text
        assert str(tmp_path / "journal") in text
        assert ("echo" in text.partition("EINJ's files")[2]) == (how == "SIGKILL" and at == "error_inject")
    # Nothing was written on its own: neither the page nor the files.
    assert host.process.hva_of(HostPA(hpa)) == spare.address
    assert not host.physical.is_offline(hpa)
    assert host.knobs() == before
    host.close()


def test_it_is_told_once_in_a_session_and_not_after_it_is_dealt_with(host: Server, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    hpa = host.hpa(host.filled())
    journal.begin(host=NAME, boot="this boot", test="t", hva=None, hpa=f"{hpa:#x}", knobs={}, writes=[])
    safeguards = guarded(tmp_path)
    for expected in (1, 0):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Einj(host, safeguards) as einj:
                einj.inject_at(host.filled().address)
        assert len(told) == expected
    assert len(abandoned(host, journal)) == 1
    retire(host, hpa)
    assert abandoned(host, journal) == {}


def test_another_boot_has_forgotten_it(host: Server, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for boot, told in (("another boot", 0), ("this boot", 1)):
        journal.begin(host=NAME, boot=boot, test="t", hva=None, hpa=f"{TARGET:#x}", knobs={}, writes=[])
        assert len(abandoned(host, journal)) == told


def test_whoever_may_not_look_hears_of_everything(tmp_path: Path) -> None:
    """Without root nothing can be seen of the page: it may be poisoned."""
    host = Server(replace(BASE, process=Process(root=False)))
    journal = Journal(tmp_path / "journal")
    knobs, writes = {"param1": "0"}, [["param1", "0x5"]]
    journal.begin(host=NAME, boot="this boot", test="t", hva=None, hpa=f"{TARGET:#x}", knobs=knobs, writes=writes)
    (text,) = abandoned(host, journal).values()
    assert f"{TARGET:#x} may be poisoned" in text
    assert "EINJ's files" not in text
    host.close()


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EIO])
def test_a_page_that_stays_in_service_is_told_loudly(
    host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    memory = host.filled()
    hpa = host.hpa(memory)

    def refuse(_hpa: int, **_flags: bool) -> None:
        raise OSError(code, os.strerror(code))

    safeguards = guarded(tmp_path)
    monkeypatch.setattr(host.firmware.failure, "handle", refuse)
    says = rf"{hpa:#x} is still in service.*{errno.errorcode[code]}.*echo {hpa:#x} > {HARD_OFFLINE}"
    with pytest.warns(PoisonWarning, match=says), Einj(host, safeguards) as einj:
        einj.inject_at(memory.address)
    assert safeguards.lock is not None
    assert not safeguards.lock.held
    assert events(tmp_path / "journal") == ["begin", "injected", "restored", "kept"]
    (text,) = abandoned(host, Journal(tmp_path / "journal")).values()
    assert f"{hpa:#x} may be poisoned" in text
