# SPDX-License-Identifier: GPL-2.0-only
"""Where the kernel's kunit.py comes from, and what is said where it cannot come."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated.errors import EmulationError
from tests.parsers import kunit_source
from tests.parsers.kunit_source import INSIDE, VARIABLE


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("KVM_SEA_CACHE", str(tmp_path / "cache"))


def test_a_kernel_tree_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kunit_source.find() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(EmulationError, match=f"{VARIABLE}=.*: no kunit.py is there; valid: tools/testing/kunit"):
        kunit_source.find()
    (tmp_path / "kunit.py").touch()
    assert kunit_source.fetch(lambda _line: None) == tmp_path


def test_only_the_programs_are_taken(tmp_path: Path) -> None:
    names = ["a.c", f"{INSIDE}/kunit.py", f"{INSIDE}/kunit_parser.py", f"{INSIDE}/test_data/a.log", f"{INSIDE}x/b.py"]
    with tarfile.open(tmp_path / "linux.tar.xz", "w:xz") as archive:
        for name in [*names, f"{INSIDE}/after_another_directory.py"]:
            member = tarfile.TarInfo(f"linux-7.3/{name}")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"text"))
    kunit_source._take(tmp_path / "linux.tar.xz", tmp_path / "out")
    taken = [path.relative_to(tmp_path / "out" / INSIDE) for path in (tmp_path / "out").rglob("*.*")]
    assert sorted(map(str, taken)) == ["kunit.py", "kunit_parser.py"]


def test_a_machine_without_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KVM_SEA_MIRROR", raising=False)
    assert kunit_source.main() == 1
    assert "apt-get is not on this machine" in (told := capsys.readouterr().err)
    assert "or name a kernel tree: KVM_SEA_KUNIT=DIR" in told
