# SPDX-License-Identifier: GPL-2.0-only
"""Paths and permissions of the simulated host, and what an open file may do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.hosts.contract import File
from pytest_kvm_sea.platforms.model import GIB, Hugepages, Platform
from pytest_kvm_sea.platforms.model import Process as ProcessModel
from pytest_kvm_sea.sim.files import TextFile
from pytest_kvm_sea.sim.filesystem import Filesystem
from pytest_kvm_sea.sim.firmware import Firmware
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.process import Process

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
EINJ = "/sys/kernel/debug/apei/einj"
TABLE = "/sys/firmware/acpi/tables/EINJ"
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(free_2m=0, free_1g=0))


def filesystem(root: Path, platform: Platform = BASE) -> Filesystem:
    physical = PhysicalMemory(platform.kernel.page_size, platform.memory)
    process = Process(physical, platform.kernel.page_size, platform.hugepages)
    return Filesystem(platform, process, physical, Firmware(platform, physical, process), lambda: root)


def as_user(platform: Platform = BASE) -> Platform:
    return replace(platform, process=ProcessModel(root=False))


def outcome(action: Callable[[], object]) -> str:
    """The name of the errno, or ``ok``."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


# path, flags: root, user
OPENS = [
    ("/proc/self/pagemap", R, "ok", "ok"),
    ("/proc/self/pagemap", RW, "ok", "EACCES"),
    ("/proc/kpageflags", R, "ok", "EACCES"),
    ("/proc/iomem", R, "ok", "ok"),
    ("/proc/iomem", W, "ok", "EACCES"),
    ("/proc/sys/kernel/osrelease", R, "ok", "ok"),
    ("/sys/kernel/security/lockdown", R, "ok", "ok"),
    ("/sys/devices/system/memory/hard_offline_page", W, "ok", "EACCES"),
    ("/sys/devices/system/memory/hard_offline_page", R, "EACCES", "EACCES"),
    (TABLE, R, "ok", "EACCES"),
    (TABLE, W, "EACCES", "EACCES"),
    (f"{EINJ}/error_type", RW, "ok", "EACCES"),
    (f"{EINJ}/error_inject", W, "ok", "EACCES"),
    (f"{EINJ}/error_inject", R, "ok", "EACCES"),
    (f"{EINJ}/available_error_type", R, "ok", "EACCES"),
    (f"{EINJ}/nothing", R, "ENOENT", "EACCES"),
    ("/sys/kernel/debug", R, "ok", "EACCES"),
    ("/sys/kernel/debug", W, "EISDIR", "EISDIR"),
    ("/proc", R, "ok", "ok"),
    ("/", RW, "EISDIR", "EISDIR"),
    ("/nothing", R, "ENOENT", "ENOENT"),
    ("/proc/nothing/at/all", R, "ENOENT", "ENOENT"),
    ("/proc/iomem/below", R, "ENOTDIR", "ENOTDIR"),
    (f"{EINJ}/flags/below", R, "ENOTDIR", "EACCES"),
    ("proc/iomem", R, "ENOENT", "ENOENT"),
    ("/proc//self/../iomem", R, "ok", "ok"),
    ("/dev/null", R, "ENOENT", "ENOENT"),
    ("/proc/iomem", 3, "EINVAL", "EINVAL"),
]


@pytest.mark.parametrize(("path", "flags", "root", "user"), OPENS)
def test_open(tmp_path: Path, path: str, flags: int, root: str, user: str) -> None:
    assert outcome(lambda: filesystem(tmp_path).open(path, flags)) == root
    assert outcome(lambda: filesystem(tmp_path, as_user()).open(path, flags)) == user


# path, mode: root, user
ACCESSES = [
    (TABLE, os.F_OK, "ok", "ok"),
    (TABLE, os.R_OK, "ok", "EACCES"),
    (EINJ, os.F_OK, "ok", "EACCES"),
    (f"{EINJ}/error_inject", os.R_OK | os.W_OK, "ok", "EACCES"),
    (f"{EINJ}/error_inject", os.X_OK, "EACCES", "EACCES"),
    ("/sys/kernel/debug", os.F_OK, "ok", "ok"),
    ("/sys/kernel/debug", os.R_OK, "ok", "EACCES"),
    ("/proc/self/pagemap", os.R_OK, "ok", "ok"),
    ("/proc/kpageflags", os.R_OK, "ok", "EACCES"),
    ("/nothing", os.F_OK, "ENOENT", "ENOENT"),
]


@pytest.mark.parametrize(("path", "mode", "root", "user"), ACCESSES)
def test_access(tmp_path: Path, path: str, mode: int, root: str, user: str) -> None:
    assert outcome(lambda: filesystem(tmp_path).access(path, mode)) == root
    assert outcome(lambda: filesystem(tmp_path, as_user()).access(path, mode)) == user


