# SPDX-License-Identifier: GPL-2.0-only
"""The page of a run: one HTML file that is XML too, with nothing that runs and nothing that is fetched.

The page itself forbids the browser both, by a policy that knows its one style sheet by its hash. A server's policy that
takes the sheet away leaves a page that can be read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pytest_kvm_sea.reports import cards, overview
from pytest_kvm_sea.reports.cards import WORDS
from pytest_kvm_sea.reports.evidence import word
from pytest_kvm_sea.reports.markup import Markup, element, end, join, start, style
from pytest_kvm_sea.reports.overview import Tally
from pytest_kvm_sea.reports.page_file import Aside, PageFile
from pytest_kvm_sea.reports.picture import Shared
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId

FULL_BYTES = 4 << 20
"""How much of the page is given to tests with all that is known of them. Those after are shown in short."""
OPEN = 10
"""How many of the tests that are bad are open."""
_LISTED = 500
"""How many of the tests that did not run are named."""
_LONGEST = 200
"""Of a message in the list at the top."""
_SECTIONS = {
    "Failures": (Outcome.FAIL, Outcome.TIMEOUT),
    "Errors": (Outcome.ERROR,),
    "Unexpected passes": (Outcome.XPASS,),
    "Failed as expected": (Outcome.XFAIL,),
    "Skipped": (Outcome.SKIP,),
    "Passed": (Outcome.PASS,),
}
_BY_REASON = (Outcome.XFAIL, Outcome.SKIP)
_SHORT = (
    "The tests with all that is known of them fill the page already; this one is shown in short. More is in the files "
    "of --kvm-sea-json and --kvm-sea-trace."
)


@dataclass(frozen=True, slots=True)
class _Card:
    """A test that has been written aside."""

    test: TestId
    outcome: Outcome
    group: str
    """Within the section: a reason, a target; empty where there are no groups."""
    inside: Aside
    message: str
    """Of one that is bad."""


class Page:
    """The sink. Raises OSError where the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file = PageFile(path)
        self._tally = Tally(RunStart(0, "", ""))
        self._cards: list[_Card] = []
        self._shared = Shared()
        self._full = 0

    def start(self, run: RunStart) -> None:
        self._tally.start = run
        self._file.begin()

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        self._tally.planned, self._tally.errors = tests, errors

    def started(self, test: TestId) -> None:
        """The page is of what has ended."""

    def finished(self, record: Record) -> None:
        self._tally.add(record)
        wanted = record.outcome not in (Outcome.PASS, Outcome.SKIP)
        full = wanted and self._full < FULL_BYTES
        note = element("p", _SHORT, class_="note") if wanted and not full else ""
        inside = self._file.put_aside(join((cards.head(record), note, cards.body(record, self._shared, full=full))))
        self._full += inside.length if full else 0
        self._cards.append(_Card(record.test, record.outcome, _group(record), inside, record.message[:_LONGEST]))

    def end(self, run: RunEnd) -> None:
        self._file.write(self._whole(run))

    def abandon(self) -> None:
        self._file.abandon()

    def _whole(self, run: RunEnd) -> Iterator[str | Aside]:
        place = {test: number for number, test in enumerate(self._tally.planned)}
        self._cards.sort(key=lambda card: place.get(card.test, len(place)))
        yield '<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en">\n'
        yield _head(overview.verdict(self._tally, run)[0])
        yield start("body")
        yield overview.header(self._tally, run)
        yield start("main")
        yield self._bad()
        yield overview.counts(self._tally)
        yield overview.reasons(self._tally)
        yield overview.legend()
        for title, outcomes in _SECTIONS.items():
            yield from self._section(title, outcomes)
        yield _not_run(self._tally.missing)
        yield self._shared.definitions()
        yield end("main") + end("body") + "\n</html>\n"

    def _bad(self) -> Markup:
        """What failed, in a line each, with links."""
        bad = [card for card in self._cards if card.outcome.is_bad]
        if not bad:
            return join(())
        first = sorted(bad, key=lambda card: card.outcome is Outcome.ERROR)[:OPEN]
        items = [
            element("li", element("a", word(card.test.name), href=f"#{_anchor(card)}"), f" {word(card.message)}")
            for card in first
        ]
        more = len(bad) - len(first)
        return element("ul", *items, element("li", f"and {more} more, below") if more else "", class_="failures")

    def _section(self, title: str, outcomes: Sequence[Outcome]) -> Iterator[str | Aside]:
        found = [card for card in self._cards if card.outcome in outcomes]
        errors = self._tally.errors if Outcome.ERROR in outcomes else ()
        if not found and not errors:
            return
        yield start("section")
        # Every outcome is a target of links in the table at the top.
        anchors = [element("span", id=outcome.value) for outcome in outcomes]
        yield element("h2", *anchors, f"{title} ({len(found) + len(errors)})")
        yield overview.collection_errors(errors)
        groups: dict[str, list[_Card]] = {}
        for card in found:
            groups.setdefault(card.group, []).append(card)
        for group, members in groups.items():
            if group:
                yield start("details", class_="group")
                yield element("summary", element("b", word(group)), f" {WORDS[members[0].outcome]}: {len(members)}")
            for number, card in enumerate(members):
                bad = card.outcome.is_bad
                opened = "open" if bad and number < OPEN else None
                yield start("details", class_="test", id=_anchor(card) if bad else None, open=opened)
                yield card.inside
                yield end("details") + "\n"
            if group:
                yield end("details") + "\n"
        yield end("section")


def _anchor(card: _Card) -> str:
    return f"test-{card.inside.offset}"


def _group(record: Record) -> str:
    if record.outcome in _BY_REASON:
        return record.reason or "without a reason"
    return overview.target_of(record) if record.outcome is Outcome.PASS else ""


def _head(title: str) -> Markup:
    sheet = resources.files(__package__).joinpath("page.css").read_text(encoding="ascii")
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", f"{word(title)} - pytest-kvm-sea"),
        style(sheet),
    )


def _not_run(tests: Sequence[TestId]) -> Markup:
    if not tests:
        return join(())
    more = len(tests) - _LISTED
    return element(
        "section",
        element("h2", f"Did not run ({len(tests)})"),
        element(
            "details",
            element("summary", "Tests that were planned and have no result"),
            element("ul", *(element("li", element("code", word(test))) for test in tests[:_LISTED])),
            element("p", f"and {more} more") if more > 0 else "",
        ),
    )
