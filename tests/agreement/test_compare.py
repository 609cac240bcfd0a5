# SPDX-License-Identifier: GPL-2.0-only
"""Records and their comparison: what differs is found, named, and shown decoded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvm_sea.agreement import records
from pytest_kvm_sea.agreement.compare import Difference, Record, compare
from pytest_kvm_sea.agreement.scenarios import all_scenarios

ONE = {"a": [{"exit": "MMIO"}, {"esr_el1": "0x96000010"}], "b": [{"result": "ok"}]}


def test_equal_records() -> None:
    assert compare(ONE, ONE) == []


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"a": ONE["a"], "b": [{"result": "EINVAL"}]}, Difference("b", 1, "result", "ok", "EINVAL")),
        ({"a": ONE["a"]}, Difference("b", 0, "scenario", "recorded", "not recorded")),
        ({**ONE, "c": []}, Difference("c", 0, "scenario", "not recorded", "recorded")),
        ({"a": ONE["a"][:1], "b": ONE["b"]}, Difference("a", 2, "esr_el1", "0x96000010", "-")),
        ({"a": ONE["a"], "b": [{"result": "ok", "value": "0x1"}]}, Difference("b", 1, "value", "-", "0x1")),
    ],
)
def test_every_difference_is_found(other: Record, expected: Difference) -> None:
    assert compare(ONE, other) == [expected]


def test_syndromes_are_shown_in_words() -> None:
    shown = str(Difference("a", 2, "esr_el1", "0x96000010", "0x94000010"))
    assert "0x96000010 | 0x94000010" in shown
    assert "DABT_CURRENT IL iss=0x10 | DABT_CURRENT iss=0x10" in shown


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "record.yaml"
    written = records.Recorded("7.3.4", "mainline", ONE)
    records.write(file, written)
    assert records.read(file) == written


@pytest.mark.parametrize("text", ["", "[]", "format: 2\nscenarios: {}\n", "{", "\xff"])
def test_what_is_no_record(tmp_path: Path, text: str) -> None:
    file = tmp_path / "record.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(records.RecordError, match=r"record\.yaml: "):
        records.read(file)


def test_command(tmp_path: Path) -> None:
    """Exit 0 where records are equal, 1 with the differences, 2 with one line for what cannot be read."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    records.write(first, records.Recorded("7.3.4", "mainline", ONE))
    records.write(second, records.Recorded("7.4.0", "mainline", {**ONE, "b": [{"result": "EINVAL"}]}))

    def run(*files: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest_kvm_sea.agreement", "compare", *map(str, files)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run(first, first).returncode == 0
    different = run(first, second)
    assert different.returncode == 1
    assert "b, observation 1: result: ok | EINVAL" in different.stdout
    missing = run(first, tmp_path / "none.yaml")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ")
    assert "Traceback" not in missing.stderr


def test_scenarios_have_names_of_their_own() -> None:
    names = [scenario.name for scenario in all_scenarios()]
    assert len(names) == len(set(names)) >= 60
