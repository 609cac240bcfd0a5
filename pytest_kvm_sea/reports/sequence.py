# SPDX-License-Identifier: GPL-2.0-only
"""The layout of the picture of a test: rows of events to shapes with places, in pixels. Draws nothing itself.

Four life lines stand side by side, time runs down. Each event has a row: an arrow from one line to another with its
title above it, or a box on its own line; its kind is at the left of the lines, its facts are at the right. The letters
are of one width, so that the layout knows how long a text is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import east_asian_width

from pytest_kvm_sea.reports.markup import cut, one_line
from pytest_kvm_sea.reports.steps import LANES, Row, lane
from pytest_kvm_sea.reports.story import Event

FONT = 12
ADVANCE = 7.3
"""Width of a letter. Monospaced fonts have 0.55 to 0.61 of their size."""
LINE = 15
GUTTER = 76
"""Left of the lanes, for the kind of an event and its time."""
LANE = 140
"""From one life line to the next."""
HEAD = 34
"""The names of the lanes."""
LANES_END = GUTTER + LANE * len(LANES)
LOOPS = 46
"""Between the lanes and the facts, for brackets around what is repeated."""
FACTS = LANES_END + LOOPS + 8
WIDTH = 1060
_PAD = 5
_TIP = 9
"""From the arrow to the row's end."""
_FACT_LETTERS = int((WIDTH - FACTS) / ADVANCE)
_BOX_LETTERS = int((LANE - 16) / ADVANCE)
LONGEST_TITLE = 60
"""Letters. A longer title is cut above the arrow, and stands in full before the facts."""
LONGEST_FACT = 2000
SEPARATOR = " · "


class Label(NamedTuple):
    """Lines of text."""

    x: float
    y: float
    """Base line of the first; `LINE` from one to the next."""
    lines: Sequence[str]
    anchor: str = "start"

    @property
    def area(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        wide = max((width(line) for line in self.lines), default=0)
        left = self.x - {"start": 0, "middle": wide / 2, "end": wide}[self.anchor]
        return left, self.y - FONT, left + wide, self.y - FONT + LINE * len(self.lines)


@dataclass(frozen=True, slots=True)
class Step:
    """An event in its place."""

    event: Event
    top: float
    bottom: float
    start: float
    """x of the life line that acts."""
    stop: float
    """x of the one that is acted on; the same for a box."""
    y: float
    """Of the arrow."""
    box: tuple[float, float, float, float] | None
    """x, y, width, height, where it is no arrow."""
    title: Label
    facts: Label


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where steps are left out."""

    top: float
    bottom: float
    label: Label


@dataclass(frozen=True, slots=True)
class Loop:
    """A bracket around what happened several times."""

    top: float
    bottom: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All shapes, from top to bottom."""

    height: float
    steps: Sequence[Step | Gap]
    loops: Sequence[Loop]
    width: float = WIDTH


def line_of(index: int) -> float:
    """x of a life line."""
    return GUTTER + LANE * index + LANE // 2


def width(text: str) -> float:
    """Of one line of text, in pixels."""
    return ADVANCE * _letters(text)


def _letters(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_letter, text))


def _letter(character: str) -> int:
    return 2 if east_asian_width(character) in "WF" else 1


def lay_out(rows: Sequence[Row]) -> Picture:
    """Give every row its place."""
    y: float = HEAD + _PAD
    placed: list[Step | Gap] = []
    for row in rows:
        step = _gap(row.left_out, y) if row.event is None else _step(row.event, y)
        placed.append(step)
        y = step.bottom
    loops = [
        Loop(step.top, placed[index + row.period - 1].bottom, row.rounds)
        for index, (row, step) in enumerate(zip(rows, placed, strict=True))
        if row.period
    ]
    return Picture(y + _PAD, placed, loops)


def _gap(count: int, top: float) -> Gap:
    text = f"{count} more step{'' if count == 1 else 's'}"
    return Gap(top, top + 2 * LINE, Label((GUTTER + LANES_END) / 2, top + LINE + 4, (text,), "middle"))


def _step(event: Event, top: float) -> Step:
    start, stop = lane(event.lane), lane(event.to)
    title, facts = one_line(event.title), _facts(event)
    if len(title) > LONGEST_TITLE:
        facts = [*wrap(title, _FACT_LETTERS), *facts]
        title = f"{title[: LONGEST_TITLE - 1]}…"
    if start == stop:
        return _box(event, top, line_of(start), wrap(title, _BOX_LETTERS), facts)
    return _arrow(event, top, (line_of(start), line_of(stop)), title, facts)


def _arrow(event: Event, top: float, ends: tuple[float, float], title: str, facts: Sequence[str]) -> Step:
    lines = wrap(title, int((abs(ends[1] - ends[0]) - 12) / ADVANCE))
    label = Label(sum(ends) / 2, top + _PAD + FONT, lines, "middle")
    y = label.area[3] + 4
    bottom = _bottom(top, y + _TIP, facts)
    return Step(event, top, bottom, *ends, y, None, label, _beside(top, facts))


def _box(event: Event, top: float, x: float, lines: Sequence[str], facts: Sequence[str]) -> Step:
    wide = max(4 * ADVANCE, *map(width, lines)) + 12
    high = LINE * len(lines) + 6
    box = (x - wide / 2, top + _PAD, wide, high)
    label = Label(x, top + _PAD + FONT + 3, lines, "middle")
    bottom = _bottom(top, top + _PAD + high + _PAD, facts)
    return Step(event, top, bottom, x, x, top + _PAD + high / 2, box, label, _beside(top, facts))


def _bottom(top: float, least: float, facts: Sequence[str]) -> float:
    """Two lines at the left, of the kind and the time, have room too."""
    return max(least, top + _PAD + LINE * max(2, len(facts)) + _PAD)


def _beside(top: float, facts: Sequence[str]) -> Label:
    return Label(FACTS, top + _PAD + FONT, facts)


def _facts(event: Event) -> list[str]:
    """Names and values, as many on a line as fit; a long one is wrapped."""
    lines: list[str] = []
    for name, value in event.facts:
        fact = one_line(" ".join("".join(cut(text, LONGEST_FACT)) for text in (name, value) if text))
        if lines and _letters(lines[-1]) + len(SEPARATOR) + _letters(fact) <= _FACT_LETTERS:
            lines[-1] += SEPARATOR + fact
        else:
            lines += wrap(fact, _FACT_LETTERS)
    return lines


def wrap(text: str, letters: int) -> list[str]:
    """Lines of at most so many letters; nothing of the text is lost, spaces stay at the ends of lines. One at least."""
    lines: list[str] = []
    while _letters(text) > letters:
        end = _fitting(text, letters)
        # A word that is longer than most of a line is broken itself, rather than that the line stays empty.
        space = max(text.rfind(after, 0, end) for after in " _,/")
        at = space + 1 if space >= end // 3 else end
        lines.append(text[:at])
        text = text[at:]
    return [*lines, text]


def _fitting(text: Iterable[str], letters: int) -> int:
    """How many characters from the start of a text fit; at least one."""
    used = 0
    for index, character in enumerate(text):
        used += _letter(character)
        if used > letters:
            return max(index, 1)
    raise AssertionError("the text fits")
