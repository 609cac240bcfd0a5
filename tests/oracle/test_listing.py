# SPDX-License-Identifier: GPL-2.0-only
"""The list of random words that differ for a known reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.emulated.native import QEMU
from tests.oracle import __main__ as program
from tests.oracle import listing, qemu, strata
from tests.oracle.compare import Pair
from tests.oracle.listing import Listed
from tests.oracle.strata import NEOVERSE
from tests.oracle.test_oracle import needs_qemu

_ENTRIES = (
    Listed("a rule", "a feature", "LDAPR", 0xF8A2C1B6, "UNDEFINED", "data abort", 7),
    Listed("a rule", "a feature", "LDAPR", 0xF8BFC1B6, "UNDEFINED", "data abort", 3),
    Listed("another", "", "", 0x6F07FDF2, "FP_ASIMD", "UNDEFINED", 5),
    Listed("another", "", "EXCLUSIVE", 0x8858D3E3, "executes", "UNDEFINED", 6),
)


def test_the_page_has_a_line_for_each_class_and_one_for_each_word() -> None:
    text = list(listing.page(_ENTRIES, undefined=1234, same=2, command="the command"))
    assert "the command" in text[1]
    assert text[2].startswith("1,234 words are UNDEFINED in both, 2 do the same otherwise, and 4 differ")
    assert "| a rule: a feature | LDAPR | 2 | UNDEFINED | data abort | `f8a2c1b6` `ldapr x22, [x13]` |" in text
    assert "| another | - | 1 | FP_ASIMD | UNDEFINED | `6f07fdf2` no text |" in text
    assert "| f8bfc1b6 | `ldapr x22, [x13]` | a rule: a feature | LDAPR | UNDEFINED | data abort | 3 |" in text
    assert "| 8858d3e3 | `ldaxr w3, [sp]` | another | EXCLUSIVE | executes | UNDEFINED | 6 |" in text
    assert len(text) == 3 + (2 + 3) + 1 + (2 + 4)


def _word(word: int) -> str:
    case = strata.make("words", 1, 0)
    case.words = [word]
    return listing.did(case, Pair([], NEOVERSE).simulate(case))


def test_what_a_word_did() -> None:
    words = {0xD503201F: "executes", 0: "UNDEFINED", 0x1E604000: "FP_ASIMD", 0xD4200000: "BRK64", 0xD4000002: "HVC64"}
    assert {word: _word(word) for word in words} == words


@needs_qemu
def test_the_list_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.md"
    arguments = ["--cases", "0", "--simd", "0", "--words", "2000", "--seed", "1", "--jobs", "1", "--list", str(path)]
    assert program.main(arguments) == program.AGREE
    text = path.read_text(encoding="utf-8")
    assert "python -m tests.oracle --words 2000 --seed 1 --list FILE" in text
    assert "store-exclusive that fails and would abort | EXCLUSIVE" in text
    assert f"words that differ for a known reason are in {path}" in capsys.readouterr().out


def test_a_list_that_cannot_be_written_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qemu, "command", lambda _log: [QEMU])
    path = tmp_path / "missing" / "list.md"
    assert program.main(["--cases", "1", "--list", str(path)]) == program.USAGE
    assert capsys.readouterr().err == f"cannot write the list to {path}: No such file or directory\n"
