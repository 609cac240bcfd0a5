# SPDX-License-Identifier: GPL-2.0-only
"""The lock of the machine, between real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_kvm_sea.ras import lock as module
from pytest_kvm_sea.ras.errors import LockTimeoutError
from pytest_kvm_sea.ras.lock import INJECT, MAP_HUGETLB, HostLock, Share, Turn

HOLD = """
import sys
from pathlib import Path
from pytest_kvm_sea.ras.lock import HostLock
with HostLock(Path(sys.argv[1]), host="server", test="tests/test_x.py::test_x[linux-mainline]"):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys
from pathlib import Path
from pytest_kvm_sea.ras.lock import HostLock
path, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(20):
    with HostLock(path, host="server", test="count"):
        value = int(counter.read_text())
        counter.write_text("")
        counter.write_text(str(value + 1))
"""


def locked(path: Path, test: str = "mine", timeout: float = 5.0, said: list[str] | None = None) -> HostLock:
    return HostLock(path, host="server", test=test, timeout=timeout, say=(said if said is not None else []).append)


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_the_file_says_who_has_it_and_stays(path: Path) -> None:
    with locked(path, "test_a"):
        note = json.loads(path.read_text())
        assert (note["pid"], note["host"], note["test"]) == (os.getpid(), "server", "test_a")
        assert note["since"]
    assert path.read_text() == ""
    with locked(path, "x" * 9000), pytest.raises(LockTimeoutError, match="for xxx"):
        locked(path, timeout=0).acquire()


def test_another_process_waits_and_is_told_for_whom(path: Path) -> None:
    said: list[str] = []
    with another_process(path) as process:
        assert process.stdin is not None
        # It lets go once it is known that somebody waits.
        lock = HostLock(path, host="server", test="mine", timeout=20, say=said.append)
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        while not said and thread.is_alive():
            time.sleep(0.005)
        assert thread.is_alive()
        process.stdin.close()
        thread.join()
    (text,) = said
    assert f"held by process {process.pid} on server, for tests/test_x.py::test_x[linux-mainline], since 2" in text
    assert str(path) in text
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert lock.held
    lock.release()
    lock.release()


def test_a_time_out_names_the_holder(path: Path) -> None:
    with another_process(path) as process:
        with pytest.raises(LockTimeoutError, match=rf"not free within 0.03 s: held by process {process.pid} .*Wait"):
            locked(path, timeout=0.03).acquire()
        assert json.loads(path.read_text())["pid"] == process.pid


def test_a_holder_that_is_killed_lets_go(path: Path) -> None:
    with another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads(path.read_text())["pid"] == process.pid
        with locked(path, timeout=0):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_no_two_are_inside(path: Path, tmp_path: Path) -> None:
    """Three processes count in a file; what is read and written without a lock gets lost."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(path), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert counter.read_text() == "60"


def test_a_child_that_lives_on_does_not_keep_it(path: Path) -> None:
    """It may have the same open file, by a fork; letting go must not depend on it."""
    lock = locked(path)
    lock.acquire()
    assert lock._descriptor is not None
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock._descriptor]) as child:
        lock.release()
        with locked(path, timeout=0):
            pass
        child.communicate(b"\n")


def test_a_file_without_a_note_is_a_holder_without_a_name(path: Path) -> None:
    with locked(path):
        for note in ("", "{", "[]", '{"pid": 1}', "null"):
            path.write_text(note)
            with pytest.raises(LockTimeoutError, match="held by somebody who has not said who it is"):
                locked(path, timeout=0).acquire()


def test_it_says_so_again_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAY_AGAIN", 0.05)
    said: list[str] = []
    with locked(path), pytest.raises(LockTimeoutError):
        locked(path, timeout=0.2, said=said).acquire()
    assert 2 <= len(said) <= 5


def test_it_is_not_taken_twice(path: Path) -> None:
    with locked(path) as lock, pytest.raises(RuntimeError, match="locked by this object already"):
        lock.acquire()


def test_an_interrupted_wait_leaves_nothing_open(path: Path) -> None:
    def interrupt(_text: str) -> None:
        raise KeyboardInterrupt

    with locked(path):
        before = open_files()
        lock = HostLock(path, host="server", test="mine", say=interrupt)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
        assert not lock.held
        assert open_files() == before


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_only_a_file_serves(tmp_path: Path, kind: str) -> None:
    """A link could lead the session of root to any file."""
    path = tmp_path / "lock"
    if kind == "link":
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    else:
        path.mkdir()
    with pytest.raises(OSError, match=str(path)):
        locked(path).acquire()
    if kind == "link":
        assert (tmp_path / "precious").read_text() == "precious"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "DIRECTORY", tmp_path)
    assert module.default_path() == tmp_path / module.NAME
    monkeypatch.setattr(module, "DIRECTORY", tmp_path / "absent")
    assert module.default_path() == Path(tempfile.gettempdir()) / module.NAME
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(module, "DIRECTORY", tmp_path / "root")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert module.default_path() == Path(tempfile.gettempdir()) / module.NAME
    (tmp_path / "root" / module.NAME).touch()
    assert module.default_path() == tmp_path / "root" / module.NAME


def test_who_may_only_read_it_takes_turns_as_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that root made: the lock needs no right to write, the note does."""
    path.write_text("")
    make = os.open

    def refuse(name: Path, flags: int, *mode: int) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError
        return make(name, flags, *mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        lock = locked(path)
        lock.acquire()
    with pytest.raises(LockTimeoutError, match="somebody who has not said who it is"):
        locked(path, timeout=0).acquire()
    lock.release()
    with locked(path, timeout=0):
        pass


# Several that need it in one test


def state(turn: Turn, *shares: Share) -> list[bool]:
    return [turn.lock.held, *(share.held for share in shares)]


def test_the_first_of_a_test_waits_and_the_end_of_the_test_lets_go(path: Path) -> None:
    with Turn(locked(path)) as turn:
        first, second = turn.share(INJECT), turn.share(MAP_HUGETLB)
        second.release()
        assert state(turn, first, second) == [False, False, False]
        first.acquire()
        first.acquire()
        assert state(turn, first, second) == [True, True, False]
        second.acquire()
        first.release()
        first.release()
        assert state(turn, first, second) == [True, False, True]
        second.release()
        assert state(turn, first, second) == [True, False, False]
        first.acquire()
    assert state(turn, first, second) == [False, False, False]
    with locked(path, timeout=0):
        pass


def test_a_turn_that_nobody_needed_touches_nothing(path: Path) -> None:
    with Turn(locked(path)) as turn:
        turn.share(INJECT)
    assert not path.exists()


def test_a_share_that_waited_in_vain_has_nothing(path: Path) -> None:
    said: list[str] = []
    with Turn(locked(path, timeout=0.06, said=said)) as turn:
        share = turn.share(MAP_HUGETLB)
        with locked(path, "test_other"):
            with pytest.raises(LockTimeoutError, match=r"held by .*, for test_other, .*None was mapped\. Wait"):
                share.acquire()
            assert state(turn, share) == [False, False]
        assert said[0].startswith("kvm-sea: waiting for hugetlb memory, up to 0 s: ")
        share.acquire()
        assert state(turn, share) == [True, True]
