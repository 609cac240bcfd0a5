# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host's file system: paths, permissions, and who opens what.

Most files are made up when they are opened. debugfs and the ACPI tables are on disk (`sim.debugfs`); that tree comes
into being at the first path below one of them.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pytest_kvm_sea.platforms.model import Lockdown
from pytest_kvm_sea.sim import einj_layout, kernel_log, procfs
from pytest_kvm_sea.sim.acpi import einj_table
from pytest_kvm_sea.sim.debugfs import Entry, Tree
from pytest_kvm_sea.sim.einj import Driver
from pytest_kvm_sea.sim.files import DirectoryFile, TextFile, fail
from pytest_kvm_sea.sim.lazy_tree import LazyTree

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import File
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.firmware import Firmware
    from pytest_kvm_sea.sim.memory_failure import MemoryFailure
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

DEBUGFS = "/sys/kernel/debug"
ACPI_TABLES = "/sys/firmware/acpi/tables"
KVM = "/dev/kvm"
_SYSFS = ("/sys/devices/", "/sys/firmware/")
_OTHERS = ("kvm", "memblock", "ras")
"""What is in every debugfs, so that it does not look as if it were not mounted."""
_DIRECTORIES_ON_DISK = {DEBUGFS: 0o700, ACPI_TABLES: 0o755} | {f"{DEBUGFS}/{name}": 0o755 for name in _OTHERS}
_WANTED = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}


@dataclass(frozen=True, slots=True)
class Node:
    """A file that is not on disk."""

    opener: Callable[[int], File]
    mode: int
    owned: bool = False
    """It belongs to the process (as /proc/self does), not to root."""
    denied: int = 0
    """Not zero: the errno of every open, whoever asks."""


@cache
def _parents(path: str) -> frozenset[str]:
    """All directories above a path; the paths are the same for every host."""
    return frozenset(map(str, PurePosixPath(path).parents))


@cache
def _is_on_disk(path: str) -> bool:
    return any(path == mount or path.startswith(mount + "/") for mount in (DEBUGFS, ACPI_TABLES))


class _Disk(NamedTuple):
    """What every host of a platform has in common."""

    files: Mapping[str, Entry]
    """debugfs and the ACPI tables as they are at boot."""
    may_open: set[tuple[str, int]]
    """Paths in debugfs, and the flags with which this process was let through to the driver."""


@lru_cache(maxsize=64)
def _disk(platform: Platform, firmware_start: int) -> _Disk:
    files = einj_layout.files(platform)
    if platform.firmware.einj.table:
        files[f"{ACPI_TABLES}/EINJ"] = Entry(0o400, einj_table(platform.firmware.einj, firmware_start))
    return _Disk(MappingProxyType(files), set())


