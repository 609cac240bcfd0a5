# SPDX-License-Identifier: GPL-2.0-only
"""What is kept between runs: built once, by one process, whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated import cache
from pytest_kvm_sea.emulated.errors import EmulationError


def build(target: Path, content: str, *, anew: bool = False) -> bool:
    """Publish a directory with one file. Whether that had to be done."""
    with cache.published(target, anew=anew) as directory:
        if directory is None:
            return False
        (directory / "file").write_text(content)
        assert anew or not target.exists()
    return True


def test_published_once(tmp_path: Path) -> None:
    target = tmp_path / "images/one"
    assert build(target, "1")
    assert not build(target, "2")
    assert (target / "file").read_text() == "1"


def test_published_anew(tmp_path: Path) -> None:
    target = tmp_path / "one"
    build(target, "1")
    with (target / "file").open() as running:
        assert build(target, "2", anew=True)
        assert running.read() == "1"  # who has it open keeps it
    assert (target / "file").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".one.lock", "one"]


def fail(target: Path, *, anew: bool) -> None:
    """Begin to publish, and fail."""
    with cache.published(target, anew=anew) as directory:
        assert directory is not None
        (directory / "half").touch()
        raise EmulationError("the download failed")


@pytest.mark.parametrize("anew", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path: Path, anew: bool) -> None:
    target = tmp_path / "one"
    if anew:
        build(target, "1")
    with pytest.raises(EmulationError):
        fail(target, anew=anew)
    assert [path.name for path in target.iterdir()] == ["file"] if anew else not target.exists()
    assert build(target, "2", anew=anew)


def test_others_wait(tmp_path: Path) -> None:
    target, done = tmp_path / "one", []
    with cache.published(target) as directory:
        assert directory is not None
        other = threading.Thread(target=lambda: done.append(build(target, "other")))
        other.start()
        other.join(0.05)
        assert not done
        (directory / "file").write_text("first")
    other.join()
    assert done == [False]
    assert (target / "file").read_text() == "first"


def test_prune(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        build(tmp_path / name, name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    cache.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["new", "older"]
    cache.prune(tmp_path, keep=2)
    assert (tmp_path / "new/file").read_text() == "new"


def test_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (cache.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache.default_directory() == Path("/somewhere/.cache/pytest-kvm-sea/emulated")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.default_directory() == Path("/caches/pytest-kvm-sea/emulated")
    monkeypatch.setenv(cache.CACHE_VARIABLE, "/mine")
    assert cache.default_directory() == Path("/mine")


def test_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmulationError, match=r"no cache can be kept in .*file/cache: Not a directory; KVM_SEA_CACHE"):
        cache.Cache(tmp_path / "file/cache")
