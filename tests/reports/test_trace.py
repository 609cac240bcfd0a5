# SPDX-License-Identifier: GPL-2.0-only
"""The recorder: bounded, in order, from several threads."""

from __future__ import annotations

import threading

from pytest_kvm_sea.reports.trace import FIRST, LAST, NO_TRACE, PLACES, Addresses, Step, Trace


def test_a_long_trace_keeps_its_ends_and_counts_the_rest() -> None:
    trace = Trace()
    count = FIRST + LAST + 1000
    for number in range(count):
        trace.add(Step.RUN, None, number)
    kept = [record.values[0] for record in trace.records()]
    assert kept == [*range(FIRST), *range(count - LAST, count)]
    assert trace.dropped == range(FIRST, count - LAST)
    assert [record.time for record in trace.records()] == sorted(record.time for record in trace.records())


def test_a_short_one_drops_nothing() -> None:
    trace = Trace()
    for _ in range(FIRST + LAST):
        trace.add(Step.RUN, None)
    assert len(trace.dropped) == 0
    assert len(trace.records()) == FIRST + LAST


def test_places_are_bounded_and_broken_memory_is_not() -> None:
    trace = Trace()
    for number in range(10 * PLACES):
        trace.place(hva=number, hpa=number + 1)
        trace.broke(hpa=number)
    assert trace.places[0] == Addresses(hva=0, hpa=1)
    assert len(trace.places) == PLACES
    assert len(trace.broken) == 10 * PLACES


def test_threads_do_not_lose_steps() -> None:
    trace = Trace()
    each, threads = LAST, 8

    def work(number: int) -> None:
        for _ in range(each):
            trace.add(Step.RUN, None, number)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    records = trace.records()
    assert len(records) + len(trace.dropped) == each * threads
    assert len({record.number for record in records}) == len(records)


def test_without_a_trace_nothing_is_kept() -> None:
    NO_TRACE.add(Step.RUN, None)
    NO_TRACE.place(gva=1)
    NO_TRACE.broke(hva=1)
    assert not NO_TRACE.records()
    assert not NO_TRACE.places
    assert not NO_TRACE.broken
    assert Trace.enabled
    assert not NO_TRACE.enabled