class Filesystem:
    """What one process of the simulated host sees."""

    def __init__(
        self,
        platform: Platform,
        process: Process,
        physical: PhysicalMemory,
        firmware: Firmware,
        tree_root: Callable[[], Path],
        *,
        shared: bool = False,
    ) -> None:
        """``tree_root`` gives the directory on this machine below which debugfs is made; asked when first needed.

        With ``shared`` others use the same directory at the same time, so everything is read and written there.
        """
        self._platform = platform
        self._process = process
        self._physical = physical
        self._firmware = firmware
        self._root = platform.process.root
        self._registered: dict[str, Node] = {}
        tree = Tree if shared else LazyTree
        files, self._may_open = _disk(platform, physical.map.firmware.start)
        self.tree = tree(tree_root, files, _DIRECTORIES_ON_DISK)
        self._driver = Driver(platform, physical, firmware, self.tree)

    def register(self, path: str, opener: Callable[[int], File], *, mode: int = 0o666, denied: int = 0) -> None:
        """Put a file at an absolute path; ``opener`` gets the flags of open(2). ``denied``: errno of every attempt."""
        if path == KVM and not self._platform.process.kvm:
            denied = errno.EACCES
        self._registered[path] = Node(opener, mode, denied=denied)

    # System calls

    def open(self, path: str, flags: int) -> File:
        """open(2) without O_CREAT. OSError ENOENT, EACCES, EPERM (lockdown), ENOTDIR, EISDIR."""
        if (path, flags) in self._may_open and not self.tree.is_on_disk:
            # Nobody changes the modes of files that are nowhere but here
            return self._driver.open(path, flags)
        path = posixpath.normpath(path)
        wanted = _WANTED.get(flags & os.O_ACCMODE)
        if wanted is None:
            fail(errno.EINVAL, path)
        mode, node = self._look_up(path)
        if stat.S_ISDIR(mode):
            if wanted & os.W_OK:
                fail(errno.EISDIR, path)
            self._check(mode, wanted, node, path)
            return DirectoryFile(path, flags)
        self._check(mode, wanted, node, path)
        self._check_sysfs(mode, wanted, path)
        if node is not None:
            return node.opener(flags)
        if path.startswith(DEBUGFS):
            self._check_lockdown(mode, wanted, path)
            self._may_open.add((path, flags))
            return self._driver.open(path, flags)
        return TextFile(path, flags, lambda: self.tree.read(path))

    def access(self, path: str, mode: int) -> None:
        """access(2): the permissions only; a lockdown shows in open."""
        path = posixpath.normpath(path)
        found, node = self._look_up(path)
        self._check(found, mode, node, path)

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted. OSError as opendir(3)."""
        path = posixpath.normpath(path)
        mode, node = self._look_up(path)
        if not stat.S_ISDIR(mode):
            fail(errno.ENOTDIR, path)
        self._check(mode, os.R_OK, node, path)
        prefix = path.rstrip("/") + "/"
        names = {each[len(prefix) :].partition("/")[0] for each in self._all_paths() if each.startswith(prefix)}
        if _is_on_disk(path):
            names.update(self.tree.names(path))
        return sorted(names - {""})

    # Looking up

    def _look_up(self, path: str) -> tuple[int, Node | None]:
        """st_mode of a path, after checking that the process may get there."""
        if not path.startswith("/"):
            fail(errno.ENOENT, path)
        if path.startswith(DEBUGFS + "/") and not self._root:
            fail(errno.EACCES, path)  # debugfs itself is 0700
        mode = self.tree.mode(path) if _is_on_disk(path) else None
        if mode is not None:
            return mode, None
        node = self._registered.get(path) or self._own.get(path)
        if node is not None:
            return stat.S_IFREG | node.mode, node
        if path in self._directories:
            return stat.S_IFDIR | 0o755, None
        parent = posixpath.dirname(path)
        mode, _ = self._look_up(parent)
        code = errno.ENOENT if stat.S_ISDIR(mode) else errno.ENOTDIR
        raise OSError(code, os.strerror(code), path)

    @cached_property
    def _own(self) -> dict[str, Node]:
        """The files that are there without `register`; made when first needed, because few tests look at any."""
        found: dict[str, Node] = {}
        self._add_memory_files(found, self._process, self._physical)
        self._add_failure_files(found, self._firmware.failure)
        return found

    @property
    def _directories(self) -> frozenset[str]:
        """All that are not on disk."""
        files = (*self._registered, *self._own)
        return frozenset((ACPI_TABLES, DEBUGFS)).union(*map(_parents, (*files, DEBUGFS, ACPI_TABLES)))

    def _all_paths(self) -> set[str]:
        return {*self._directories, *self._registered, *self._own}

    def _check(self, mode: int, wanted: int, node: Node | None, path: str) -> None:
        """Permission bits; root passes all but execution."""
        if node is not None and node.denied and wanted:
            fail(node.denied, path)
        permitted = mode >> 6 if node is not None and node.owned else mode
        if self._root:
            permitted = os.R_OK | os.W_OK | (os.X_OK if mode & 0o111 else 0)
        if wanted & ~permitted & 7:
            fail(errno.EACCES, path)

    @staticmethod
    def _check_sysfs(mode: int, wanted: int, path: str) -> None:
        """In sysfs root, too, reads only what has a bit for reading, and so for writing (fs/kernfs/file.c open)."""
        if not path.startswith(_SYSFS):
            return
        if (wanted & os.R_OK and not mode & 0o444) or (wanted & os.W_OK and not mode & 0o222):
            fail(errno.EACCES, path)

    def _check_lockdown(self, mode: int, wanted: int, path: str) -> None:
        """debugfs_locked_down: what is read-only for everybody stays readable (fs/debugfs/file.c)."""
        if self._platform.kernel.lockdown is Lockdown.NONE:
            return
        if mode & 0o7777 & ~0o444 or wanted & os.W_OK:
            fail(errno.EPERM, path)

    # What is there

    def _add_memory_files(self, found: dict[str, Node], process: Process, physical: PhysicalMemory) -> None:
        kernel = self._platform.kernel
        root = self._root
        pagemap, kpageflags = "/proc/self/pagemap", "/proc/kpageflags"

        found[pagemap] = Node(
            lambda flags: procfs.PagemapFile(pagemap, flags, process, show_pfn=root), 0o400, owned=True
        )
        found[kpageflags] = Node(lambda flags: procfs.KpageflagsFile(kpageflags, flags, process), 0o400)
        found[kernel_log.PATH] = Node(lambda flags: kernel_log.KmsgFile(flags, physical.log, permitted=root), 0o644)
        _add_text(found, "/proc/meminfo", lambda: procfs.meminfo(physical))
        for size in (2 << 20, 1 << 30):
            if physical.pool_size(size):
                _add_pool(found, physical, size)
        _add_text(found, "/proc/iomem", lambda: procfs.iomem(physical.ram_size, show=root))
        _add_text(found, "/proc/sys/kernel/tainted", lambda: b"0\n", 0o644)
        _add_text(found, "/proc/sys/kernel/osrelease", f"{kernel.release}\n".encode)
        _add_text(found, "/sys/kernel/security/lockdown", lambda: procfs.lockdown(kernel.lockdown), 0o644)

    def _add_failure_files(self, found: dict[str, Node], failure: MemoryFailure) -> None:
        """The doors to memory_failure, and its sysctls."""

        def add(path: str, mode: int, opener: Callable[[str, int], File]) -> None:
            found[path] = Node(lambda flags: opener(path, flags), mode)

        memory = "/sys/devices/system/memory"
        add(f"{memory}/hard_offline_page", 0o200, lambda path, flags: procfs.OfflineFile(path, flags, failure.handle))
        add(
            f"{memory}/soft_offline_page",
            0o200,
            lambda path, flags: procfs.OfflineFile(path, flags, failure.soft_offline),
        )
        for name, attribute in (("memory_failure_early_kill", "early_kill"), ("enable_soft_offline",) * 2):
            add(
                f"/proc/sys/vm/{name}",
                0o644,
                lambda path, flags, attribute=attribute: procfs.SwitchFile(path, flags, failure, attribute),  # type: ignore[misc]
            )


def _add_text(found: dict[str, Node], path: str, content: Callable[[], bytes], mode: int = 0o444) -> None:
    found[path] = Node(lambda flags: TextFile(path, flags, content), mode)


def _add_pool(found: dict[str, Node], physical: PhysicalMemory, size: int) -> None:
    directory = f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB"
    _add_text(found, f"{directory}/nr_hugepages", lambda: b"%d\n" % physical.pool_size(size), 0o644)
    _add_text(found, f"{directory}/free_hugepages", lambda: b"%d\n" % physical.pool_free(size))
