# SPDX-License-Identifier: GPL-2.0-only
"""EINJ's files alone, for tests of programs that use them: no VM, no KVM, nothing else of this package.

The files lie in a real directory, which stands for the root of the machine: `root/sys/kernel/debug/apei/einj/…`. Two
ways lead to them, and both may be used at once, by several processes:

- `FakeEinj.write` and `FakeEinj.read` are what write(2) and read(2) are on a real machine: checked, with the errno.
- A program that is given the directory writes to the files as they are. No check stops it; `FakeEinj.sync` afterwards
  does with every file that was written what the kernel would have done, and says what the errno would have been.

State is in the tree alone. Whoever changes it holds an flock on `root/.lock`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.platforms.model import Lockdown, Platform
from pytest_kvm_sea.sim.debugfs import Tree
from pytest_kvm_sea.sim.einj import Driver
from pytest_kvm_sea.sim.einj_layout import DIRECTORY, files
from pytest_kvm_sea.sim.files import SimFile, fail
from pytest_kvm_sea.sim.firmware import Firmware, Request, Status
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.process import Process

_INJECT = "error_inject"
_KNOWN, _INJECTIONS = "known", "injections"
DEBUGFS = "/sys/kernel/debug"


@dataclass(frozen=True, slots=True)
class FakeInjection:
    """An error that the firmware took on."""

    type: int
    flags: int
    """Which of the following count: 1 apicid, 2 address and mask, 4 sbdf; 8: the type is one of EINJv2."""
    address: int
    mask: int
    apicid: int
    sbdf: int
    poisoned: bool
    """Memory is broken there now."""
    triggered: bool
    """It was reported at once, and is not waiting for somebody to consume it."""
    pid: int
    """Of the process that injected, or that called `sync`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the kernel would have said to one write."""

    file: str
    """The name below the EINJ directory."""
    text: str
    errno: int
    """0: it would have succeeded."""

    @property
    def accepted(self) -> bool:
        return self.errno == 0


class FakeEinj:
    """The EINJ of one machine, below a directory. Objects of several processes may share one."""

    def __init__(self, root: Path, platform: str | Path | Platform = "ampereone") -> None:
        """``platform``: whose EINJ; a bundled name, a YAML file, or a Platform. Raises PlatformError."""
        self.platform = platform if isinstance(platform, Platform) else load_platform(platform)
        self._entries = files(self.platform)
        physical = PhysicalMemory(self.platform.kernel.page_size, self.platform.memory)
        process = Process(physical, self.platform.kernel.page_size, self.platform.hugepages)
        root.mkdir(parents=True, exist_ok=True)
        self._physical = physical
        self._tree = Tree(lambda: root, self._entries, {DEBUGFS: 0o755})
        self._firmware = _LoggingFirmware(self.platform, physical, process, self._tree)
        self._driver = Driver(self.platform, physical, self._firmware, self._tree)
        self._names = [path.removeprefix(f"{DIRECTORY}/") for path in self._entries if path.startswith(DIRECTORY)]
        self.root = self._tree.root
        """What stands for /."""

    @property
    def directory(self) -> Path:
        """What stands for /sys/kernel/debug/apei/einj. Not there where the platform has no EINJ."""
        return self.root / DIRECTORY[1:]

    @property
    def names(self) -> list[str]:
        """The files that there are, sorted."""
        return sorted(self._names)

    @property
    def ram(self) -> list[range]:
        """Physical addresses of System RAM: where errors may be injected."""
        return [range(r.start, r.end) for r in self._physical.ranges() if r.name == "System RAM"]

    # As the kernel does it

    def write(self, name: str, text: str | bytes) -> None:
        """write(2) to one of the files. OSError with the kernel's errno; ENOENT for a file that is not there."""
        data = text.encode() if isinstance(text, str) else text
        with self._tree.locked():
            try:
                self._open(name, os.O_WRONLY).write(data)
            finally:
                self._note(self._known() | {each: self._content(each) for each in {name, "flags"} & {*self._names}})

    def read(self, name: str) -> str:
        """read(2) of all of one of the files. OSError with the kernel's errno."""
        with self._tree.locked():
            return self._open(name, os.O_RDONLY).read().decode("ascii", "replace")

    def _open(self, name: str, flags: int) -> SimFile:
        path = f"{DIRECTORY}/{name}"
        if not self.platform.process.root:
            fail(errno.EACCES, path)
        if name not in self._names:
            fail(errno.ENOENT, path)
        writable = self._entries[path].mode & ~0o444 or flags != os.O_RDONLY
        if self.platform.kernel.lockdown is not Lockdown.NONE and writable:
            fail(errno.EPERM, path)
        return self._driver.open(f"{DIRECTORY}/{name}", flags)

    # Of programs that write to the directory

    def sync(self) -> list[Outcome]:
        """Do with every file that was written since the last time what the kernel does; what it would have said.

        A value that it refuses is taken back (but error_type keeps every text, since 6.17), others are shown as the
        kernel shows them. A write to error_inject injects, after all others. Of several writes to one file the last one
        counts. An empty file is one that somebody is about to write.
        """
        with self._tree.locked():
            known = self._known()
            outcomes = [outcome for name in self._in_order() if (outcome := self._apply(name, known[name])) is not None]
            if outcomes:
                self._note({name: self._content(name) for name in self._names})
            return outcomes

    def _in_order(self) -> list[str]:
        return sorted(self._names, key=lambda name: name == _INJECT)

    def _apply(self, name: str, before: bytes) -> Outcome | None:
        """As if nobody had written past the kernel: it changes the file, or does not."""
        found = self._content(name)
        if found == before or not found:
            return None
        self._tree.write(f"{DIRECTORY}/{name}", before)
        try:
            self._open(name, os.O_WRONLY).write(found)
        except OSError as error:
            return Outcome(name, found.decode("ascii", "replace"), error.errno or errno.EIO)
        return Outcome(name, found.decode("ascii", "replace"), 0)

    def _known(self) -> dict[str, bytes]:
        """What was in the files after the last look at them."""
        note = self._tree.note(_KNOWN)
        if note is None:
            return {name: self._entries[f"{DIRECTORY}/{name}"].content for name in self._names}
        return {name: bytes.fromhex(text) for name, text in json.loads(note).items()}

    def _note(self, known: dict[str, bytes]) -> None:
        self._tree.write_note(_KNOWN, json.dumps({name: text.hex() for name, text in known.items()}).encode())

    def _content(self, name: str) -> bytes:
        """What is in a file, also where its mode lets nobody but root read it."""
        path = self.directory / name
        state = path.stat()
        if not state.st_size:
            return b""
        if state.st_mode & stat.S_IRUSR:
            return path.read_bytes()
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        try:
            return path.read_bytes()
        finally:
            path.chmod(stat.S_IMODE(state.st_mode))

    @contextmanager
    def served(self, interval: float = 0.01) -> Iterator[list[Outcome]]:
        """While the context lasts, `sync` is called every ``interval`` seconds; all outcomes are in the list."""
        outcomes: list[Outcome] = []
        failures: list[BaseException] = []
        stop = threading.Event()

        def serve() -> None:
            try:
                while not stop.wait(interval):
                    outcomes.extend(self.sync())
            except BaseException as error:  # noqa: BLE001 - raised where the context ends
                failures.append(error)

        thread = threading.Thread(target=serve, name="fake-einj", daemon=True)
        thread.start()
        try:
            yield outcomes
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]
        outcomes.extend(self.sync())

    # What came of it

    @property
    def injections(self) -> list[FakeInjection]:
        """Every error that was injected, by whichever process, in order."""
        with self._tree.locked():
            return self._firmware.log()

    def wait_for_injections(self, count: int, timeout: float = 10.0) -> list[FakeInjection]:
        """As `injections`, once there are that many. TimeoutError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while len(found := self.injections) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} of {count} errors were injected within {timeout:g} s")
            time.sleep(0.005)
        return found

    def set_outcome(self, outcome: str) -> None:
        """How this object's injections end from now on: success, failed (EBUSY), invalid (EINVAL), timeout (EIO)."""
        self._firmware.next_status = Status(outcome)


