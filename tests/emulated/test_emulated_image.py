# SPDX-License-Identifier: GPL-2.0-only
"""What an image is made of, and the project in it; nothing is downloaded here."""

from __future__ import annotations

import lzma
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated import image, native, project
from pytest_kvm_sea.emulated.cache import Cache
from pytest_kvm_sea.emulated.errors import EmulationError
from tests.emulated.emulated_fakes import program, read_cpio

NAMES = [
    "linux-binary-7.3.4+deb13-arm64",
    "linux-binary-7.3.10+deb13-arm64",
    "linux-binary-7.3.10+deb13-arm64-16k",
    "linux-binary-7.3.11+deb13-rt-arm64",
    "linux-binary-7.30.1+deb13-arm64",
    "linux-binary-7.2.12+deb14-arm64",
    "linux-binary-7.4+deb14-arm64",
]


@pytest.mark.parametrize(
    ("series", "release"),
    [("7.3", "7.3.10+deb13-arm64"), ("7.30", "7.30.1+deb13-arm64"), ("7.4", "7.4+deb14-arm64")],
)
def test_newest_kernel(series: str, release: str) -> None:
    assert image.newest_kernel(NAMES, series) == release


def test_a_series_that_is_gone() -> None:
    with pytest.raises(EmulationError, match=r"no Linux 6\.12 for arm64; it has: 7\.2, 7\.3, 7\.4, 7\.30 \(--kernel-"):
        image.newest_kernel(NAMES, "6.12")
    with pytest.raises(EmulationError, match="it has: none"):
        image.newest_kernel([], "7.3")


def test_recipes_have_names() -> None:
    names = {
        image.Recipe(("pytest>=8",)).name,
        image.Recipe(("pytest>=9",)).name,
        image.Recipe(("pytest>=8",), "7.2").name,
    }
    assert len(names) == 3
    assert image.Recipe(("pytest>=8",)).name in names
    assert all(name.startswith("linux-7.") for name in names)


