# SPDX-License-Identifier: GPL-2.0-only
"""The lines of KTAP: headers, plans, results, and what is said of a failure.

Version 1, as in the kernel's Documentation/dev-tools/ktap.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_kvm_sea.reports import ktap_text
from pytest_kvm_sea.reports.ktap_names import Names
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, Subtest

KTAP = "KTAP version 1"
TAP13 = "TAP version 13"
ITSELF = "the test itself"
"""The name of what fails in a test outside of its subtests."""
_WORDS: Mapping[Outcome, tuple[str, str]] = {
    Outcome.PASS: ("ok", ""),
    Outcome.FAIL: ("not ok", ""),
    Outcome.ERROR: ("not ok", "ERROR"),
    Outcome.SKIP: ("ok", "SKIP"),
    Outcome.XFAIL: ("ok", "XFAIL"),
    Outcome.XPASS: ("ok", "XPASS"),
    Outcome.TIMEOUT: ("not ok", "TIMEOUT"),
}
_PLACES = {"setup": "set-up", "teardown": "tear-down", "call": "call", "collect": "collection", "crash": "crash"}
_CHANCE = re.compile(
    r"^\[\w+\] \w+ -- Python .*\n\s*"
    r"|(?<= at 0x)[0-9a-f]+(?=>)"
    r"|^ *\d+\.\d{3}(?=  \w+ > \w+ )| *\bms(?=  who > whom)"
    r"|(?<=\bhva=0x)[0-9a-f]+|(?<=host VA 0x)[0-9a-f]+",
    re.MULTILINE,
)
"""What differs from run to run: xdist's worker, on top of a traceback; the address of a Python object in its repr; in
the story of a failure the times, and where this process had its memory."""
_TAG = re.compile(r"(?:^| \| )(\[[\w-]+\])")
"""What a reason of ours begins with."""
_SHORT = 60
_REASONED = (Outcome.SKIP, Outcome.XFAIL, Outcome.XPASS)


@dataclass(frozen=True, slots=True)
class Style:
    """What the modes differ in."""

    header: str
    is_nested: bool
    words: Mapping[Outcome, tuple[str, str]]
    """How a line of result begins, and its directive."""


STYLES = {
    "nested": Style(KTAP, is_nested=True, words=_WORDS),
    "flat": Style(KTAP, is_nested=False, words=_WORDS),
    # TAP has no XFAIL. What is yet to be done (TODO) fails without harm.
    "tap13": Style(TAP13, is_nested=False, words={**_WORDS, Outcome.XFAIL: ("not ok", "TODO")}),
}
"""By the value of --kvm-sea-ktap-mode."""


@dataclass(frozen=True, slots=True)
class Block:
    """A result with all that stands before it."""

    lines: Sequence[str]
    """Not indented."""
    outcome: Outcome


def indented(lines: Iterable[str], depth: int) -> Iterator[str]:
    """Two spaces for each level."""
    return ("  " * depth + line for line in lines)


def opening(name: str, count: int) -> list[str]:
    """What stands before the children of a test."""
    return [KTAP, f"# Subtest: {name}", f"1..{count}"]


def result(number: int, name: str, outcome: Outcome, why: str, style: Style) -> str:
    """A line of result; ``why`` stands after the directive where there is one."""
    status, directive = style.words[outcome]
    return " ".join(filter(None, (status, str(number), name, directive and f"# {directive}", directive and why)))


def of_group(number: int, name: str, outcomes: Sequence[Outcome], style: Style) -> Block:
    """The result of a file or a host, from those of its tests."""
    if any(outcome.is_bad for outcome in outcomes):
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.SKIP if all(one is Outcome.SKIP for one in outcomes) else Outcome.PASS
    return Block([result(number, name, outcome, "all tests were skipped", style)], outcome)


def of_record(number: int, name: str, record: Record, style: Style) -> Block:
    """The result of a test, with its subtests, and what is known of a failure."""
    bad_subtest = any(one.outcome.is_bad for one in record.subtests)
    outcome = Outcome.FAIL if bad_subtest and not record.outcome.is_bad else record.outcome
    place = _PLACES.get(record.phase, record.phase)
    lines: list[str] = []
    if style.is_nested:
        lines += _subtests(name, record, bad=bad_subtest, style=style)
    else:
        lines += (_subtest_comment(one) for one in record.subtests)
    if record.outcome.is_bad:
        lines += _failure(record, place)
    why = {Outcome.ERROR: place, Outcome.TIMEOUT: record.message}.get(outcome, record.reason)
    if not style.is_nested and outcome is not Outcome.ERROR:
        lines += [ktap_text.comment(f"{outcome.value}: {why}")] if why and outcome in _REASONED else []
        why = _tags(why)
    return Block([*lines, result(number, name, outcome, ktap_text.reason(why), style)], outcome)


def of_error(number: int, name: str, error: CollectionError, style: Style) -> Block:
    """The result of a file that could not be collected."""
    lines = [ktap_text.comment(f"collection failed: {error.message}")]
    lines += ktap_text.quoted(_CHANCE.sub("", error.detail), ktap_text.DETAIL)
    return of_run(number, name, Outcome.ERROR, "collection", style, lines=lines)


def of_run(number: int, name: str, outcome: Outcome, why: str, style: Style, *, lines: Sequence[str] = ()) -> Block:
    """A result that no test gave: what did not run, and what is said of the run as a whole."""
    if outcome is Outcome.SKIP and not style.is_nested:
        why = _tags(why)
    return Block([*lines, result(number, name, outcome, ktap_text.reason(why), style)], outcome)


def totals(outcomes: Mapping[Outcome, int]) -> str:
    """As the kernel's kselftest.h prints it at the end of a C test, which has no word for a time-out."""
    counts = {outcome.value: outcomes.get(outcome, 0) for outcome in Outcome if outcome is not Outcome.TIMEOUT}
    counts["fail"] += outcomes.get(Outcome.TIMEOUT, 0)
    order = ("pass", "fail", "xfail", "xpass", "skip", "error")
    return f"# Totals: {' '.join(f'{word}:{counts[word]}' for word in order)}"


