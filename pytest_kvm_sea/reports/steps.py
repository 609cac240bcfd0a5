# SPDX-License-Identifier: GPL-2.0-only
"""From the events of a story to the rows of its picture: a loop is one round, and what is too much is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from pytest_kvm_sea.reports.story import Event, Lane

LANES = tuple(lane.value for lane in Lane)
ROUTINE = frozenset({"setup", "run"})
"""Kinds that a picture of what passed does without."""
_LONGEST_PERIOD = 6
"""KVM_RUN, exit, ucall, its answer: and some more."""
_FEWEST_ROUNDS = 3
_NUMBER = re.compile(r"\b0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture."""

    event: Event | None
    """None: ``left_out`` steps are not drawn here."""
    rounds: int = 1
    """How often this row and the ``period`` - 1 after it happened in turn; what is drawn is the first round."""
    period: int = 0
    """Rows of the loop that starts here; 0: none starts."""
    left_out: int = 0


def read(story: Mapping[str, Any]) -> list[Event]:
    """The events of a story in its JSON form."""
    return [
        Event(
            float(event.get("time", 0)),
            str(event.get("lane", "")),
            str(event.get("to", "")),
            str(event.get("title", "")),
            tuple((str(name), str(value)) for name, value in event.get("facts", ())),
            str(event.get("kind", "")),
        )
        for event in story.get("events", ())
    ]


def lane(name: str) -> int:
    """The place of a lane in the picture, from the left. What nobody knows is put down to the VMM, which told it."""
    return LANES.index(name) if name in LANES else len(LANES) - 1


def rows(events: Sequence[Event], most: int) -> list[Row]:
    """What to draw, in order: loops as one round, and not more than ``most`` + 1 rows."""
    drawn = _rolled_up(events)
    if len(drawn) <= most:
        return drawn
    head = most // 4
    # A loop that the cut goes through is not drawn as one: a part of its round would be taken for all of it.
    kept = [row if row.period <= head - index else Row(row.event) for index, row in enumerate(drawn[:head])]
    tail = drawn[len(drawn) - (most - head) :]
    return [*kept, Row(None, left_out=len(events) - _steps(kept) - _steps(tail)), *tail]


def essential(events: Sequence[Event]) -> list[Event]:
    """What a test that passed is about: neither its set-up nor the way in and out of the guest; and of steps that are
    alike, in a row, only the one that counts."""
    told = [(_sort(event, number), event) for number, event in enumerate(events) if event.kind not in ROUTINE]
    found: list[Event] = []
    for _, group in groupby(told, lambda item: item[0]):
        alike = [event for _, event in group]
        # EINJ's other files only prepare this one.
        chosen = next((event for event in alike if "error_inject" in event.title), alike[0])
        more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
        found.append(replace(chosen, title=f"{chosen.title}{more}"))
    return found


def _sort(event: Event, number: int) -> object:
    """What makes steps alike to whoever wants the essence: EINJ's files are one thing."""
    return (event.lane, event.to) if event.kind == "einj" else _key(event, number)


def _rolled_up(events: Sequence[Event]) -> list[Row]:
    keys = [_key(event, number) for number, event in enumerate(events)]
    found: list[Row] = []
    at = 0
    while at < len(events):
        period, rounds = _loop(keys, at)
        first, *others = events[at : at + period]
        found.append(Row(first, rounds, period) if rounds > 1 else Row(first))
        found += map(Row, others)
        at += period * rounds
    return found


def _key(event: Event, number: int) -> object:
    """What makes two events the same step of a loop: all but numbers in the title, the facts and the time. An error is
    told each time."""
    if event.kind == "error":
        return number
    return event.lane, event.to, event.kind, _NUMBER.sub("#", event.title)


def _loop(keys: Sequence[object], at: int) -> tuple[int, int]:
    """The period with which events repeat from ``at`` on, and how many rounds there are; the one that covers most."""
    best = (1, 1)
    for period in range(1, _LONGEST_PERIOD + 1):
        rounds = 1
        first = keys[at : at + period]
        while len(first) == period and keys[at + rounds * period : at + (rounds + 1) * period] == first:
            rounds += 1
        if rounds >= _FEWEST_ROUNDS and rounds * period > best[0] * best[1]:
            best = (period, rounds)
    return best


def _steps(drawn: Sequence[Row]) -> int:
    """How many events these rows stand for."""
    return sum(1 + row.period * (row.rounds - 1) for row in drawn)
