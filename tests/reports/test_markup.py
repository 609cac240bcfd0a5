# SPDX-License-Identifier: GPL-2.0-only
"""Markup that is safe by construction."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.reports.markup import Markup, cut, element, end, join, one_line, start, style, visible


@given(st.text())
def test_text_comes_back_from_a_parser(text: str) -> None:
    parsed = ET.fromstring(element("p", text, element("b", text), title=text))
    assert (parsed.text or "") == visible(text)
    assert (parsed[0].text or "") == visible(text)
    assert parsed.get("title") == one_line(text)


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_is_no_markup_any_more_is_text_again(text: str, more: str) -> None:
    # Whoever puts markup and text together by hand gets text, which is ugly and safe.
    mixed = element("b", text) + more
    assert type(mixed) is str
    parsed = ET.fromstring(element("p", mixed))
    assert len(parsed) == 0


def test_only_what_html_and_xml_read_alike_is_written() -> None:
    assert element("td", "") == "<td></td>"
    assert element("br") == "<br/>"
    assert element("p", class_=None, aria_label="x", name_="y") == '<p aria-label="x" name="y"></p>'
    assert join((start("details", open="open"), element("summary", "<"), end("details"))) == (
        '<details open="open"><summary>&lt;</summary></details>'
    )


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("script", {}),
        ("iframe", {}),
        ("p", {"onclick": "x"}),
        ("p", {"style": "x"}),
        ("a", {"href": "https://kernel.org"}),
        ("a", {"href": "javascript:x"}),
    ],
)
def test_what_runs_or_fetches_cannot_be_written(name: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"page"):
        element(name, **attributes)


@pytest.mark.parametrize("sheet", ["a < b", "a & b", "</style>", 'content: "\u2026"'])
def test_a_style_sheet_reads_the_same_in_html_and_xml(sheet: str) -> None:
    with pytest.raises(ValueError, match="style sheet"):
        style(sheet)


@given(st.text(), st.integers(0, 60))
def test_cut_keeps_both_ends_and_counts(text: str, most: int) -> None:
    head, note, tail = cut(text, most)
    if len(text) <= most:
        assert (head, note, tail) == (text, "", "")
    else:
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) == most
        assert f" {len(text) - most:,} characters" in note


def test_markup_is_the_only_way_in() -> None:
    assert element("p", Markup("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
