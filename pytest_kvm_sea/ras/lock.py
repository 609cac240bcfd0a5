# SPDX-License-Identifier: GPL-2.0-only
"""One test at a time on a whole machine, for EINJ and for hugetlb memory: flock(2) on a well-known file.

EINJ's files are global to the machine: two sessions, or two workers of one, that set them at the same time inject at
each other's addresses. So is the pool of huge pages: of two tests that need the last one, the second finds none, and is
skipped as if the machine had none. One lock for both, so that there is no order in which to take them.

The kernel gives the lock back when its holder ends, however it ends; the file stays, and says who the holder is.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_kvm_sea.ras.errors import LockTimeoutError

NAME = "pytest-kvm-sea-einj.lock"
DIRECTORY = Path("/run/lock")
DEFAULT_TIMEOUT = 600.0
"""Seconds: other workers hold the lock for a whole test each."""
_POLL = 0.02
_SAY_AGAIN = 30.0
_MAX_NOTE, _MAX_TEST_ID = 4096, 500
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def default_path() -> Path:
    """The file that all sessions on this machine agree on: below /run/lock, or in the directory for temporary files."""
    path = DIRECTORY / NAME
    # Where only root may make it, the others use it once it is there.
    if path.exists() or os.access(DIRECTORY, os.W_OK | os.X_OK):
        return path
    return Path(tempfile.gettempdir()) / NAME


def now() -> str:
    """The time as it is written down: local, with its offset from UTC, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the lock, as written into the file."""

    pid: int
    host: str
    """uname -n: in a container not the machine's own name."""
    test: str
    since: str = field(default_factory=now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, for {self.test}, since {self.since}"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the lock is wanted for, in the words of its messages."""

    waiting: str
    in_vain: str


INJECT = Purpose("to inject", "Nothing was injected")
MAP_HUGETLB = Purpose("for hugetlb memory", "None was mapped")


class HostLock:
    """The lock of one session. Not to be taken twice; another object for the same file waits like another process."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        host: str,
        test: str,
        timeout: float = DEFAULT_TIMEOUT,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``host`` and ``test``: what others are told. ``timeout``: in seconds. ``say``: gets lines while it waits."""
        self.path = path or default_path()
        self._host = host
        self._test = test
        self._timeout = timeout
        self._say = say
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, purpose: Purpose = INJECT) -> None:
        """Wait for the lock, and leave a note. LockTimeoutError, with the holder; OSError: the file cannot be used."""
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path} is locked by this object already")
        descriptor = _open(self.path)
        try:
            self._wait(descriptor, purpose)
            self._write(descriptor, self._note())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next one in. Allowed twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._write(descriptor, b"")
            # Not by closing alone: a child of this process may have the same open file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _write(self, descriptor: int, note: bytes) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note, 0)

    def _wait(self, descriptor: int, purpose: Purpose) -> None:
        start = time.monotonic()
        say_at = _POLL  # who just took it has not written its name yet
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = time.monotonic() - start
            else:
                return
            if waited >= self._timeout:
                raise LockTimeoutError(
                    f"{self.path} was not free within {self._timeout:g} s: held by {holder(descriptor)}."
                    f" {purpose.in_vain}. Wait for that test, or end that process if it hangs"
                )
            if waited >= say_at:
                self._say(
                    f"kvm-sea: waiting {purpose.waiting}, up to {self._timeout - waited:.0f} s: {self.path} is held by"
                    f" {holder(descriptor)}"
                )
                say_at = waited + _SAY_AGAIN
            time.sleep(_POLL)

    def _note(self) -> bytes:
        return json.dumps(asdict(Holder(os.getpid(), self._host, self._test[:_MAX_TEST_ID]))).encode()


class Turn:
    """The lock as one test has it: whoever in the test needs it first waits, and it is held to the end of the test.

    Use it as a context manager around the test.
    """

    def __init__(self, lock: HostLock) -> None:
        self.lock = lock
        self._shares: set[Share] = set()

    def share(self, purpose: Purpose) -> Share:
        """For one of the parts of the test that need the lock."""
        return Share(self, purpose)

    def join(self, share: Share) -> None:
        """Raises what `HostLock.acquire` raises."""
        if not self.lock.held:
            self.lock.acquire(share.purpose)
        self._shares.add(share)

    def leave(self, share: Share) -> None:
        """Allowed twice. The lock stays: what one part of a test has done with is not all that the test does."""
        self._shares.discard(share)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shares.clear()
        self.lock.release()

    def __contains__(self, share: Share) -> bool:
        return share in self._shares


class Share:
    """One part of a test with its turn; to whoever has it, it is a lock."""

    def __init__(self, turn: Turn, purpose: Purpose) -> None:
        self.purpose = purpose
        self._turn = turn

    @property
    def path(self) -> Path:
        return self._turn.lock.path

    @property
    def held(self) -> bool:
        return self in self._turn

    def acquire(self) -> None:
        """Raises what `HostLock.acquire` raises. Allowed twice."""
        self._turn.join(self)

    def release(self) -> None:
        """Allowed twice."""
        self._turn.leave(self)


def holder(descriptor: int) -> str:
    """Who the file says has it; it is still empty for the moment between taking the lock and writing that down."""
    try:
        return str(Holder(**json.loads(os.pread(descriptor, _MAX_NOTE, 0))))
    except (ValueError, TypeError):
        return "somebody who has not said who it is"


def _open(path: Path) -> int:
    """Without O_CREAT first: in a sticky directory the kernel forbids it for a file of another user, even to root."""
    try:
        return _open_existing(path)
    except FileNotFoundError:
        pass
    try:
        return os.open(path, _FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return _open_existing(path)


def _open_existing(path: Path) -> int:
    """For reading alone where root made it and this is not root: that locks as well, and leaves no note."""
    try:
        return os.open(path, _FLAGS | os.O_RDWR)
    except PermissionError:
        return os.open(path, _FLAGS | os.O_RDONLY)
