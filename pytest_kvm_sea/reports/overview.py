# SPDX-License-Identifier: GPL-2.0-only
"""The top of the page: what run this is, how it ended, how many tests ended how on what, and for which reasons."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_kvm_sea.reports import summary
from pytest_kvm_sea.reports.cards import WORDS, badge, duration, facts, when
from pytest_kvm_sea.reports.evidence import block, word
from pytest_kvm_sea.reports.markup import Markup, element, join
from pytest_kvm_sea.reports.picture import KINDS, NAMES, sample
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId

SIMULATED = (
    "Simulated. The host was a model of KVM, its firmware and its memory: this page says nothing about a kernel or a "
    "machine."
)
_STATUS = {
    0: "all well",
    1: "tests failed",
    2: "interrupted",
    3: "internal error",
    4: "wrong use of the command line",
    5: "no tests were collected",
}
_SUMMARY_WORDS = {Outcome.SKIP: "skipped", Outcome.XFAIL: "xfailed"}
ELSEWHERE = "no platform"
"""Tests that use none of the plugin's fixtures."""


@dataclass(slots=True)
class Tally:
    """What is kept in memory of a run."""

    start: RunStart
    planned: Sequence[TestId] = ()
    errors: Sequence[CollectionError] = ()
    finished: set[TestId] = field(default_factory=set)
    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    """By target."""
    reasons: list[summary.Result] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)
    """By target."""
    revisions: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """One more test has ended."""
        target = target_of(record)
        self.finished.add(record.test)
        self.counts[target, record.outcome] += 1
        self.revisions |= {record.properties.get("kvm_sea_revision", "")} - {""}
        if record.story and record.story.get("kernel"):
            self.kernels[target] = str(record.story["kernel"])
        if record.outcome in _SUMMARY_WORDS:
            platform = record.properties.get("kvm_sea_platform") or record.properties.get("kvm_sea_host") or ELSEWHERE
            self.reasons.append(
                summary.Result(str(record.test), _SUMMARY_WORDS[record.outcome], record.reason, platform)
            )

    def total(self, *outcomes: Outcome) -> int:
        """How many tests ended like this; without an argument all that ended."""
        return sum(count for (_, outcome), count in self.counts.items() if not outcomes or outcome in outcomes)

    @property
    def missing(self) -> list[TestId]:
        """Planned, and without a result."""
        return [test for test in self.planned if test not in self.finished]


def target_of(record: Record) -> str:
    """What the test ran on, as test ids name it."""
    parts = (record.properties.get(f"kvm_sea_{name}", "") for name in ("host", "platform", "revision"))
    return "-".join(filter(None, parts)) or ELSEWHERE


def verdict(tally: Tally, end: RunEnd) -> tuple[str, bool]:
    """The run in one sentence, and whether it is good."""
    bad = tally.total(Outcome.FAIL, Outcome.TIMEOUT, Outcome.ERROR)
    ended = tally.total()
    if end.broken:
        return f"The run broke off: {end.stopped or 'nobody knows why'}", False
    if bad or tally.errors:
        failed = f"{bad} of {ended} tests failed" if bad else ""
        files = f"{len(tally.errors)} could not be collected" if tally.errors else ""
        return "; ".join(filter(None, (failed, files))), False
    if not ended:
        return "Nothing was tested: no test ran", False
    if tally.total(Outcome.SKIP) == ended:
        return f"Nothing was tested: all {ended} tests were skipped", False
    if end.findings or end.stopped or end.exit_status:
        return "No test failed, but not all is well", False
    return f"No test of {ended} failed", True


def header(tally: Tally, end: RunEnd) -> Markup:
    """Title, verdict, and what is known of the run."""
    start = tally.start
    text, good = verdict(tally, end)
    simulated = element("p", element("b", SIMULATED), class_="simulated") if start.host == "sim" else ""
    findings = element("ul", *map(_finding, end.findings), class_="findings")
    return element(
        "header",
        element("h1", "Memory errors in arm64 KVM guests"),
        element("p", "✓ " if good else "✗ ", word(text), class_="verdict good" if good else "verdict bad"),
        simulated,
        findings if end.findings else "",
        facts(_run(tally, end)),
    )


def _finding(text: str) -> Markup:
    """What is wrong, and below it what to do."""
    return element("li", "\n".join(map(word, text.split("\n"))))


def _word(outcome: Outcome, number: int) -> str:
    """The only noun among them has a plural."""
    return "errors" if outcome is Outcome.ERROR and number != 1 else WORDS[outcome]


