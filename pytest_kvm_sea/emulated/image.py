# SPDX-License-Identifier: GPL-2.0-only
"""The files of the guest: kernel, modules, Python and packages, built once from packages and kept."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_kvm_sea.emulated.apt import unpack
from pytest_kvm_sea.emulated.cache import Cache, Log, published
from pytest_kvm_sea.emulated.cpio import Cpio
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.native import GUEST_PYTHON, compile_tree, compiler

KERNEL_SERIES = "7.3"
MODULES = ("einj", "hwpoison-inject")
"""Kernel modules that the guest loads where it can."""
APPLETS = """
    sh ash awk basename blockdev cat chmod chown cp cut date dd df dirname dmesg du echo env expr false find free grep
    gunzip gzip head hexdump hostname id ifconfig insmod ip kill ln ls lsmod md5sum mkdir mknod mktemp modprobe more
    mount mv nproc od poweroff printf ps pwd readlink reboot rm rmdir rmmod sed seq setsid sha256sum sleep sort stat
    stty sync sysctl tail tar tee test timeout top touch tr true tty umount uname uniq uptime vi wc which xargs
"""
"""What busybox is linked as in the guest."""
SITE_PACKAGES = f"usr/local/lib/python{GUEST_PYTHON}/dist-packages"
_RECIPE = 1
"""Raised when the same packages would give another image."""
_UNWANTED = re.compile(
    r"usr/share/|etc/|var/|usr/include/|usr/lib/[^/]+/gconv/|usr/lib/[^/]+/(?:ossl-modules|engines-3)/"
    r"|usr/lib/python[^/]+/(?:test|idlelib|pydoc_data|ensurepip|tkinter|turtledemo)/"
)
_FIRMWARE = re.compile(r"usr/share/qemu-efi-aarch64/QEMU_EFI\.fd$")
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made from."""

    requirements: tuple[str, ...]
    """Python packages, as for pip; the project's own is not among them."""
    kernel_series: str = KERNEL_SERIES
    recipe: int = _RECIPE

    @property
    def name(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"linux-{self.kernel_series}-python-{GUEST_PYTHON}-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def root(self) -> Path:
        """The initramfs with Python and its packages; good for every kernel."""
        return self.directory / "root.cpio"

    @property
    def modules(self) -> Path:
        """The initramfs with the modules of the image's own kernel."""
        return self.directory / "modules.cpio"

    @property
    def firmware(self) -> Path:
        return self.directory / "QEMU_EFI.fd"

    @property
    def versions(self) -> dict[str, str]:
        """What is in it: packages and wheels with their versions."""
        versions: dict[str, str] = json.loads((self.directory / "versions.json").read_text(encoding="utf-8"))
        return versions


def image(recipe: Recipe, cache: Cache, log: Log, *, refresh: bool = False) -> Image:
    """The image of a recipe: from the cache, or downloaded and built; with ``refresh``, from the newest packages."""
    target = cache.directory / "images" / recipe.name
    with published(target, anew=refresh) as build:
        if build is not None:
            _build(recipe, cache, build, log)
    return Image(target)


def _build(recipe: Recipe, cache: Cache, build: Path, log: Log) -> None:
    log("fetching the packages of an arm64 Debian")
    apt = cache.apt_guest
    release = newest_kernel(apt.names("linux-binary-"), recipe.kernel_series)
    kernel, modules, firmware = apt.alone(f"linux-binary-{release}", f"linux-modules-{release}", "qemu-efi-aarch64")
    user_space = apt.with_dependencies(f"python{GUEST_PYTHON}", "busybox-static")
    versions = {"linux": release}
    versions |= dict(deb.name.split("_")[:2] for deb in (kernel, modules, firmware, *user_space))
    with tempfile.TemporaryDirectory(dir=build.parent, prefix=".unpack-") as temporary:
        unpacked = Path(temporary)
        log("unpacking the kernel and the firmware")
        unpack(kernel, unpacked / "kernel", lambda name: "/vmlinuz" in name)
        unpack(modules, unpacked / "modules", lambda name: ".ko" in name)
        unpack(firmware, unpacked / "firmware", lambda name: _FIRMWARE.match(name) is not None)
        _only(unpacked / "kernel", "vmlinuz*").rename(build / "vmlinuz")
        _only(unpacked / "firmware", "QEMU_EFI.fd").rename(build / "QEMU_EFI.fd")
        _write_modules(unpacked / "modules", build / "modules.cpio")
        log("building the root file system")
        root = unpacked / "root"
        for deb in user_space:
            unpack(deb, root, lambda name: not _UNWANTED.match(name))
        versions |= _install(recipe.requirements, root / SITE_PACKAGES)
        compile_tree(compiler(cache, log), root)
        _write_root(root, build / "root.cpio")
    (build / "versions.json").write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def newest_kernel(names: Iterable[str], series: str) -> str:
    """The newest release (``7.3.4+deb13-arm64``) of a series among the packages of a mirror."""
    pattern = re.compile(r"linux-binary-(((\d+\.\d+)[\d.]*)\+deb\d+-arm64)")
    known = [found for name in names if (found := pattern.fullmatch(name))]
    matching = [found for found in known if found[3] == series]
    if not matching:
        others = ", ".join(sorted({found[3] for found in known}, key=_numbers)) or "none"
        raise EmulationError(f"the mirror has no Linux {series} for arm64; it has: {others} (--kernel-series)")
    return max(matching, key=lambda found: _numbers(found[2]))[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.rglob(pattern))
    if not found:
        raise EmulationError(f"the package has no {pattern}: Debian may have moved it; see docs/emulated.md")
    return found[0]


def _install(requirements: Sequence[str], target: Path) -> dict[str, str]:
    """Python packages for the guest, by pip, from wherever this machine's pip takes them. Their versions."""
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(target), "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", GUEST_PYTHON, *platforms, *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode:
        raise EmulationError(f"pip could not get the guest's wheels ({', '.join(requirements)})", done.stderr)
    return dict(path.name.removesuffix(".dist-info").rsplit("-", 1) for path in target.glob("*.dist-info"))


def _write_root(root: Path, target: Path) -> None:
    with target.open("wb") as out:
        archive = Cpio(out)
        for directory in ("dev", "proc", "sys", "tmp", "root", "etc", "run", "mnt"):
            archive.directory(directory)
        archive.character_device("dev/console", 5, 1)  # Documentation/admin-guide/devices.txt
        for name in ("bin", "sbin", "lib"):
            archive.link(name, "usr/bin" if name.endswith("bin") else "usr/lib")
        archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        archive.file("etc/group", b"root:x:0:\n")
        archive.tree(root)
        for applet in APPLETS.split():
            archive.link(f"usr/bin/{applet}", "busybox")
        for python in ("python", "python3"):
            archive.link(f"usr/bin/{python}", f"python{GUEST_PYTHON}")
        archive.close()


def _write_modules(tree: Path, target: Path) -> None:
    """The modules that are wanted, unpacked (busybox has no xz for them), and the order in which to load them."""
    paths = {_module(path.name): path for path in tree.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}
    for wanted in MODULES:
        _load(_module(wanted), paths, loaded)
    with target.open("wb") as out:
        archive = Cpio(out)
        archive.directory("kvm-sea")
        archive.directory("kvm-sea/modules")
        for number, (name, data) in enumerate(loaded.items()):
            archive.file(f"kvm-sea/modules/{number:02}-{name}.ko", data)
        archive.close()


def _load(name: str, paths: dict[str, Path], loaded: dict[str, bytes]) -> None:
    if name in loaded or name not in paths:
        return  # what is not a module is built in
    path = paths[name]
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    for needed in dependencies(data):
        _load(needed, paths, loaded)
    loaded[name] = data


def dependencies(module: bytes) -> list[str]:
    """What a kernel module needs, from its .modinfo section (include/linux/module.h)."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_module(name.decode()) for name in found[1].split(b",") if name] if found else []


def _module(name: str) -> str:
    return name.partition(".")[0].replace("-", "_")
