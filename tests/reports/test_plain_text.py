# SPDX-License-Identifier: GPL-2.0-only
"""Text of a guest's in a report: nothing of it reaches a terminal or XML as it is."""

from __future__ import annotations

from xml.dom.minidom import parseString
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.reports.filenames import file_name
from pytest_kvm_sea.reports.plain import plain, plain_lines

ANY = st.text(st.characters(exclude_categories=()))


@given(ANY, st.integers(0, 40))
def test_it_is_printable_and_short(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert shown.isprintable()
    parseString(f"<x>{escape(shown)}</x>")
    assert len(shown) <= 10 * limit + 40
    assert ("more characters]" in shown) == (len(text) > limit) or "more characters]" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\tb\r\0", r"a\x09b\x0d\x00"),
        ("\x85\u2028\ufffe\udc80", r"\x85\u2028\ufffe\udc80"),
        ("\u202eabc", r"\u202eabc"),
        ("\U000e0001", r"\U000e0001"),
        ("x" * 12, "xxxxxxxxxx [2 more characters]"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert plain(text, 10 if text.startswith("xx") else 100) == shown


def test_lines_are_put_together_and_cut() -> None:
    assert plain_lines(["a", "b\nc", "\n"], 5, 5) == ["ab", "c"]
    assert plain_lines([], 5, 5) == []
    many = plain_lines((f"{number}\n" for number in range(1000)), 2, 3)
    assert many == ["0", "1", "[995 more lines]", "997", "998", "999"]
    assert plain_lines(["x\x85y\n"], 1, 1) == [r"x\x85y"]


@given(ANY.filter(bool), ANY.filter(bool))
def test_file_names(one: str, two: str) -> None:
    name = file_name(one, ".txt")
    assert len(name) < 160
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=+-")
    assert not name.startswith((".", "-"))
    assert (name == file_name(two, ".txt")) == (one == two)


def test_a_file_name_can_be_read() -> None:
    name = file_name("a/b/test_x.py::TestY::test_z[sim-ampereone-mainline-el0]", ".txt")
    assert name.startswith("test_x.py-TestY-test_z-sim-ampereone-mainline-el0-")
