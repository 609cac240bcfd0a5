# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts as lines for the terminal, and as tables for docs/mutants.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.mutants.table import AREAS
from pytest_kvm_sea.mutants.verdict import BROKEN, KILLED, MISSED, Verdict

_SHOWN = 3
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"
"""Between these lines the page is generated."""


def line(verdict: Verdict, width: int) -> str:
    """One line: the mutant, the state, who killed it."""
    head = f"{verdict.mutant.name:{width}}  {verdict.state:8}"
    if verdict.state == KILLED:
        return f"{head}  {_killers(verdict)}"
    return f"{head}  {verdict.mutant.bug}"


def details(verdict: Verdict) -> Iterator[str]:
    """What is wrong with a verdict, line by line; nothing where it is as it should be."""
    if verdict.state == BROKEN:
        yield from (f"    {text}" for text in verdict.problem.splitlines())
        return
    for missed in verdict.missed:
        yield f"    expected to fail: {missed}"
    if verdict.state == MISSED:
        yield f"    failed: {_killers(verdict)}"


def story(verdict: Verdict) -> Iterator[str]:
    """All about one mutant: the bug, the change, and every test that failed with what it said."""
    yield from description(verdict.mutant)
    yield ""
    for test in verdict.results.failed:
        mark = "expected" if verdict.mutant.expects(test) else "also"
        yield f"    {mark:8}  {test}"
        yield f"              {verdict.results.reasons.get(test, '')}"


def description(mutant: Mutant) -> Iterator[str]:
    """A mutant: the bug, the change, the platforms, and the tests that ought to notice."""
    yield f"{mutant.name}: {mutant.bug}"
    for change in mutant.changes:
        yield from (f"    {text}" for text in str(change).splitlines())
    yield f"    on {', '.join(mutant.platforms)}; ought to be killed by"
    yield from (f"        {killer}" for killer in mutant.killers)


def summary(verdicts: Iterable[Verdict]) -> str:
    """How many of what."""
    found = Counter(verdict.state for verdict in verdicts)
    return f"{found.total()} mutants: " + ", ".join(f"{count} {state}" for state, count in found.items())


def tables(verdicts: Mapping[str, Verdict]) -> str:
    """Every area with a table of its mutants, in Markdown."""
    parts = []
    for area, mutants in AREAS.items():
        rows = [_row(verdicts[mutant.name]) for mutant in mutants if mutant.name in verdicts]
        parts.append(f"## {area}\n\n| mutant | bug | platform | killed by |\n|---|---|---|---|\n" + "".join(rows))
    return "\n".join(parts)


def page(text: str, verdicts: Mapping[str, Verdict]) -> str:
    """The text of docs/mutants.md with its generated part made anew. ValueError where it has no such part."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables(verdicts)}\n{END}{after}"


def _row(verdict: Verdict) -> str:
    defects = f" ({', '.join(verdict.mutant.defects)})" if verdict.mutant.defects else ""
    killers = _killers(verdict, "`") if verdict.state == KILLED else f"**{verdict.state}**"
    cells = (f"`{verdict.mutant.name}`", verdict.mutant.bug + defects, ", ".join(verdict.mutant.platforms), killers)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _killers(verdict: Verdict, quote: str = "") -> str:
    """The first few tests, how many of each, and how many more; "or more" where the run ended before all had run."""
    found = verdict.killers
    shown = [
        f"{quote}{test}{quote}" + (f" ({count})" if count > 1 else "") for test, count in list(found.items())[:_SHOWN]
    ]
    more = found.total() - sum(list(found.values())[:_SHOWN])
    rest = f", {more}{' or more' if verdict.results.ended_early else ''} others" if more else ""
    return ", ".join(shown) + rest
