# SPDX-License-Identifier: GPL-2.0-only
"""What is put into an installed tree of kselftests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_kvm_sea.kselftest import cli
from pytest_kvm_sea.kselftest.install import ENTRY

ENTRIES = "kvm:sea_to_user\nkvm:page_fault_test\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "run_kselftest.sh").touch()
    return tmp_path


@pytest.mark.parametrize("before", [None, "", ENTRIES, ENTRIES.rstrip("\n"), f"{ENTRY}\n{ENTRIES}"])
def test_named_to_the_runner_once(tree: Path, before: str | None) -> None:
    path = tree / "kselftest-list.txt"
    if before is not None:
        path.write_text(before)
    for _ in range(2):
        assert cli.main(["--install", str(tree)]) == 0
        assert path.read_text().endswith("\n")
        assert sorted(path.read_text().splitlines()) == sorted({*(before or "").splitlines(), ENTRY})


def test_files(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--install", str(tree)]) == 0
    said = capsys.readouterr().out.splitlines()
    script, settings = tree / "kvm_sea/pytest_kvm_sea.sh", tree / "kvm_sea/settings"
    assert said[:3] == [str(script), str(settings), str(tree / "kselftest-list.txt")]
    assert script.stat().st_mode & 0o777 == 0o755
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", script], check=True)
    # The runner evaluates every line that is no comment.
    assert [line for line in settings.read_text().splitlines() if not line.startswith("#")] == ["timeout=600"]


def test_what_is_there_is_made_new(tree: Path) -> None:
    (tree / "kvm_sea").mkdir()
    (tree / "kvm_sea/settings").write_text("timeout=1\n")
    assert cli.main(["--install", str(tree)]) == 0
    assert "timeout=600" in (tree / "kvm_sea/settings").read_text()


MISTAKES = {
    "no tree": (["--install", "{}"], "no installed tree of kselftests, there is no run_kselftest.sh in it"),
    "no directory": (["--install"], "--install takes one directory and nothing else"),
    "two": (["--install", "{}", "{}"], "--install takes one directory and nothing else"),
    "with arguments of pytest": (["-k", "x", "--install", "{}"], "--install takes one directory and nothing else"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, message = MISTAKES[case]
    assert cli.main([argument.format(tmp_path) for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_tree_that_cannot_be_written(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "kvm_sea").touch()
    assert cli.main(["--install", str(tree)]) == 1
    assert capsys.readouterr().err == f"kvm-sea: {tree / 'kvm_sea'}: cannot be written: File exists\n"
