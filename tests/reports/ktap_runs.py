# SPDX-License-Identifier: GPL-2.0-only
"""Runs of made-up tests, and what a sink writes of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytest_kvm_sea.reports.ktap import Ktap
from pytest_kvm_sea.reports.ktap_lines import STYLES
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId

START = RunStart(time=0.0, version="1.2", host="sim")
GOOD = RunEnd(time=1.0, exit_status=0)


class Memory(io.RawIOBase):
    """A file that takes a few bytes at a time."""

    def __init__(self) -> None:
        self.data = b""
        self.writes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes += 1
        self.data += bytes(data)[:4096]
        return min(len(data), 4096)

    @property
    def text(self) -> str:
        return self.data.decode()


def ident(test: str | TestId) -> TestId:
    return TestId(test) if isinstance(test, str) else test


def record(test: str | TestId, outcome: Outcome = Outcome.PASS, **more: Any) -> Record:
    return Record(ident(test), outcome, **more)


def write(
    tests: Iterable[str | TestId],
    records: Iterable[Record],
    end: RunEnd = GOOD,
    errors: Sequence[CollectionError] = (),
    mode: str = "nested",
    seen: Callable[[str], None] = lambda _text: None,
    **more: Any,
) -> str:
    """The file of a run; ``seen`` is given what is in it after each test."""
    out = Memory()
    sink = Ktap(out, STYLES[mode], **more)
    sink.start(START)
    sink.planned([ident(test) for test in tests], errors)
    for one in records:
        sink.started(one.test)
        sink.finished(one)
        seen(out.text)
    sink.end(end)
    assert out.closed
    return out.text
