# SPDX-License-Identifier: GPL-2.0-only
"""The project for the guest: a wheel, or the package as it is imported here, as a small initramfs of its own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pytest_kvm_sea.emulated.cache import Cache, Log, prune, published
from pytest_kvm_sea.emulated.cpio import Cpio
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.image import SITE_PACKAGES
from pytest_kvm_sea.emulated.native import compile_tree, compiler

DISTRIBUTION = "pytest-kvm-sea"
PACKAGE = "pytest_kvm_sea"
WHEEL_VARIABLE = "TOX_PACKAGE"
"""Where tox says which wheel it has built."""
_KEPT = 20
"""Overlays in the cache, 3 MB each; every change of the project makes one."""
_METADATA = {"METADATA": ("METADATA", "PKG-INFO"), "entry_points.txt": ("entry_points.txt",)}
"""What a guest needs of an installed distribution, and its names here, where an .egg-info calls it otherwise.

pytest finds plugins by their entry points.
"""


def wheel(chosen: Path | None) -> Path | None:
    """The wheel to install in the guest: the chosen one, or the one that tox has built, or none."""
    if chosen is None:
        built = os.environ.get(WHEEL_VARIABLE, "")
        chosen = Path(built) if built.endswith(".whl") else None
    if chosen is not None and not zipfile.is_zipfile(chosen):
        raise EmulationError(f"{chosen} is not a wheel")
    return chosen


def files(wheel: Path | None) -> dict[str, bytes]:
    """What to put into the guest's directory of packages: names below it, and contents."""
    if wheel is None:
        return _installed()
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}
    if strange := [name for name in found if ".data/" in name or ".." in Path(name).parts]:
        raise EmulationError(f"{wheel.name} is not a wheel of {DISTRIBUTION}: it holds {strange[0]}")
    return found


def _installed() -> dict[str, bytes]:
    source = Path(__file__).parents[1]
    found = {
        str(path.relative_to(source.parent)): path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    distribution = _distribution()
    for name, names_here in _METADATA.items():
        text = next(filter(None, map(distribution.read_text, names_here)), None)
        if text is not None:
            found[f"{PACKAGE}-{distribution.version}.dist-info/{name}"] = text.encode()
    return found


def requirements(contents: Mapping[str, bytes]) -> tuple[str, ...]:
    """The packages that the project needs, from its metadata; those of extras left out."""
    for name, data in contents.items():
        if name.endswith(".dist-info/METADATA"):
            lines = re.findall(r"^Requires-Dist: (.+?)\s*$", data.decode(), re.MULTILINE)
            # Spaces mean nothing there, and tools differ in them.
            return tuple(sorted(re.sub(r" (?=[(<>=!~])", "", line) for line in lines if "extra ==" not in line))
    raise EmulationError(f"{DISTRIBUTION} has no metadata; install it (pip install -e .) or give --wheel PATH")


def overlay(contents: Mapping[str, bytes], cache: Cache, log: Log) -> Path:
    """The initramfs with the project; built when its contents have changed."""
    digest = hashlib.sha256()
    for name, data in sorted(contents.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    target = cache.directory / "projects" / digest.hexdigest()[:16]
    with published(target) as build:
        if build is not None:
            log("compiling the project for the guest")
            prune(target.parent, keep=_KEPT)
            with tempfile.TemporaryDirectory(dir=build.parent, prefix=".compile-") as temporary:
                _write(contents, Path(temporary), compiler(cache, log), build / "project.cpio")
    return target / "project.cpio"


def _write(contents: Mapping[str, bytes], tree: Path, python: list[str], target: Path) -> None:
    for name, data in contents.items():
        path = tree / SITE_PACKAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    compile_tree(python, tree)
    with target.open("wb") as out:
        archive = Cpio(out)
        archive.tree(tree)
        archive.close()


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise EmulationError(f"{DISTRIBUTION} is not installed here; pip install -e ., or give --wheel PATH") from None
