# SPDX-License-Identifier: GPL-2.0-only
"""The tree on disk: what is there on which platform, when it is made, and that several may use it at once."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.platforms.model import GIB, Einj, Hugepages, Kernel, Lockdown, Platform
from pytest_kvm_sea.platforms.model import Firmware as FirmwareModel
from pytest_kvm_sea.platforms.model import Process as ProcessModel
from pytest_kvm_sea.sim.debugfs import Entry, Tree
from pytest_kvm_sea.sim.filesystem import Filesystem
from pytest_kvm_sea.sim.firmware import Firmware
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.process import Process
from tests.processes import run_at_once

EINJ = "/sys/kernel/debug/apei/einj"
TABLE = "/sys/firmware/acpi/tables/EINJ"
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(free_2m=0, free_1g=0))

PLAIN = {"available_error_type": 0o400, "error_type": 0o600, "error_inject": 0o200}
PARAMETERS = dict.fromkeys(("flags", "param1", "param2", "param3", "param4", "notrigger"), 0o600)


def filesystem(root: Path, platform: Platform = BASE) -> Filesystem:
    physical = PhysicalMemory(platform.kernel.page_size, platform.memory)
    process = Process(physical, platform.kernel.page_size, platform.hugepages)
    return Filesystem(platform, process, physical, Firmware(platform, physical, process), lambda: root, shared=True)


def with_einj(einj: Einj) -> Platform:
    return replace(BASE, firmware=FirmwareModel(einj=einj))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


# EINJ as the platform describes it: files in the directory (None: no directory), table
PRESENCE = {
    "all of it": (Einj(), PLAIN | PARAMETERS, True),
    "no table": (Einj(table=False), None, False),
    "module not loaded": (Einj(module=False), None, True),
    "no parameters": (Einj(parameters=False), PLAIN, True),
    "no notrigger": (
        Einj(notrigger=False),
        PLAIN | {name: mode for name, mode in PARAMETERS.items() if name != "notrigger"},
        True,
    ),
}


@pytest.mark.parametrize(("einj", "files", "table"), PRESENCE.values(), ids=PRESENCE)
def test_what_is_there(tmp_path: Path, einj: Einj, files: dict[str, int] | None, table: bool) -> None:
    host = filesystem(tmp_path, with_einj(einj))
    root = host.tree.root
    assert root == tmp_path
    assert stat.S_IMODE((root / "sys/kernel/debug").stat().st_mode) == 0o700
    if files is None:
        assert not (root / "sys/kernel/debug/apei").exists()
        with pytest.raises(FileNotFoundError):
            host.access(EINJ, os.F_OK)
    else:
        assert modes(root / EINJ[1:]) == files
        assert host.listdir(EINJ) == sorted(files)
    assert (root / TABLE[1:]).exists() == table
    if table:
        assert modes((root / TABLE[1:]).parent) == {"EINJ": 0o400}


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        filesystem(tmp_path).access(EINJ, os.F_OK)
    finally:
        os.umask(old)
    assert modes(tmp_path / EINJ[1:]) == PLAIN | PARAMETERS
    assert stat.S_IMODE((tmp_path / "sys/kernel/debug/apei").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("lockdown", "name", "flags", "opens"),
    [
        (Lockdown.INTEGRITY, "available_error_type", os.O_RDONLY, True),
        (Lockdown.CONFIDENTIALITY, "available_error_type", os.O_RDONLY, True),
        (Lockdown.INTEGRITY, "available_error_type", os.O_RDWR, False),
        (Lockdown.INTEGRITY, "error_type", os.O_RDONLY, False),
        (Lockdown.CONFIDENTIALITY, "flags", os.O_RDONLY, False),
        (Lockdown.INTEGRITY, "error_inject", os.O_WRONLY, False),
        (Lockdown.NONE, "error_inject", os.O_WRONLY, True),
    ],
)
def test_lockdown_shuts_what_could_be_written(
    tmp_path: Path, lockdown: Lockdown, name: str, flags: int, opens: bool
) -> None:
    host = filesystem(tmp_path, replace(BASE, kernel=Kernel(lockdown=lockdown)))
    host.access(f"{EINJ}/{name}", os.R_OK | os.W_OK)
    if opens:
        host.open(f"{EINJ}/{name}", flags)
        return
    with pytest.raises(PermissionError) as refused:
        host.open(f"{EINJ}/{name}", flags)
    assert refused.value.strerror == "Operation not permitted"


def test_lockdown_does_not_let_others_than_root_in(tmp_path: Path) -> None:
    platform = replace(BASE, kernel=Kernel(lockdown=Lockdown.INTEGRITY), process=ProcessModel(root=False))
    with pytest.raises(PermissionError) as refused:
        filesystem(tmp_path, platform).open(f"{EINJ}/error_type", os.O_RDWR)
    assert refused.value.strerror == "Permission denied"


def test_nothing_is_made_before_it_is_needed() -> None:
    def never() -> Path:
        raise AssertionError("asked for the tree")

    physical = PhysicalMemory(4096, GIB)
    process = Process(physical, 4096, BASE.hugepages)
    host = Filesystem(BASE, process, physical, Firmware(BASE, physical, process), never)
    host.open("/proc/self/pagemap", os.O_RDONLY)
    assert "kernel" in host.listdir("/sys")
    with pytest.raises(FileNotFoundError):
        host.open("/sys/nothing", os.O_RDONLY)
    host.access(TABLE, os.F_OK)
    host.open(f"{EINJ}/param1", os.O_WRONLY).write(b"1")
    with pytest.raises(AssertionError, match="asked for the tree"):
        _ = host.tree.root


def test_state_outlives_the_host_and_is_shared(tmp_path: Path) -> None:
    first, second = filesystem(tmp_path), filesystem(tmp_path)
    first.open(f"{EINJ}/param1", os.O_WRONLY).write(b"0x1234")
    first.open(f"{EINJ}/error_type", os.O_WRONLY).write(b"0x10")
    for host in (second, filesystem(tmp_path)):
        assert host.open(f"{EINJ}/param1", os.O_RDONLY).read() == b"0x0000000000001234\n"
        assert host.open(f"{EINJ}/error_type", os.O_RDONLY).read() == b"0x10"
    assert (tmp_path / EINJ[1:] / "param1").read_text() == "0x0000000000001234\n"


def test_what_somebody_writes_into_the_files_counts(tmp_path: Path) -> None:
    """echo into the directory, past the simulated host."""
    host = filesystem(tmp_path)
    host.access(EINJ, os.F_OK)
    directory = tmp_path / EINJ[1:]
    (directory / "flags").write_text("2\n")
    (directory / "param1").write_text("not a number\n")
    assert host.open(f"{EINJ}/flags", os.O_RDONLY).read() == b"0x00000002\n"
    assert host.open(f"{EINJ}/param1", os.O_RDONLY).read() == b"0x0000000000000000\n"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "sys").write_text("")
    with pytest.raises(NotADirectoryError, match="sys"):
        filesystem(tmp_path).access(EINJ, os.F_OK)


WORKER = """
    import os, sys
    from pathlib import Path
    from pytest_kvm_sea.sim.debugfs import Entry, Tree

    root, own = Path(sys.argv[1]), sys.argv[2].encode()
    values = {b"0x00000001\\n", b"0x0000000000000002\\n"}
    tree = Tree(lambda: root, {"/d/counter": Entry(0o600, b"0"), "/d/value": Entry(0o600, min(values))}, {"/d": 0o700})
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(400):
        with tree.locked():
            tree.write("/d/counter", b"%d" % (int(tree.read("/d/counter")) + 1))
            tree.write("/d/value", own.decode("unicode_escape").encode())
        with tree.locked():
            assert tree.read("/d/value") in values, tree.read("/d/value")
"""


def test_two_processes_write_the_tree_at_once(tmp_path: Path) -> None:
    """They make it together, no update is lost, and no reader under the lock sees half a text."""
    run_at_once(WORKER, *((str(tmp_path), text) for text in (r"0x00000001\n", r"0x0000000000000002\n")))
    tree = Tree(lambda: tmp_path, {"/d/counter": Entry(0o600, b"0")}, {})
    assert tree.read("/d/counter") == b"800"
