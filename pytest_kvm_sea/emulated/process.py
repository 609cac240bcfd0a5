# SPDX-License-Identifier: GPL-2.0-only
"""One run of QEMU: started, listened to, ended for certain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pytest_kvm_sea.emulated.errors import EmulationError

READY = "kvm-sea: ready"
DONE = "kvm-sea: done"
NO_KVM = "kvm-sea: the kernel has no /dev/kvm"
NO_PORTS = "kvm-sea: the kernel has no virtio-serial ports"
"""What the guest writes to its console (init.sh)."""
_PANIC = re.compile(r"Kernel panic|Internal error|Oops|Unable to handle kernel|\bBUG:")
_LINES_BEFORE, _LINES_AFTER = 8, 12
_POLL = 0.05
_GRACE = 5.0


class Qemu:
    """A QEMU that runs from its start until its end, and never longer than the `with`."""

    def __init__(
        self, command: Sequence[str], console: Path, hear: Callable[[bytes], None], *, terminal: bool = False
    ) -> None:
        self._command = command
        self._console = console
        self._hear = hear
        # Not /dev/null: at the end of its input QEMU's chardev is closed, and the guest's writes would wait for ever.
        self._stdin = None if terminal else subprocess.PIPE
        self._complaints = b""
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Start it. Inside of the `with`, so that a signal that comes meanwhile finds somebody to end it."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell
                [*_dies_with_us(), *self._command], stdin=self._stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise EmulationError(f"{self._command[0]} cannot be started: {error.strerror}") from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._listen(self._process.stdout, self._hear)
        self._listen(self._process.stderr, self._complain)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        for thread in self._threads:
            thread.join(_GRACE)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def console(self) -> str:
        """What the kernel has said so far."""
        return self._console.read_text(encoding="utf-8", errors="replace") if self._console.exists() else ""

    def wait(self, *, boot_timeout: float, timeout: float) -> None:
        """Until the machine has powered itself off. Raises EmulationError where that is not the end that was meant."""
        assert self._process is not None
        begin = time.monotonic()
        ready = False
        while self._process.poll() is None:
            spent = time.monotonic() - begin
            ready = ready or READY in self.console()
            if not ready and spent > boot_timeout:
                raise self._failure(f"the kernel did not boot within {boot_timeout:g} s")
            if spent > timeout:
                raise self._failure(f"the machine was not done within {timeout:g} s (--timeout)")
            time.sleep(_POLL)
        self._judge(self._process.returncode)

    def wait_for_a_person(self) -> None:
        """Until the machine is powered off, however long that takes."""
        assert self._process is not None
        self._process.wait()

    def _judge(self, code: int) -> None:
        console = self.console()
        if code:
            for thread in self._threads:
                thread.join(_GRACE)
            raise EmulationError(f"QEMU ended with {code}", self._complaints.decode(errors="replace").strip())
        if NO_PORTS in console:
            raise self._failure("the kernel has no virtio-serial ports: CONFIG_VIRTIO_PCI=y, CONFIG_VIRTIO_CONSOLE=y")
        if READY not in console:
            raise self._failure("the kernel did not boot")
        if NO_KVM in console:
            raise self._failure("the kernel has no /dev/kvm: CONFIG_VIRTUALIZATION=y, CONFIG_KVM=y")
        if DONE not in console:
            raise self._failure("the machine died before the tests were done")

    def _failure(self, message: str) -> EmulationError:
        complaints = self._complaints.decode(errors="replace").splitlines()
        details = [*telling(self.console().splitlines()), *complaints]
        return EmulationError(message, "\n".join([f"its console ({self._console}):", *(details or ["(nothing)"])]))

    def _complain(self, data: bytes) -> None:
        self._complaints += data

    def _listen(self, stream: IO[bytes], hear: Callable[[bytes], None]) -> None:
        thread = threading.Thread(target=_pump, args=(stream, hear), daemon=True)
        thread.start()
        self._threads.append(thread)


def telling(console: list[str]) -> list[str]:
    """The lines of a console that say most about its end: around the first panic, or else the last ones."""
    at = next((number for number, line in enumerate(console) if _PANIC.search(line)), len(console))
    return console[max(0, at - _LINES_BEFORE) : at + _LINES_AFTER]


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel kill QEMU when this process is killed, which no `finally` can see to."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _pump(stream: IO[bytes], hear: Callable[[bytes], None]) -> None:
    with stream:
        while data := os.read(stream.fileno(), 1 << 16):
            hear(data)
