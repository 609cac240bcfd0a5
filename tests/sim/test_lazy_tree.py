# SPDX-License-Identifier: GPL-2.0-only
"""The tree in memory and the tree on disk are one: whatever was done before it was looked at is there to be seen."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from pytest_kvm_sea.sim.debugfs import Entry, Tree
from pytest_kvm_sea.sim.lazy_tree import LazyTree

FILES = {"/d/e/value": Entry(0o600, b"1\n"), "/d/e/trigger": Entry(0o200)}
DIRECTORIES = {"/d": 0o700, "/d/empty": 0o755}
PATHS = ("/d", "/d/e", "/d/empty", "/d/e/value", "/d/e/trigger", "/d/nothing", "/nothing")


def answers(tree: Tree | LazyTree) -> dict[str, object]:
    """Everything that can be asked."""
    found: dict[str, object] = {f"mode {path}": tree.mode(path) for path in PATHS}
    for path in PATHS:
        try:
            found[f"names {path}"] = tree.names(path)
        except OSError as error:
            found[f"names {path}"] = error.errno
    found["read"] = tree.read("/d/e/value")
    found["note"] = tree.note("state")
    return found


def change(tree: Tree | LazyTree) -> None:
    with tree.locked():
        tree.write("/d/e/value", b"0x10\n")
        tree.write_note("state", b"7")
        tree.write_note("gone", b"x")
        tree.write_note("gone", None)


def test_memory_and_disk_answer_alike(tmp_path: Path) -> None:
    def not_asked() -> Path:
        raise AssertionError("nobody looks at the disk")

    lazy = LazyTree(not_asked, FILES, DIRECTORIES)
    disk = Tree(lambda: tmp_path, FILES, DIRECTORIES)
    assert answers(lazy) == answers(disk)
    change(lazy)
    change(disk)
    assert answers(lazy) == answers(disk)


def test_what_was_done_in_memory_is_on_disk(tmp_path: Path) -> None:
    lazy = LazyTree(lambda: tmp_path, FILES, DIRECTORIES)
    change(lazy)
    before = answers(lazy)
    assert Path(lazy.on_disk("/d/e/value")).read_bytes() == b"0x10\n"
    assert stat.S_IMODE((lazy.root / "d").stat().st_mode) == 0o700
    assert answers(lazy) == before
    assert lazy.note("gone") is None


def test_once_on_disk_the_disk_is_the_truth(tmp_path: Path) -> None:
    lazy = LazyTree(lambda: tmp_path, FILES, DIRECTORIES)
    (lazy.root / "d/e/value").write_bytes(b"by hand\n")
    assert lazy.read("/d/e/value") == b"by hand\n"
    with lazy.locked():
        lazy.write("/d/e/value", b"by host\n")
    assert (tmp_path / "d/e/value").read_bytes() == b"by host\n"


@pytest.mark.parametrize("on_disk", [False, True])
def test_missing_files(tmp_path: Path, on_disk: bool) -> None:
    lazy = LazyTree(lambda: tmp_path, FILES, DIRECTORIES)
    if on_disk:
        assert lazy.root == tmp_path
    for access in (lambda: lazy.read("/d/none"), lambda: lazy.write("/d/none", b"")):
        with pytest.raises(FileNotFoundError) as caught:
            access()
        assert caught.value.errno == errno.ENOENT
