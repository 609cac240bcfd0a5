# SPDX-License-Identifier: GPL-2.0-only
"""A file that is complete or not there."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from pytest_kvm_sea.reports.files import WholeFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


def test_it_appears_as_a_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, str]] = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        seen.append((target.exists(), self.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    file = WholeFile(path)
    assert list(path.parent.iterdir()) == []
    file.begin()
    assert list(path.parent.iterdir()) == []
    file.write("ü" * 1_000_000)
    assert seen == [(False, "ü" * 1_000_000)]
    assert path.read_text() == "ü" * 1_000_000
    assert list(path.parent.iterdir()) == [path]


def test_the_report_of_another_run_goes_when_this_one_begins(path: Path) -> None:
    path.write_text("old")
    file = WholeFile(path)
    assert path.read_text() == "old"
    file.begin()
    assert not path.exists()


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_its_mode_is_that_of_any_new_file(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        WholeFile(path).write("x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_what_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = WholeFile(path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.write("x")
    assert list(path.parent.iterdir()) == []


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "file")
    file = WholeFile(path)
    file.begin()
    file.write("x")
    assert path.is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "x"


def test_a_pipe_is_written_as_it_is(path: Path) -> None:
    os.mkfifo(path)
    file = WholeFile(path)
    file.begin()
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(path.read_text()))
    reader.start()
    file.write("x")
    reader.join()
    assert found == ["x"]
    assert path.is_fifo()


@pytest.mark.parametrize("name", ["none/report.json", "report.json/x"])
def test_what_cannot_be_written_is_known_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "report.json").write_text("")
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        WholeFile(tmp_path / name)