def _run(tally: Tally, end: RunEnd) -> list[tuple[str, str]]:
    start = tally.start
    counts = [f"{number} {_word(outcome, number)}" for outcome in WORDS if (number := tally.total(outcome))]
    not_run = f"; {len(tally.missing)} of {len(tally.planned)} did not run" if tally.missing else ""
    return [
        ("host", "sim (simulated)" if start.host == "sim" else word(start.host)),
        ("tests", f"{', '.join(counts) or 'none'}{not_run}"),
        ("kernel", word(", ".join(sorted(set(tally.kernels.values()))))),
        ("revision of the API", ", ".join(sorted(tally.revisions))),
        ("started", when(start.time)),
        ("duration", duration(max(0.0, end.time - start.time))),
        ("stopped", word(end.stopped)),
        ("exit status", f"{end.exit_status}: {_STATUS.get(end.exit_status, 'of another plugin')}"),
        ("command", element("code", word(shlex.join(("pytest", *start.command))))),
        ("made by", f"pytest-kvm-sea {word(start.version)}"),
    ]


def counts(tally: Tally) -> Markup:
    """A row per target, a column per outcome that occurs."""
    shown = [outcome for outcome in WORDS if tally.total(outcome)]
    if not shown:
        return join(())
    heads = [element("th", element("a", badge(outcome), href=f"#{outcome.value}"), scope="col") for outcome in shown]
    targets = dict.fromkeys(target for target, _ in tally.counts)
    rows = [_count_row(target, tally.counts, shown, tally.kernels.get(target, "")) for target in targets]
    sums = (element("td", f"{tally.total(outcome)}", class_="number") for outcome in shown)
    total = element("tr", element("th", f"all {len(targets)}", scope="row"), element("td", ""), *sums, class_="sum")
    head = element("tr", element("th", "target", scope="col"), element("th", "kernel", scope="col"), *heads)
    body = element("tbody", *rows, total if len(rows) > 1 else "")
    return element(
        "section",
        element("h2", "Outcomes"),
        element("div", element("table", element("thead", head), body, class_="counts"), class_="scroll"),
    )


def _count_row(
    target: str, counted: Mapping[tuple[str, Outcome], int], shown: Iterable[Outcome], kernel: str
) -> Markup:
    cells = [
        element("td", f"{number}" if number else "", class_=f"number {outcome.value}" if number else "number")
        for outcome in shown
        for number in [counted.get((target, outcome), 0)]
    ]
    return element("tr", element("th", word(target), scope="row"), element("td", word(kernel)), *cells)


def reasons(tally: Tally) -> Markup:
    """Why tests were skipped, or failed as expected, the most frequent first; as the summary in the terminal."""
    rows = [
        element(
            "tr",
            element("td", f"{len(group.members)}", class_="number"),
            element("td", group.outcome),
            element("td", word(group.reason)),
            element("td", word(", ".join(group.platforms)), class_="quiet"),
        )
        for group in summary.groups(tally.reasons)
    ]
    if not rows:
        return join(())
    heads = (element("th", name, scope="col") for name in ("tests", "outcome", "reason", "where"))
    whole = element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="reasons")
    return element("section", element("h2", "Skipped, or failed as expected"), element("div", whole, class_="scroll"))


def collection_errors(errors: Sequence[CollectionError]) -> Markup:
    """What could not be collected, open."""
    return join(
        element(
            "details",
            element(
                "summary", badge(Outcome.ERROR), " ", element("b", word(error.nodeid), class_="name"), " collecting"
            ),
            element("div", element("div", block(error.message), class_="failure"), block(error.detail), class_="body"),
            class_="test",
            open="open",
        )
        for error in errors
    )


def legend() -> Markup:
    """How to read the pictures."""
    rows = [
        element("tr", element("td", sample(kind)), element("th", kind, scope="row"), element("td", known.meaning))
        for kind, known in KINDS.items()
    ]
    lanes = "; ".join(NAMES)
    return element(
        "details",
        element("summary", "How to read the pictures"),
        element(
            "p",
            f"Time runs down. The life lines, from left to right: {lanes}. An arrow is what one does to another, a box "
            "what happens inside one; at the left its kind, and the time since the test began; at the right what is "
            "known of it. A bracket with a number is around what happened so many times in turn; its first round is "
            "drawn.",
        ),
        element("table", *rows, class_="legend"),
        class_="legend",
    )