def module(*needed: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


@pytest.mark.parametrize("needed", [(), ("a",), ("a", "b_c")])
def test_dependencies(needed: tuple[str, ...]) -> None:
    assert image.dependencies(module(*needed)) == list(needed)


def test_modules_are_loaded_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, needed in {"top": ("mid-dle", "base"), "mid_dle": ("base",), "base": (), "other": ()}.items():
        path = tmp_path / f"kernel/{name.replace('_', '-')}.ko.xz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lzma.compress(module(*needed)))
    monkeypatch.setattr(image, "MODULES", ("top", "built-in", "base"))
    image._write_modules(tmp_path, tmp_path / "modules.cpio")
    members = read_cpio((tmp_path / "modules.cpio").read_bytes())
    assert [member.name for member in members if member.data] == [
        "kvm-sea/modules/00-base.ko",
        "kvm-sea/modules/01-mid_dle.ko",
        "kvm-sea/modules/02-top.ko",
    ]
    assert members[-1].data == module("mid-dle", "base")


def test_the_root(tmp_path: Path) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/usr/bin/busybox").write_bytes(b"ELF")
    image._write_root(tmp_path / "root", tmp_path / "root.cpio")
    members = {member.name: member for member in read_cpio((tmp_path / "root.cpio").read_bytes())}
    assert members["bin"].data == b"usr/bin"
    assert members["usr/bin/sh"].data == b"busybox"
    assert members["usr/bin/python3"].data == b"python3.13"
    assert members["dev/console"].device == (5, 1)
    assert members["usr/bin/busybox"].data == b"ELF"
    # What init.sh calls before it can complain.
    script = Path(image.__file__).with_name("init.sh").read_text()
    for tool in ("mount", "mkdir", "date", "hostname", "ifconfig", "insmod", "sed", "cat", "setsid", "dmesg", "tar"):
        assert tool in script
        assert f"usr/bin/{tool}" in members


# The project


METADATA = b"""\
Metadata-Version: 2.4
Name: pytest-kvm-sea
Version: 1
Requires-Dist: pytest >=8.3
Requires-Dist: capstone<6,>=5.0.3
Requires-Dist: sphinx; extra == "docs"

Requires-Dist is explained here, too.
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "pytest_kvm_sea-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pytest_kvm_sea/__init__.py", "NAME = 1\n")
        archive.writestr("pytest_kvm_sea/template.py", "this is {no} Python\n")
        archive.writestr("pytest_kvm_sea-1.dist-info/METADATA", METADATA)
    return path


def test_which_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(project.WHEEL_VARIABLE, raising=False)
    assert project.wheel(None) is None
    monkeypatch.setenv(project.WHEEL_VARIABLE, "/somewhere/pytest_kvm_sea-1.tar.gz")
    assert project.wheel(None) is None
    monkeypatch.setenv(project.WHEEL_VARIABLE, str(wheel))
    assert project.wheel(None) == wheel
    with pytest.raises(EmulationError, match=r"nothing\.whl is not a wheel"):
        project.wheel(wheel.with_name("nothing.whl"))


def test_requirements(wheel: Path) -> None:
    assert project.requirements(project.files(wheel)) == ("capstone<6,>=5.0.3", "pytest>=8.3")


def test_no_metadata() -> None:
    with pytest.raises(EmulationError, match="has no metadata; install it"):
        project.requirements({"pytest_kvm_sea/__init__.py": b""})


def test_a_wheel_of_another_kind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("x-1.data/scripts/x", "")
    with pytest.raises(EmulationError, match=r"it holds x-1\.data/scripts/x"):
        project.files(tmp_path / "x.whl")


def test_what_is_installed_here() -> None:
    found = project.files(None)
    assert found["pytest_kvm_sea/emulated/init.sh"].startswith(b"#!/usr/bin/busybox sh\n")
    assert not [name for name in found if "__pycache__" in name]
    (entry_points,) = (data for name, data in found.items() if name.endswith(".dist-info/entry_points.txt"))
    assert b"pytest_kvm_sea.plugin" in entry_points
    assert any(requirement.startswith("capstone") for requirement in project.requirements(found))


def test_the_overlay(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "compiler", lambda _cache, _log: [sys.executable])
    kept, said = Cache(tmp_path / "cache"), list[str]()
    contents = project.files(wheel)
    first = project.overlay(contents, kept, said.append)
    members = {member.name: member.data for member in read_cpio(first.read_bytes())}
    assert members[f"{image.SITE_PACKAGES}/pytest_kvm_sea/__init__.py"] == b"NAME = 1\n"
    compiled = [name for name in members if name.endswith(".pyc")]
    assert len(compiled) == 1  # the template has none, and is no failure
    # Flags (PEP 552): from a hash that is not checked.
    assert members[compiled[0]][4:8] == b"\1\0\0\0"
    assert f"/{image.SITE_PACKAGES}/pytest_kvm_sea/__init__.py".encode() in members[compiled[0]]
    assert project.overlay(contents, kept, said.append) == first
    assert said == ["compiling the project for the guest"]
    assert project.overlay(contents | {"new.py": b""}, kept, said.append) != first


# Programs of this machine


def test_a_tree_brings_its_own_loader(tmp_path: Path) -> None:
    tree = native.Tree(tmp_path)
    with pytest.raises(EmulationError, match="has no dynamic loader"):
        tree.command("usr/bin/x")
    loader = tmp_path / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.touch()
    assert tree.command("usr/bin/x") == [str(loader), "--library-path", str(loader.parent), str(tmp_path / "usr/bin/x")]


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2, 22)),
        ("QEMU emulator version 11.1.3", (11, 1, 3)),
        ("something else", (0,)),
    ],
)
def test_version(tmp_path: Path, says: str, version: tuple[int, ...]) -> None:
    assert native.version(str(program(tmp_path, "qemu", f"echo '{says}'"))) == version
    assert native.version(str(tmp_path / "none")) == (0,)


@pytest.mark.parametrize("version", ["6.2.0", "7.2.22", None])
def test_which_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    fetched = native.Tree(tmp_path / "fetched")
    (fetched.directory / "usr/lib/x").mkdir(parents=True)
    (fetched.directory / "usr/lib/x/ld-linux.so.1").touch()
    monkeypatch.setattr(native, "_tree", lambda _cache, _log, package: {"qemu-system-arm": fetched}[package])
    tools, said = tmp_path / "tools", list[str]()
    tools.mkdir()
    if version:
        program(tools, native.QEMU, f"echo 'QEMU emulator version {version}'")
    monkeypatch.setenv("PATH", str(tools))
    command = native.qemu(Cache(tmp_path / "cache"), said.append)
    if version == "7.2.22":
        assert command == [str(tools / native.QEMU)]
        assert not said
    else:
        assert command[-3:] == [
            str(fetched.directory / "usr/bin/qemu-system-aarch64"),
            "-L",
            str(fetched.directory / "usr/share/qemu"),
        ]
        assert said == [f"qemu-system-aarch64 is {'6.2.0' if version else 'not installed'}; fetching one"]


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    python = program(tmp_path, "python", "echo 'cannot execute' >&2; exit 126")
    with pytest.raises(EmulationError, match=r"Python 3\.13 could not compile") as caught:
        native.compile_tree([str(python)], tmp_path)
    assert "cannot execute" in caught.value.details
