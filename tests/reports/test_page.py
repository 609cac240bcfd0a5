# SPDX-License-Identifier: GPL-2.0-only
"""The page of a run, read back by a parser of XML, which is the oracle for whether it is well-formed."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.reports import page
from pytest_kvm_sea.reports.markup import one_line, visible
from pytest_kvm_sea.reports.page import Page
from pytest_kvm_sea.reports.picture import KINDS
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, Subtest, TestId
from pytest_kvm_sea.reports.story import Event, Place
from tests.reports.page_stories import GVA, HPA, events, record, story

START = RunStart(1_760_000_000.0, "0.1.0", "sim", ("--pyargs", "pytest_kvm_sea.selftests"))
GOOD = RunEnd(1_760_000_002.5, 0)
FAILED = RunEnd(1_760_000_002.5, 1)
XHTML = "{http://www.w3.org/1999/xhtml}"


def make(
    path: Path,
    records: Sequence[Record] = (),
    end: RunEnd = GOOD,
    *,
    run: RunStart = START,
    planned: Sequence[TestId] | None = None,
    errors: Sequence[CollectionError] = (),
) -> ET.Element:
    """The page of these records, parsed."""
    sink = Page(path)
    sink.start(run)
    sink.planned([one.test for one in records] if planned is None else planned, errors)
    for one in records:
        sink.started(one.test)
        sink.finished(one)
    sink.end(end)
    return ET.fromstring(path.read_text(encoding="utf-8"))


def text(root: ET.Element) -> str:
    return "".join(root.itertext())


def attributes(root: ET.Element, name: str) -> list[str]:
    return [found for node in root.iter() if (found := node.get(name)) is not None]


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [node for node in root.iter() if name in (node.get("class") or "").split()]


def headings(root: ET.Element) -> list[str]:
    return [text(node) for node in root.iter(f"{XHTML}h2")]


def assert_self_contained(root: ET.Element) -> None:
    """Nothing runs, nothing is fetched, every link leads somewhere in the page."""
    names = {node.tag.removeprefix(XHTML) for node in root.iter()}
    assert not names & {"script", "link", "img", "image", "iframe", "object", "embed", "base", "form", "foreignObject"}
    identities = attributes(root, "id")
    assert len(identities) == len(set(identities))
    for node in root.iter():
        for name, value in node.attrib.items():
            assert not name.lower().startswith("on")
            assert name not in ("src", "style", "action", "data", "srcdoc")
            assert "url(" not in value
            if name.endswith("href"):
                assert value.removeprefix("#") in identities
    sheets = [text(node) for node in root.iter(f"{XHTML}style")]
    assert len(sheets) == 1
    assert not re.search(r"url\(|@import|expression|javascript", sheets[0])
    policy = next(node for node in root.iter(f"{XHTML}meta") if node.get("http-equiv")).get("content", "")
    digest = base64.b64encode(hashlib.sha256(sheets[0].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


ALL = [record(outcome, f"test_{outcome.value}", told=outcome is not Outcome.SKIP) for outcome in reversed(Outcome)]


def test_a_run_with_everything(tmp_path: Path) -> None:
    root = make(tmp_path / "page.html", ALL, FAILED)
    assert_self_contained(root)
    assert headings(root) == [
        "Outcomes",
        "Skipped, or failed as expected",
        "Failures (2)",
        "Errors (1)",
        "Unexpected passes (1)",
        "Failed as expected (1)",
        "Skipped (1)",
        "Passed (1)",
    ]
    tests = by_class(root, "test")
    assert [node.get("open") is not None for node in tests] == [True, True, True, False, False, False, False]
    found = [text(by_class(node, "badge")[0])[2:] for node in tests]
    # As they were planned; a time-out is a failure.
    assert found == ["timed out", "failed", "error", "unexpectedly passed", "xfailed", "skipped", "passed"]
    assert text(by_class(root, "verdict")[0]) == "✗ 3 of 7 tests failed"


def test_a_failure_tells_all_that_is_known(tmp_path: Path) -> None:
    failed = record(Outcome.FAIL, subtests=(Subtest("way=events", Outcome.FAIL, message="no abort"),))
    (node,) = by_class(make(tmp_path / "page.html", [failed], FAILED), "test")
    shown = text(node)
    assert failed.story is not None
    for wanted in (
        failed.message,
        failed.detail,
        "broken: 0xa0850eb80",
        "assert 0x81234b80 == 0x81234b84",
        "gw0",
        "2025-10-09 08:53:20 UTC",
        "12 ms",
        "way=events no abort",
        "W (9): kernel issued warning",
        "[  113.02] Memory failure: 0xa0850e",
        "the kernel's log was read from /dev/kmsg",
        *failed.story["console"],
    ):
        assert wanted.strip() in shown
    rows = [[text(cell) for cell in row.iter(f"{XHTML}td")] for row in node.iter(f"{XHTML}tr")]
    assert [GVA, "0xff81234b80", "0x7fec53834b80", HPA, "poisoned by EINJ"] in rows
    assert ["DFSC", "5:0", "0x10", "synchronous external abort, not on a table walk"] in rows
    assert ["→", "0x109a0", "f940012a", "ldr x10, [x9]", "access"] in rows
    assert [f"0x{n * 0x1111:016x}" for n in range(4)] in rows
    drawn = text(by_class(node, "sequence")[0])
    for event in events():
        assert event.title in drawn
        for name, value in event.facts:
            assert f"{name} {value}".strip() in drawn


def test_the_picture_of_a_failure_ends_with_it(tmp_path: Path) -> None:
    told = story(events=events()[:-2]).as_json()
    records = [
        record(Outcome.FAIL, story=told, message="assert 1 == 2"),
        record(Outcome.FAIL, "test_told", message="assert 1 == 2"),
        record(Outcome.XFAIL, "test_xfail", story=told),
    ]
    root = make(tmp_path / "page.html", records, FAILED)
    last = [text(list(node.iter(f"{XHTML}g"))[-1]) for node in by_class(root, "sequence")]
    assert last[0] == "error: VMMthe test failsassert 1 == 2"
    assert "GuestFailure" in last[1]
    assert "ucall PRINTF" in last[2]


def test_a_reason_is_not_told_twice(tmp_path: Path) -> None:
    reason = "[mainline-fnv] known"
    told = story(expected=f"XFailed: {reason}").as_json()
    root = make(tmp_path / "page.html", [record(Outcome.XFAIL, reason=reason, story=told)])
    assert text(by_class(root, "test")[0]).count(reason) == 1


def test_what_passed_is_told_in_short(tmp_path: Path) -> None:
    passed = [record(Outcome.PASS, f"test_{n}", story=story(events=events()[:-2]).as_json()) for n in range(3)]
    root = make(tmp_path / "page.html", passed)
    drawn = by_class(root, "sequence")
    shown = text(drawn[0])
    assert "echo 1 > error_inject (and 6 more)" in shown
    assert "KVM_EXIT_ARM_SEA" in shown
    assert "KVM_RUN" not in shown
    assert not by_class(root, "registers")
    # Three pictures that differ in nothing have their lines from one place.
    assert len({use.get("href") for node in drawn for use in node.iter(f"{XHTML}use")}) == 1
    assert len(by_class(root, "life")) == 1


def test_tests_are_grouped_and_counted(tmp_path: Path) -> None:
    records = [
        *(record(Outcome.SKIP, f"test_{n}", "no-ras", told=False, reason="[ras] no FEAT_RAS") for n in range(3)),
        record(Outcome.SKIP, "test_3", "locked-down", told=False, reason="[root] no root | [ras] no FEAT_RAS"),
        record(Outcome.PASS, "test_4", "no-ras"),
        record(Outcome.PASS, "test_5", "ampereone"),
        replace(record(Outcome.PASS, "test_6", told=False), properties={}),
    ]
    root = make(tmp_path / "page.html", records)
    tables = {
        name: [[text(cell) for cell in row] for table in by_class(root, name) for row in table.iter(f"{XHTML}tr")]
        for name in ("counts", "reasons")
    }
    assert tables["counts"] == [
        ["target", "kernel", "– skipped", "✓ passed"],  # noqa: RUF001 - the sign of skipped is a dash
        ["sim-no-ras-mainline", "7.3.4", "3", "1"],
        ["sim-locked-down-mainline", "", "1", ""],
        ["sim-ampereone-mainline", "7.3.4", "", "1"],
        ["no platform", "", "", "1"],
        ["all 4", "", "4", "3"],
    ]
    assert tables["reasons"][1:] == [
        ["4", "skipped", "[ras] no FEAT_RAS", "locked-down, no-ras"],
        ["1", "skipped", "[root] no root", "locked-down"],
    ]
    groups = [text(node[0]) for node in by_class(root, "group")]
    assert groups == [
        "[ras] no FEAT_RAS skipped: 3",
        "[root] no root | [ras] no FEAT_RAS skipped: 1",
        "sim-no-ras-mainline passed: 1",
        "sim-ampereone-mainline passed: 1",
        "no platform passed: 1",
    ]


@pytest.mark.parametrize(
    ("records", "end", "told"),
    [
        ([], RunEnd(1_760_000_001.0, 5), "✗ Nothing was tested: no test ran"),
        ([record(Outcome.SKIP, told=False)], GOOD, "✗ Nothing was tested: all 1 tests were skipped"),
        ([record(Outcome.PASS)], GOOD, "✓ No test of 1 failed"),
        (
            [record(Outcome.PASS)],
            RunEnd(0.0, 1, findings=("[gate] no\n  - {line: 2}",)),
            "✗ No test failed, but not all is well",
        ),
        (
            [record(Outcome.FAIL)],
            RunEnd(1_760_000_001.0, 2, "interrupted from the keyboard", broken=True),
            "✗ The run broke off: interrupted from the keyboard",
        ),
    ],
    ids=["nothing", "skipped", "good", "finding", "broken"],
)
def test_how_it_ended(tmp_path: Path, records: Sequence[Record], end: RunEnd, told: str) -> None:
    planned = [*(one.test for one in records), TestId("test_late.py::test_never")]
    root = make(tmp_path / "page.html", records, end, planned=planned)
    assert_self_contained(root)
    assert text(by_class(root, "verdict")[0]) == told
    assert headings(root)[-1] == "Did not run (1)"
    assert "test_late.py::test_never" in text(root)
    assert all(finding in text(by_class(root, "findings")[0]) for finding in end.findings)


@pytest.mark.parametrize(("host", "banners"), [("sim", 1), ("linux", 0)])
def test_a_simulated_run_says_so(tmp_path: Path, host: str, banners: int) -> None:
    root = make(tmp_path / "page.html", [record(Outcome.PASS)], run=replace(START, host=host))
    assert len(by_class(root, "simulated")) == banners


def test_what_could_not_be_collected_is_an_error(tmp_path: Path) -> None:
    error = CollectionError("tests/test_x.py", "ImportError: <x>", "a traceback & more")
    root = make(tmp_path / "page.html", [], RunEnd(1_760_000_001.0, 2), errors=[error])
    (shown,) = by_class(root, "test")
    assert shown.get("open")
    assert all(wanted in text(shown) for wanted in (error.nodeid, error.message, error.detail))
    assert "Errors (1)" in headings(root)


def test_output_without_end_is_cut_and_said(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    output = f"first{'o' * (1 << 20)}last"
    root = make(path, [record(Outcome.FAIL, output={"Captured stdout call": output}, detail=output)], FAILED)
    assert path.stat().st_size < 300_000
    shown = next(text(node) for node in root.iter(f"{XHTML}pre") if "first" in text(node))
    assert re.fullmatch(r"firsto+\[… 983,049 characters left out …\]o+last", shown)


def test_the_page_does_not_grow_with_every_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FULL_BYTES", 100_000)
    records = [record(Outcome.FAIL, f"test_{n}") for n in range(40)]
    root = make(tmp_path / "page.html", records, FAILED)
    tests = by_class(root, "test")
    full = [bool(by_class(node, "registers")) for node in tests]
    assert full == sorted(full, reverse=True)
    assert 1 <= sum(full) < 10
    assert [bool(by_class(node, "note")) for node in tests] == [not one for one in full]
    assert sum(node.get("open") is not None for node in tests) == page.OPEN
    assert "and 30 more, below" in text(by_class(root, "failures")[0])


def test_legend_has_every_kind_of_event_that_is_drawn(tmp_path: Path) -> None:
    root = make(tmp_path / "page.html")
    legend = next(node for node in root.iter(f"{XHTML}table") if node.get("class") == "legend")
    assert [text(node) for node in legend.iter(f"{XHTML}th")] == list(KINDS)
    assert {event.kind for event in events()} <= set(KINDS)
    drawn = [
        tuple(path.attrib.get(name) for name in ("stroke-width", "stroke-dasharray"))
        for path in legend.iter()
        if path.tag == f"{XHTML}path"
    ]
    loud = drawn[list(KINDS).index("einj") :]
    assert len(set(loud)) == len(loud), "kinds that differ by their colour only"


# Anything in place of text

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["</style><script>alert(1)</script>", "]]>", "<!--", "&amp;", "\x00\x1b[31m\ud800\ufffe", "\u202egnp.exe", "\r\n\t"]
)


def _strange(one: str, lines: str) -> Record:
    where = Place(one, one, one, one, one)
    told = story(
        one,
        events=[Event(0, "guest", "kvm", one, ((one, one),), one), Event(1, one, one, one, ((one, one),), "sea")],
        places=[where],
        kernel=one,
        expected=lines,
        console=[lines],
        kernel_log=[lines],
        notes=[one],
        registers={one: {one: one}},
    )
    return record(
        Outcome.FAIL,
        reason=one,
        message=lines,
        detail=lines,
        output={one: lines},
        story=told.as_json(),
        subtests=(Subtest(one, Outcome.FAIL, one, one),),
        worker=one,
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=TEXTS, lines=TEXTS, outcome=st.sampled_from(Outcome))
def test_any_text_is_text(tmp_path: Path, one: str, lines: str, outcome: Outcome) -> None:
    strange = replace(_strange(one, lines), outcome=outcome, test=TestId(one, one))
    end = RunEnd(1_760_000_001.0, 1, one, broken=True, findings=(one,))
    error = CollectionError(one, lines, lines)
    run = replace(START, version=one, command=(one,))
    root = make(tmp_path / "page.html", [strange], end, run=run, planned=[strange.test, TestId(one)], errors=[error])
    assert_self_contained(root)
    (shown, *_) = [node for node in by_class(root, "test") if "collecting" not in text(node[0])]
    found = text(shown)
    assert one_line(one) in found
    if outcome not in (Outcome.PASS, Outcome.SKIP):
        drawn = text(by_class(shown, "sequence")[0])
        assert drawn.count(one_line(one)) >= 2
        # A parser of XML makes one line end of two.
        assert visible(lines).removesuffix("\n") in found


@given(st.text())
def test_nothing_invisible_is_left(given_text: str) -> None:
    shown = visible(given_text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert one_line(given_text).isprintable()
    assert shown.encode("utf-8").decode() == shown


# The file


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("of an earlier run")
    link = tmp_path / "link.html"
    link.symlink_to(path)
    sink = Page(link)
    assert path.read_text() == "of an earlier run"
    sink.start(START)
    sink.planned([], [])
    sink.finished(record(Outcome.PASS))
    assert [one.name for one in tmp_path.iterdir()] == ["link.html"]
    sink.end(GOOD)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.html", "page.html"]
    assert link.is_symlink()
    assert path.read_text().endswith("</html>\n")


def test_an_abandoned_page_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Page(tmp_path / "page.html")
    sink.start(START)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        sink.end(GOOD)
    assert list(tmp_path.iterdir()) != []
    sink.abandon()
    sink.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_as_it_is() -> None:
    reading, writing = os.pipe()
    # A link as /dev/stdout is one: to something without a path.
    sink = Page(Path(f"/proc/self/fd/{writing}"))
    sink.start(START)
    sink.end(GOOD)
    os.close(writing)
    with open(reading, "rb") as stream:  # noqa: PTH123 - a descriptor
        ET.fromstring(stream.read())


def test_a_run_of_pytest_makes_a_page(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_fails(kvm_sea_target):
            print("\\x1b[31m<b>")
            assert 1 == 2, "<nothing> & \\x00"

        def test_skips(kvm_sea_target):
            pytest.skip("[root] not root; run as root")

        def test_passes(): ...
        """
    )
    result = pytester.runpytest_inprocess("--kvm-sea-platform=ampereone", "--kvm-sea-report=page.html")
    result.assert_outcomes(failed=1, skipped=1, passed=1)
    root = ET.parse(pytester.path / "page.html").getroot()
    assert_self_contained(root)
    shown = text(root)
    assert "\\x1b[31m<b>" in shown
    assert "<nothing> & " in shown
    assert text(by_class(root, "verdict")[0]) == "✗ 1 of 3 tests failed"


def test_a_page_that_cannot_be_written_is_a_usage_error(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--kvm-sea-report=nowhere/page.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kvm-sea-report: *nowhere/page.html: cannot be written: No such file*"])
