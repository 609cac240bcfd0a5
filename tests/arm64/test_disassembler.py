# SPDX-License-Identifier: GPL-2.0-only
"""Disassembly for reports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.arm64.disassembler import Line, disassemble


def test_lines_have_address_word_and_text() -> None:
    code = bytes.fromhex("d28975a9 f9400133 00000000".replace(" ", ""))
    words = b"".join(code[at : at + 4][::-1] for at in range(0, 12, 4))
    assert disassemble(words, 0x10000) == [
        Line(0x10000, 0xD28975A9, "mov x9, #0x4bad"),
        Line(0x10004, 0xF9400133, "ldr x19, [x9]"),
        Line(0x10008, 0x00000000, "udf #0"),
    ]
    assert str(disassemble(words, 0x10000)[1]) == "0x10004:  f9400133  ldr x19, [x9]"


def test_relative_targets_are_absolute() -> None:
    assert disassemble((0x14000001).to_bytes(4, "little"), 0x1000)[0].text == "b #0x1004"


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=20), st.integers(0, (1 << 46) - 1))
def test_every_word_gets_a_line(words: list[int], page: int) -> None:
    lines = disassemble(b"".join(word.to_bytes(4, "little") for word in words), 4 * page)
    assert [line.word for line in lines] == words
    assert [line.address for line in lines] == [4 * (page + index) for index in range(len(words))]
    assert all(line.text for line in lines)


def test_what_capstone_rejects_is_a_word() -> None:
    assert disassemble(b"\xff\xff\xff\xff", 0)[0].text == ".word 0xffffffff"


def test_half_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="code has 6 bytes; A64 instructions take a multiple of 4"):
        disassemble(bytes(6), 0)


def test_capstone_is_imported_when_it_is_needed() -> None:
    script = (
        "import sys; from pytest_kvm_sea.arm64.disassembler import disassemble; print('capstone' in sys.modules);"
        "disassemble(bytes(4), 0); print('capstone' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