def _failure(record: Record, place: str) -> Iterator[str]:
    message, detail = (_CHANCE.sub("", text).strip() for text in (record.message, record.detail))
    what = "timed out" if record.outcome is Outcome.TIMEOUT else "failed"
    yield ktap_text.comment(f"{what} in {place}: {message}" if record.phase != "crash" else f"crashed: {message}")
    if not message.endswith(detail):
        yield from ktap_text.quoted(detail, ktap_text.DETAIL)
    for title, text in record.output.items():
        yield ktap_text.comment(f"{title}:")
        yield from ktap_text.quoted(text, ktap_text.OUTPUT)


def _subtests(parent: str, record: Record, *, bad: bool, style: Style) -> Iterator[str]:
    if not record.subtests:
        return
    subtests = list(record.subtests)
    if record.outcome.is_bad and not bad:
        # kunit.py counts the leaves, and would not see what only the parent says.
        subtests.append(Subtest(ITSELF, record.outcome, record.reason, record.message))
    names, lines = Names(parent), opening(parent, len(subtests))
    for number, one in enumerate(subtests, 1):
        if one.message:
            lines.append(ktap_text.comment(f"failed: {one.message}"))
        name = names.unique(ktap_text.name(one.name))
        lines.append(result(number, name, one.outcome, ktap_text.reason(one.reason), style))
    yield from indented(lines, 1)


def _subtest_comment(one: Subtest) -> str:
    said = one.message or one.reason
    return ktap_text.comment(f"subtest {one.name}: {one.outcome.value}{f': {said}' if said else ''}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tags(why: str) -> str:
    """LKFT makes the reason of a skip part of the test's name: short, and the same on every machine."""
    tags = _TAG.findall(why)
    return " ".join(tags) if tags else _one_line(why)[:_SHORT].rstrip()
