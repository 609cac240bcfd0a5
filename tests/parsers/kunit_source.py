# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own parser of KTAP, tools/testing/kunit: from a kernel tree, or fetched with apt and kept.

python -m tests.parsers.kunit_source        fetches it, and prints where it is
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from pytest_kvm_sea.emulated.apt import unpack
from pytest_kvm_sea.emulated.cache import Cache, Log, default_directory, published
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.image import KERNEL_SERIES
from tests.fetching import print_fetched

VARIABLE = "KVM_SEA_KUNIT"
"""tools/testing/kunit of a kernel tree, for machines without apt."""
INSIDE = Path("tools/testing/kunit")
"""kunit.py finds the root of its kernel by this part of its path."""
_PACKAGE = f"linux-source-{KERNEL_SERIES}"


def find() -> Path | None:
    """The directory of kunit.py, where it is here. Raises EmulationError where a place was chosen that has none."""
    chosen = os.environ.get(VARIABLE)
    directory = Path(chosen).absolute() if chosen else _kept(default_directory()) / INSIDE
    if (directory / "kunit.py").exists():
        return directory
    if chosen:
        raise EmulationError(f"{VARIABLE}={chosen}: no kunit.py is there; valid: {INSIDE} of a kernel tree")
    return None


def fetch(log: Log) -> Path:
    """The directory of kunit.py, downloaded if it is not here."""
    if found := find():
        return found
    cache = Cache(default_directory())
    target = _kept(cache.directory)
    with published(target) as build:
        if build is not None:
            log(f"fetching {_PACKAGE} (170 MB) for {INSIDE}")
            (package,) = cache.apt_guest.alone(_PACKAGE)
            with tempfile.TemporaryDirectory(dir=build.parent, prefix=".unpack-") as temporary:
                unpack(package, Path(temporary), lambda name: name.endswith(f"{_PACKAGE}.tar.xz"))
                for archive in Path(temporary).rglob("*.tar.xz"):
                    _take(archive, build)
            package.unlink()
            if not (build / INSIDE / "kunit.py").exists():
                raise EmulationError(f"{package.name} has no {INSIDE}/kunit.py; name a kernel tree: {VARIABLE}=DIR")
    return target / INSIDE


def _kept(cache: Path) -> Path:
    return cache / "kunit" / f"linux-{KERNEL_SERIES}"


def _take(archive: Path, target: Path) -> None:
    """The programs of kunit out of the sources of a kernel. Its tests and their data stay."""
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            path = Path(member.name)
            if path.is_relative_to(Path(path.parts[0]) / INSIDE):
                if path.suffix == ".py" and path.parent.name == INSIDE.name and (data := members.extractfile(member)):
                    (target / INSIDE).mkdir(parents=True, exist_ok=True)
                    (target / INSIDE / path.name).write_bytes(data.read())
            elif (target / INSIDE / "kunit.py").exists():
                return  # what follows is no concern of ours, and long


def main() -> int:
    return print_fetched(fetch, f"name a kernel tree: {VARIABLE}=DIR")


if __name__ == "__main__":
    sys.exit(main())
