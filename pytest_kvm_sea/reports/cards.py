# SPDX-License-Identifier: GPL-2.0-only
"""One test of the page: what is seen of it when it is folded, and what when it is not."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pytest_kvm_sea.reports import evidence, steps
from pytest_kvm_sea.reports.evidence import Json, block, part, word
from pytest_kvm_sea.reports.markup import Markup, element, join
from pytest_kvm_sea.reports.picture import Shared, draw
from pytest_kvm_sea.reports.record import Outcome, Record, Subtest
from pytest_kvm_sea.reports.sequence import lay_out
from pytest_kvm_sea.reports.story import Event

WORDS = {
    Outcome.FAIL: "failed",
    Outcome.TIMEOUT: "timed out",
    Outcome.ERROR: "error",
    Outcome.XPASS: "unexpectedly passed",
    Outcome.XFAIL: "xfailed",
    Outcome.SKIP: "skipped",
    Outcome.PASS: "passed",
}
"""Outcomes in the order in which they are shown, as the page calls them."""
_SIGNS = {Outcome.XFAIL: "≈", Outcome.SKIP: "–", Outcome.PASS: "✓"}  # noqa: RUF001 - a dash is meant
_MOST_ROWS = 120
_MOST_ROWS_SHORT = 30
_MOST_TEXT_SHORT = 2000
_LONGEST_MESSAGE = 300


def badge(outcome: Outcome) -> Markup:
    """A word and a sign, so that it is told without the colour."""
    return element("span", f"{_SIGNS.get(outcome, '✗')} {WORDS[outcome]}", class_=f"badge {outcome.value}")


def head(record: Record) -> Markup:
    """The line of a folded test."""
    message = record.message if record.outcome.is_bad else ""
    return element(
        "summary",
        badge(record.outcome),
        " ",
        element("b", word(record.test.name), class_="name"),
        " ",
        element("span", f"{duration(record.duration)}", class_="quiet"),
        join((" ", element("span", word(message[:_LONGEST_MESSAGE]), class_="message"))) if message else "",
    )


def body(record: Record, shared: Shared, *, full: bool) -> Markup:
    """What is in it; ``full``: everything that is known, else what matters, and the lines of pictures are shared."""
    story = record.story or {}
    most = evidence.MOST_TEXT if full else _MOST_TEXT_SHORT
    shown = [_meta(record, story, full=full), _reason(record, most), *map(_subtest, record.subtests)]
    expected = str(story.get("expected", ""))
    # An expected failure that a test raises itself says the reason once more.
    if full and expected and not (record.reason and record.reason in expected):
        shown.append(part("Expected", block(expected, most)))
    shown.append(_picture(_events(record), None if full else shared))
    shown += [show(story) for show in (evidence.FULL if full else evidence.SHORT)]
    if record.detail:
        shown.append(part("Failure, as pytest tells it", block(record.detail, most)))
    if record.outcome not in (Outcome.PASS, Outcome.SKIP):
        shown += [part(word(title), block(text, most)) for title, text in record.output.items() if text]
    return element("div", *shown, class_="body")


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `2 min 5 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def when(seconds: float) -> str:
    """A time since the epoch, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def facts(pairs: list[tuple[str, str]]) -> Markup:
    """Names and values; those without a value are left out."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in pairs if value),
        class_="facts",
    )


def _meta(record: Record, story: Json, *, full: bool) -> Markup:
    simulated = " (simulated)" if record.is_simulated else ""
    pairs: list[tuple[str, str]] = [("test", element("code", word(record.test)))]
    if full:
        pairs += [("target", f"{word(story['target'])}{simulated}")] if story.get("target") else []
        decided = "" if record.phase == "call" else f", decided in {record.phase}"
        pairs += [
            ("outcome", f"{WORDS[record.outcome]}{decided}"),
            ("kernel", word(story.get("kernel", ""))),
            ("started", when(record.start) if record.start else ""),
        ]
    pairs.append(("worker", word(record.worker)))
    return facts(pairs)


def _reason(record: Record, most: int) -> Markup:
    shown = []
    if record.reason:
        shown.append(element("p", word(record.reason), class_="reason"))
    if record.message:
        shown.append(element("div", block(record.message, most), class_="failure"))
    return join(shown)


def _subtest(subtest: Subtest) -> Markup:
    told = "; ".join(filter(None, (subtest.reason, subtest.message)))
    return element("p", badge(subtest.outcome), " ", element("b", word(subtest.name)), f" {word(told)}" if told else "")


def _events(record: Record) -> list[Event]:
    """The steps of the story, and as the last one that it ended badly, where that is no step already."""
    events = steps.read(record.story or {})
    if events and record.outcome.is_bad and events[-1].kind != "error":
        verb = {Outcome.TIMEOUT: "times out", Outcome.FAIL: "fails"}.get(record.outcome, "ends in an error")
        # When it was is not known: the duration has the tear-down in it.
        events.append(Event(math.nan, "vmm", "vmm", f"the test {verb}", (("", record.message),), "error"))
    return events


def _picture(events: list[Event], shared: Shared | None) -> Markup:
    """All of it, or if lines are ``shared`` what is essential."""
    if not events:
        return join(())
    chosen = steps.essential(events) or events if shared else events
    drawn = draw(
        lay_out(steps.rows(chosen, _MOST_ROWS_SHORT if shared else _MOST_ROWS)),
        f"What happened, in {len(events)} steps",
        times=shared is None,
        shared=shared,
    )
    less = len(events) - len(chosen)
    note = element("figcaption", f"{less} of {len(events)} steps are routine and not shown.") if less else ""
    return element("figure", element("div", drawn, class_="scroll", tabindex="0"), note)