def test_listing_directories(tmp_path: Path) -> None:
    files = filesystem(tmp_path)
    assert files.listdir("/") == ["dev", "proc", "sys"]
    assert files.listdir("/sys/kernel") == ["debug", "security"]
    assert files.listdir("/proc/") == ["iomem", "kpageflags", "meminfo", "self", "sys"]
    assert files.listdir("/sys/firmware/acpi/tables") == ["EINJ"]
    assert "apei" in files.listdir("/sys/kernel/debug")
    assert outcome(lambda: files.listdir("/proc/iomem")) == "ENOTDIR"
    assert outcome(lambda: files.listdir("/nowhere")) == "ENOENT"
    user = filesystem(tmp_path, as_user())
    assert outcome(lambda: user.listdir("/sys/kernel/debug")) == "EACCES"
    assert outcome(lambda: user.listdir(EINJ)) == "EACCES"


def test_a_directory_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    file = filesystem(tmp_path).open("/proc", R)
    assert outcome(file.read) == "EISDIR"


def test_a_registered_file_gets_the_flags(tmp_path: Path) -> None:
    files = filesystem(tmp_path)
    seen = []

    def opener(flags: int) -> File:
        seen.append(flags)
        return TextFile("/dev/mine", flags, lambda: b"mine")

    files.register("/dev/mine", opener)
    assert files.open("/dev/mine", RW).read() == b"mine"
    assert seen == [RW]
    assert files.listdir("/dev") == ["kmsg", "mine"]
    files.register("/dev/shut", opener, denied=errno.ENODEV)
    assert outcome(lambda: files.open("/dev/shut", R)) == "ENODEV"
    files.register("/dev/private", opener, mode=0o600)
    files.open("/dev/private", RW)
    user = filesystem(tmp_path, as_user())
    user.register("/dev/private", opener, mode=0o600)
    assert outcome(lambda: user.open("/dev/private", R)) == "EACCES"


def test_kvm_is_shut_where_the_platform_says_so(tmp_path: Path) -> None:
    files = filesystem(tmp_path, replace(BASE, process=ProcessModel(root=True, kvm=False)))
    files.register("/dev/kvm", lambda flags: TextFile("/dev/kvm", flags, bytes))
    assert outcome(lambda: files.access("/dev/kvm", os.F_OK)) == "ok"
    assert outcome(lambda: files.access("/dev/kvm", os.R_OK | os.W_OK)) == "EACCES"
    assert outcome(lambda: files.open("/dev/kvm", RW)) == "EACCES"


# Open files

FILES = ["/proc/iomem", "/proc/self/pagemap", "/proc/kpageflags", f"{EINJ}/flags", f"{EINJ}/error_type"]


@pytest.mark.parametrize("path", FILES)
def test_no_file_here_is_a_device(tmp_path: Path, path: str) -> None:
    files = filesystem(tmp_path)
    file = files.open(path, R)
    assert outcome(lambda: file.ioctl(0xAE00)) == "ENOTTY"
    assert outcome(lambda: file.mmap(4096)) == "EACCES"
    assert outcome(lambda: file.mmap(0)) == "EINVAL"
    assert outcome(lambda: files.open(path, RW).mmap(4096)) == "ENODEV"


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_used_as_it_was_opened(tmp_path: Path, path: str) -> None:
    files = filesystem(tmp_path)
    assert outcome(lambda: files.open(path, R).write(b"1")) == "EBADF"
    assert outcome(lambda: files.open(path, W).read(8)) == "EBADF"


@pytest.mark.parametrize("path", FILES)
def test_a_closed_file_is_no_descriptor(tmp_path: Path, path: str) -> None:
    file = filesystem(tmp_path).open(path, RW)
    file.close()
    file.close()
    uses: list[Callable[[], object]] = [
        lambda: file.read(8),
        lambda: file.pread(8, 0),
        lambda: file.write(b"1"),
        lambda: file.ioctl(1),
        lambda: file.mmap(4096),
    ]
    assert [outcome(use) for use in uses] == ["EBADF"] * 5


@pytest.mark.parametrize("path", ["/proc/iomem", "/proc/self/pagemap", f"{EINJ}/available_error_type"])
def test_what_cannot_be_written_says_so(tmp_path: Path, path: str) -> None:
    assert outcome(lambda: filesystem(tmp_path).open(path, W).write(b"1")) == "EINVAL"


def test_reading_piece_by_piece_is_reading(tmp_path: Path) -> None:
    files = filesystem(tmp_path)
    whole = files.open("/proc/iomem", R).read()
    file = files.open("/proc/iomem", R)
    pieces = []
    while piece := file.read(7):
        pieces.append(piece)
    assert b"".join(pieces) == whole
    assert file.read() == b""
    assert file.pread(10, 5) == whole[5:15]
