# SPDX-License-Identifier: GPL-2.0-only
"""A tree of `sim.debugfs` that stays in memory until somebody asks where it is.

Most hosts live for one test and are looked at by nobody but their own VMM: making 20 files and directories for each of
them would cost more than everything else that the test does.
"""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from pytest_kvm_sea.sim.debugfs import Entry, Tree
from pytest_kvm_sea.sim.files import fail

_DEFAULT_MODE = 0o755


class LazyTree:
    """The interface of `Tree`. From the first use of `root` or `on_disk` on, the disk is the truth."""

    def __init__(self, root: Callable[[], Path], files: Mapping[str, Entry], directories: Mapping[str, int]) -> None:
        self._root = root
        self._modes = {path: entry.mode for path, entry in files.items()}
        self._contents = {path: entry.content for path, entry in files.items()}
        self._directories = _with_parents(directories, files)
        self._notes: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._disk: Tree | None = None

    @property
    def is_on_disk(self) -> bool:
        """Whether others may see it, and change it."""
        return self._disk is not None

    @property
    def root(self) -> Path:
        """The directory that stands for the root of the simulated host."""
        return self._on_disk().root

    def on_disk(self, path: str) -> str:
        """Where a path of the simulated host is on this machine."""
        return self._on_disk().on_disk(path)

    def mode(self, path: str) -> int | None:
        """st_mode of a path; None if there is nothing."""
        if self._disk is not None:
            return self._disk.mode(path)
        if path in self._modes:
            return stat.S_IFREG | self._modes[path]
        return stat.S_IFDIR | self._directories[path] if path in self._directories else None

    def names(self, path: str) -> list[str]:
        """What is in a directory."""
        if self._disk is not None:
            return self._disk.names(path)
        if path not in self._directories:
            fail(errno.ENOTDIR if path in self._modes else errno.ENOENT, path)
        return sorted(
            name
            for parent, _, name in (known.rpartition("/") for known in (*self._modes, *self._directories))
            if parent == path
        )

    def read(self, path: str) -> bytes:
        """The whole file. Missing: ENOENT."""
        if self._disk is not None:
            return self._disk.read(path)
        if path not in self._contents:
            fail(errno.ENOENT, path)
        return self._contents[path]

    def write(self, path: str, content: bytes) -> None:
        """Replace what is in the file. Call it under `locked`."""
        if self._disk is not None:
            self._disk.write(path, content)
        elif path not in self._contents:
            fail(errno.ENOENT, path)
        else:
            self._contents[path] = content

    def note(self, name: str) -> bytes | None:
        """A note beside the tree, for state that the kernel shows nowhere. None: not there."""
        return self._notes.get(name) if self._disk is None else self._disk.note(name)

    def write_note(self, name: str, content: bytes | None) -> None:
        """Write a note beside the tree, or with None remove it. Call it under `locked`."""
        if self._disk is not None:
            self._disk.write_note(name, content)
        elif content is None:
            self._notes.pop(name, None)
        else:
            self._notes[name] = content

    def locked(self) -> AbstractContextManager[object]:
        """Exclusive among threads, and among processes once the tree is on disk."""
        return _Locked(self)

    def lock(self) -> AbstractContextManager[object]:
        """Take the lock of this process, and give it back at once where the tree is on disk, which has its own."""
        self._lock.acquire()
        if self._disk is None:
            return self._lock
        self._lock.release()
        held = self._disk.locked()
        held.__enter__()
        return held

    def _on_disk(self) -> Tree:
        with self._lock:
            if self._disk is None:
                files = {path: Entry(self._modes[path], content) for path, content in self._contents.items()}
                disk = Tree(self._root, files, self._directories)
                with disk.locked():
                    for name, content in self._notes.items():
                        disk.write_note(name, content)
                self._disk = disk
            return self._disk


class _Locked:
    """`LazyTree.locked`. A class, because contextlib's generators take longer than what is done under the lock."""

    __slots__ = ("_held", "_tree")

    def __init__(self, tree: LazyTree) -> None:
        self._tree = tree

    def __enter__(self) -> None:
        self._held = self._tree.lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._held.__exit__(kind, error, traceback)


def _with_parents(directories: Mapping[str, int], files: Mapping[str, Entry]) -> dict[str, int]:
    """All directories with their modes, those that are named by a path below them included."""
    return dict(_all_directories(tuple(directories.items()), tuple(files)))


@lru_cache(maxsize=64)
def _all_directories(given: tuple[tuple[str, int], ...], files: tuple[str, ...]) -> Mapping[str, int]:
    """Every host of a platform has the same."""
    directories = dict(given)
    found: dict[str, int] = {}
    for path in (*directories, *(file.rpartition("/")[0] for file in files)):
        parts = path.split("/")[1:]
        for count in range(1, len(parts) + 1):
            parent = "/" + "/".join(parts[:count])
            found.setdefault(parent, directories.get(parent, _DEFAULT_MODE))
    return found
