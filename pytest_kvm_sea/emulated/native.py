# SPDX-License-Identifier: GPL-2.0-only
"""Programs of a newer Debian on this machine, unpacked and not installed: they bring their own loader and libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from pytest_kvm_sea.emulated.apt import unpack
from pytest_kvm_sea.emulated.cache import Cache, Log, published
from pytest_kvm_sea.emulated.errors import EmulationError

GUEST_PYTHON = "3.13"
"""The Python of the release that the guest's files are from."""
QEMU = "qemu-system-aarch64"
OLDEST_QEMU = (7, 2)
"""Older ones have not been tried; 7.0 and before do not have all of -cpu max that Linux 7.3 uses."""
_UNWANTED = re.compile(r"usr/share/(?!qemu/)|usr/lib/python[^/]+/(?:test|idlelib|pydoc_data|ensurepip)/|etc/|var/")


class Tree:
    """Packages of this machine's architecture, unpacked below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def command(self, program: str) -> list[str]:
        """How to start a program of the tree with the libraries of the tree."""
        loaders = sorted(self.directory.glob("usr/lib/*/ld-linux*.so.*"))
        if not loaders:
            raise EmulationError(f"{self.directory} has no dynamic loader; delete it and try again")
        loader = loaders[0]
        return [str(loader), "--library-path", str(loader.parent), str(self.directory / program)]


def compiler(cache: Cache, log: Log) -> list[str]:
    """A Python that writes the .pyc files that the guest's Python reads: itself, or another build of it."""
    if sys.implementation.name == "cpython" and f"{sys.version_info.major}.{sys.version_info.minor}" == GUEST_PYTHON:
        return [sys.executable]
    return _tree(cache, log, f"python{GUEST_PYTHON}").command(f"usr/bin/python{GUEST_PYTHON}")


def compile_tree(python: list[str], tree: Path, *, in_guest: str = "/") -> None:
    """Write the .pyc files for a tree that the guest will have at a directory of its own.

    They are not checked against their sources, whose times the initramfs does not keep.
    """
    mode = ("--invalidation-mode", "unchecked-hash")
    # -I: neither the environment nor the current directory of this machine.
    command = [*python, "-I", "-m", "compileall", "-qq", *mode, "-s", str(tree), "-p", in_guest, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    # Ends with 1 where a package ships a file that is no Python 3 (a template): such a file is left as it is.
    if done.returncode not in {0, 1}:
        raise EmulationError(f"Python {GUEST_PYTHON} could not compile {tree}", done.stderr)


def qemu(cache: Cache, log: Log) -> list[str]:
    """The start of QEMU's command line: of this machine, or else of the packages, fetched."""
    found = shutil.which(QEMU)
    if found is not None and version(found) >= OLDEST_QEMU:
        return [found]
    reason = f"is {'.'.join(map(str, version(found)))}" if found else "is not installed"
    log(f"{QEMU} {reason}; fetching one")
    tree = _tree(cache, log, "qemu-system-arm")
    return [*tree.command(f"usr/bin/{QEMU}"), "-L", str(tree.directory / "usr/share/qemu")]


def version(*command: str) -> tuple[int, ...]:
    """The version that a QEMU says it is; (0,) where it says nothing."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return (0,)
    found = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    return tuple(map(int, found[1].split("."))) if found else (0,)


def _tree(cache: Cache, log: Log, package: str) -> Tree:
    with published(cache.directory / "native" / package) as build:
        if build is not None:
            log(f"fetching {package} for this machine")
            for deb in cache.apt_native.with_dependencies(package):
                unpack(deb, build, lambda name: not _UNWANTED.match(name))
    return Tree(cache.directory / "native" / package)
