# SPDX-License-Identifier: GPL-2.0-only
"""A piece of the simulated host's file system on disk: real directories and files that ls and cat show.

The contents of the files are the state: they outlive the host object and are shared by every process that uses the same
directory. Whoever changes one holds an exclusive flock on ``.lock`` beside the tree. Nothing is made before somebody
asks for a path in the tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_kvm_sea.sim.files import fail


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is when the tree is made."""

    mode: int
    content: bytes = b""


class Tree:
    """Files below ``root()``, by their path on the simulated host."""

    is_on_disk = True

    def __init__(self, root: Callable[[], Path], files: Mapping[str, Entry], directories: Mapping[str, int]) -> None:
        """``files`` and ``directories`` (path to mode) are absolute paths; missing parents get mode 0755."""
        self._root = root
        self._base: str | None = None
        self._held = threading.local()
        self._files = files
        self._directories = directories

    @property
    def root(self) -> Path:
        """The directory that stands for the root of the simulated host; makes the tree if need be."""
        return Path(self._made())

    def on_disk(self, path: str) -> str:
        """Where a path of the simulated host is on this machine."""
        return self._made() + path

    def mode(self, path: str) -> int | None:
        """st_mode of a path; None if there is nothing."""
        try:
            return os.stat(self.on_disk(path)).st_mode  # noqa: PTH116 - os.stat spares the hot path a Path
        except FileNotFoundError:
            return None

    def names(self, path: str) -> list[str]:
        """What is in a directory."""
        return sorted(os.listdir(self.on_disk(path)))  # noqa: PTH208

    def read(self, path: str) -> bytes:
        """The whole file. Missing: ENOENT."""
        descriptor = os.open(self.on_disk(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, os.fstat(descriptor).st_size or 1)
        finally:
            os.close(descriptor)

    def write(self, path: str, content: bytes) -> None:
        """Replace what is in the file. Call it under `locked`."""
        descriptor = os.open(self.on_disk(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)

    def note(self, name: str) -> bytes | None:
        """A note beside the tree, for state that the kernel shows nowhere. None: not there."""
        try:
            return Path(f"{self._made()}/.{name}").read_bytes()
        except FileNotFoundError:
            return None

    def write_note(self, name: str, content: bytes | None) -> None:
        """Write a note beside the tree, or with None remove it. Call it under `locked`."""
        path = Path(f"{self._made()}/.{name}")
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive among threads and processes; who holds it may take it once more."""
        if getattr(self._held, "here", False):
            yield
            return
        with _flock(self._made()):
            self._held.here = True
            try:
                yield
            finally:
                self._held.here = False

    def _made(self) -> str:
        if self._base is None:
            base = os.fspath(self._root())
            with _flock(base):
                if not os.path.exists(f"{base}/.made"):  # noqa: PTH110
                    self._make(base)
                    os.close(os.open(f"{base}/.made", os.O_CREAT | os.O_WRONLY, 0o600))
            self._base = base
        return self._base

    def _make(self, base: str) -> None:
        known: set[str] = set()
        for path in self._directories:
            self._make_directory(base, path, known)
        for path, entry in self._files.items():
            self._make_directory(base, path.rpartition("/")[0], known)
            descriptor = os.open(base + path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, entry.content)
                os.fchmod(descriptor, entry.mode)
            finally:
                os.close(descriptor)

    def _make_directory(self, base: str, path: str, known: set[str]) -> None:
        if not path or path in known:
            return
        self._make_directory(base, path.rpartition("/")[0], known)
        known.add(path)
        try:
            os.mkdir(base + path)  # noqa: PTH102
            os.chmod(base + path, self._directories.get(path, 0o755))  # noqa: PTH101 - whatever the umask is
        except FileExistsError:
            if not os.path.isdir(base + path):  # noqa: PTH112
                fail(errno.ENOTDIR, base + path)


@contextmanager
def _flock(base: str) -> Iterator[None]:
    # Opened anew each time: a lock belongs to the open file description, which threads and forks would share.
    descriptor = os.open(f"{base}/.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
