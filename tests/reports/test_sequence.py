# SPDX-License-Identifier: GPL-2.0-only
"""The layout of the picture of a test, and which events get into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.reports import steps
from pytest_kvm_sea.reports.sequence import (
    FACTS,
    GUTTER,
    HEAD,
    LANES_END,
    WIDTH,
    Gap,
    Label,
    Picture,
    Step,
    lay_out,
    line_of,
    wrap,
)
from pytest_kvm_sea.reports.steps import LANES, Row, essential, rows
from pytest_kvm_sea.reports.story import Event
from tests.reports.page_stories import events as realistic

Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""
WORDS = st.text(max_size=90) | st.text("aA_0 漢", max_size=90)
KINDS = st.sampled_from(["setup", "run", "exit", "ucall", "sea", "einj", "error", ""])
EVENTS = st.builds(
    Event,
    time=st.floats(0, 20),
    lane=st.sampled_from(LANES),
    to=st.sampled_from(LANES),
    title=WORDS,
    facts=st.lists(st.tuples(WORDS, WORDS), max_size=4).map(tuple),
    kind=KINDS,
)
FEW_KINDS = st.builds(
    Event, st.just(0.0), st.just("vmm"), st.sampled_from(["kvm", "vmm"]), st.sampled_from("ab"), st.just(()), KINDS
)
"""Events of which many are the same."""


def areas(picture: Picture) -> list[Area]:
    """Of everything that is drawn, but for the shafts of arrows, which may cross life lines, and brackets."""
    found: list[Area] = []
    for step in picture.steps:
        if isinstance(step, Gap):
            found.append(step.label.area)
            continue
        found.append(step.facts.area)
        if step.box is None:
            found.append(step.title.area)
            found.append((min(step.start, step.stop), step.y - 1, max(step.start, step.stop), step.y + 1))
        else:
            x, y, width, height = step.box
            found.append((x, y, x + width, y + height))
    return [one for one in found if one[0] < one[2] and one[1] < one[3]]


@given(st.lists(EVENTS, max_size=12))
def test_nothing_overlaps_and_all_is_on_the_canvas(events: Sequence[Event]) -> None:
    picture = lay_out(rows(events, 120))
    found = areas(picture)
    for left, top, right, bottom in found:
        assert 0 <= left <= right <= WIDTH
        assert HEAD <= top <= bottom <= picture.height
    for one, other in combinations(found, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


@given(st.lists(EVENTS, max_size=12))
def test_order_is_kept_from_top_to_bottom(events: Sequence[Event]) -> None:
    drawn = rows(events, 120)
    picture = lay_out(drawn)
    assert all(one.top < one.bottom <= other.top for one, other in pairwise([*picture.steps, *picture.steps[-1:]][:-1]))
    assert [step.event for step in picture.steps if isinstance(step, Step)] == [row.event for row in drawn if row.event]
    for step in picture.steps:
        assert isinstance(step, Step)
        assert step.top <= step.y <= step.bottom
        assert (step.start, step.stop) == (line_of(LANES.index(step.event.lane)), line_of(LANES.index(step.event.to)))


@given(EVENTS)
def test_a_box_holds_its_title_and_stays_in_the_lanes(event: Event) -> None:
    (step,) = lay_out([Row(replace(event, to=event.lane))]).steps
    assert isinstance(step, Step)
    assert step.box is not None
    x, y, width, height = step.box
    left, top, right, bottom = step.title.area
    assert x <= left <= right <= x + width
    assert y <= top <= bottom <= y + height
    assert GUTTER <= x <= x + width <= LANES_END
    assert x < step.start < x + width


@given(WORDS, st.integers(1, 60))
def test_wrapping_loses_nothing_and_ends_in_time(text: str, letters: int) -> None:
    lines = wrap(text, letters)
    assert "".join(lines) == text
    # A wide character takes two letters, also where only one would fit.
    assert all(Label(0, 0, [line]).area[2] <= 7.3 * max(letters, 2) + 0.01 for line in lines)
    if text.isascii():
        assert len(lines) <= 2 * (len(text) // letters) + 1


def test_a_long_title_and_a_long_fact_are_read_in_full_beside_the_arrow() -> None:
    title, fact = "KVM_SET_ONE_REG of " + "x" * 200, "0x" + "f" * 400
    (step,) = lay_out([Row(Event(0, "vmm", "kvm", title, (("value", fact),)))]).steps
    assert isinstance(step, Step)
    assert len("".join(step.title.lines)) <= 60
    assert "".join(step.facts.lines) == f"{title}value {fact}"
    assert step.facts.x == FACTS


# Which events


@given(st.lists(FEW_KINDS, max_size=60), st.integers(4, 40))
def test_every_event_is_drawn_counted_or_said_to_be_left_out(events: Sequence[Event], most: int) -> None:
    drawn = rows(events, most)
    assert len(drawn) <= most + 1
    assert sum(row.left_out if row.event is None else 1 + row.period * (row.rounds - 1) for row in drawn) == len(events)
    told = [row.event for row in drawn if row.event]
    later = iter(events)
    assert all(any(event is one for one in later) for event in told), "out of order"
    for index, row in enumerate(drawn):
        assert row.period == 0 or (row.rounds >= 3 and index + row.period <= len(drawn))


@pytest.mark.parametrize("period", [1, 2, 3, 6])
def test_what_repeats_is_drawn_once(period: int) -> None:
    before, after = Event(0, "vmm", "vmm", "before"), Event(9, "vmm", "vmm", "after")
    kinds = "abcdef"
    loop = [Event(1, "guest", "vmm", f"{kinds[n % period]} SYNC({n})") for n in range(12 * period)]
    drawn = rows([before, *loop, after], 120)
    assert drawn == [Row(before), Row(loop[0], 12, period), *map(Row, loop[1:period]), Row(after)]
    (bracket,) = lay_out(drawn).loops
    placed = lay_out(drawn).steps
    assert (bracket.top, bracket.bottom, bracket.rounds) == (placed[1].top, placed[period].bottom, 12)


def test_errors_are_never_rolled_up() -> None:
    errors = [Event(n, "vmm", "vmm", "it went wrong", kind="error") for n in range(9)]
    assert [row.event for row in rows(errors, 120)] == errors
    assert essential(errors) == errors


def test_two_hundred_events_of_all_sorts_are_cut_in_the_middle() -> None:
    events = [Event(n, "guest", "kvm", "x" * n) for n in range(200)]
    drawn = rows(events, 120)
    assert [row.event for row in drawn[:30]] == events[:30]
    assert drawn[30] == Row(None, left_out=80)
    assert [row.event for row in drawn[31:]] == events[110:]
    gap = lay_out(drawn).steps[30]
    assert isinstance(gap, Gap)
    assert gap.label.lines == ("80 more steps",)


def test_the_essence_of_a_test_that_passed() -> None:
    told = [event.title for event in essential(realistic()[:-2])]
    assert told == [
        "echo 1 > error_inject (and 6 more)",
        "EINJ executes",
        "ucall SYNC(1)",
        "loads from the cell",
        "SEA, taken to EL2",
        "APEI claims nothing",
        "KVM_EXIT_ARM_SEA",
        "KVM_SET_VCPU_EVENTS",
        "abort",
        "vector, current EL with SP_ELx",
        "ucall PRINTF",
    ]


def test_a_lane_that_nobody_knows_is_the_vmm() -> None:
    (event,) = steps.read({"events": [{"lane": "martian", "to": "guest", "title": "x"}]})
    (step,) = lay_out([Row(event)]).steps
    assert isinstance(step, Step)
    assert (step.start, step.stop) == (line_of(LANES.index("vmm")), line_of(0))
