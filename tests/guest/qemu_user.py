# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's user mode, the oracle of guests in C: that of this machine, or fetched with apt and kept.

python -m tests.guest.qemu_user        fetches it where it is not, and prints where it is
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pytest_kvm_sea.emulated.apt import unpack
from pytest_kvm_sea.emulated.cache import Cache, Log, default_directory, published
from tests.fetching import print_fetched

PROGRAM = "qemu-aarch64"
_PACKAGE = "qemu-user"


def find() -> str | None:
    """The program; None where it is neither installed nor fetched. Never downloads."""
    kept = _kept(default_directory())
    return shutil.which(PROGRAM) or (str(kept / PROGRAM) if kept.exists() else None)


def fetch(log: Log) -> str:
    """The program, downloaded if it is not here. Debian links it statically, so that it needs nothing else."""
    if found := find():
        return found
    cache = Cache(default_directory())
    target = _kept(cache.directory)
    with published(target) as build:
        if build is not None:
            log(f"fetching {_PACKAGE} for {PROGRAM}")
            (package,) = cache.apt_native.alone(_PACKAGE)
            unpack(package, build, lambda name: name == f"usr/bin/{PROGRAM}")
            package.unlink()
            (build / "usr/bin" / PROGRAM).rename(build / PROGRAM)
    return str(target / PROGRAM)


def _kept(cache: Path) -> Path:
    return cache / "native" / _PACKAGE


def main() -> int:
    return print_fetched(fetch, f"install {_PACKAGE}")


if __name__ == "__main__":
    sys.exit(main())
