# SPDX-License-Identifier: GPL-2.0-only
"""What was downloaded and built, kept between runs."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from pytest_kvm_sea.emulated import apt
from pytest_kvm_sea.emulated.errors import EmulationError

CACHE_VARIABLE = "KVM_SEA_CACHE"
SUITES = ("trixie", "trixie-backports")
"""The release that everything is taken from; backports has the kernel."""
GUEST = "arm64"
Log: TypeAlias = Callable[[str], None]


def default_directory() -> Path:
    """Where the cache is: the variable, or the user's directory for caches (XDG Base Directory Specification)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "pytest-kvm-sea" / "emulated"


class Cache:
    """A directory, and the two apts that fill it."""

    def __init__(self, directory: Path, mirror: str | None = None) -> None:
        self.directory = directory
        self._mirror = mirror
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmulationError(
                f"no cache can be kept in {directory}: {error.strerror}; {CACHE_VARIABLE}=DIR"
            ) from error

    @cached_property
    def apt_guest(self) -> apt.Apt:
        """Packages for the guest."""
        return self._apt(GUEST)

    @cached_property
    def apt_native(self) -> apt.Apt:
        """Packages for this machine, of the same release."""
        return self._apt(apt.native_architecture())

    def _apt(self, architecture: str) -> apt.Apt:
        release = apt.Release(apt.mirror(self._mirror), SUITES)
        return apt.Apt(self.directory / "apt" / architecture, architecture, release)


def prune(directory: Path, *, keep: int) -> None:
    """Delete all but the newest entries of a directory of published ones."""
    entries = [path for path in directory.iterdir() if not path.name.startswith(".")]
    for path in sorted(entries, key=lambda path: path.stat().st_mtime)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def published(target: Path, *, anew: bool = False) -> Iterator[Path | None]:
    """Build a directory once: yields where to build, or None where it is there already (and not wanted anew).

    Other processes wait; a build that fails leaves nothing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and not anew:
            yield None
            return
        build, old = (target.parent / f".{target.name}.{word}" for word in ("new", "old"))
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        try:
            yield build
            if target.exists():
                # A machine that runs keeps what it has open; the next one finds the new files.
                target.rename(old)
            build.rename(target)
        finally:
            shutil.rmtree(build, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