class _LoggingFirmware(Firmware):
    """A firmware whose log is in the tree, so that every process sees it. Used under the tree's lock."""

    def __init__(self, platform: Platform, physical: PhysicalMemory, process: Process, tree: Tree) -> None:
        super().__init__(platform, physical, process)
        self._tree = tree

    def execute(self, request: Request) -> Status:
        status = super().execute(request)
        if status is Status.SUCCESS:
            self._write([*self.log(), self._last()])
        return status

    def trigger(self) -> None:
        super().trigger()
        log = self.log()
        if log and self.injections and log[-1].pid == os.getpid():
            self._write([*log[:-1], self._last()])

    def log(self) -> list[FakeInjection]:
        note = self._tree.note(_INJECTIONS) or b""
        return [FakeInjection(**json.loads(line)) for line in note.splitlines()]

    def _last(self) -> FakeInjection:
        injection = self.injections[-1]
        request = injection.request
        return FakeInjection(
            request.type,
            request.flags,
            request.address,
            request.mask,
            request.apicid,
            request.sbdf,
            injection.poisoned,
            injection.triggered,
            os.getpid(),
        )

    def _write(self, log: list[FakeInjection]) -> None:
        lines = (json.dumps(dataclasses.asdict(injection)) for injection in log)
        self._tree.write_note(_INJECTIONS, "\n".join(lines).encode())
