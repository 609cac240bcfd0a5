# SPDX-License-Identifier: GPL-2.0-only
"""A run as KTAP, written test by test: what is on disk is at any time the beginning of the whole.

Tests come in the order of collection, grouped by file. A result that arrives before its turn waits, so that the file is
the same however many processes ran the tests. The last line of result waits for the end of the run: a run that breaks
after its last test must not look like one that did not.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
from collections import Counter, deque
from collections.abc import Callable, Sequence

from pytest_kvm_sea.reports import ktap_lines, ktap_text
from pytest_kvm_sea.reports.ktap_end import RUN, Ending, Hosts
from pytest_kvm_sea.reports.ktap_lines import Block, Style, indented
from pytest_kvm_sea.reports.ktap_plan import Closing, Group, Opening, Slot, flat_plan, nested_plan, steps
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId


class Ktap:
    """The sink for KTAP."""

    def __init__(
        self,
        out: io.RawIOBase,
        style: Style,
        *,
        header: bool = True,
        file_name: Callable[[str], str] = str,
        gate: bool = False,
    ) -> None:
        """``out`` is closed at the end.

        ``header``: whether the file begins with the version. ``file_name``: the name of a file, from its path in node
        ids. ``gate``: whether a line is for what `RunEnd.findings` says.
        """
        self._out = out
        self._style = style
        self._header = header
        self._file_name = file_name
        self._has_gate = gate
        self._about = ""
        self._durable = False
        self._steps: deque[Opening | Slot | Closing] = deque()
        self._last: Slot | None = None
        self._top = Group("")
        self._slots: dict[TestId, deque[Slot]] = {}
        """Where results go; more than one for a test that was collected more than once."""
        self._blocks: dict[Slot, Block] = {}
        """Results that wait for their turn."""
        self._outcomes: list[list[Outcome]] = [[]]
        """Of the children so far, of every group that is open."""
        self._totals: Counter[Outcome] = Counter()
        self._running: set[TestId] = set()
        self._hosts = Hosts(())
        self._failed = False
        """Whether any test has."""
        self._strays: list[TestId] = []
        """Tests that nobody planned, and that failed."""

    # The run

    def start(self, run: RunStart) -> None:
        # A host whose memory is broken on purpose may reset in the next test, and then lose what it has not written.
        self._durable = run.host != "sim" and _is_on_disk(self._out)
        self._about = f"# pytest-kvm-sea {run.version}, {'simulated host' if run.host == 'sim' else 'real host'}"
        if self._header:
            self._write([self._style.header])

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        self._hosts = Hosts(tests)
        if not tests and not errors:
            return  # whether nothing was selected or the collection broke is known at the end
        make = nested_plan if self._style.is_nested else flat_plan
        self._plan(make(tests, errors, self._file_name, gate=self._has_gate))
        self._write([*self._beginning(), *self._ready()])

    def started(self, test: TestId) -> None:
        self._running.add(test)

    def finished(self, record: Record) -> None:
        test = self._hosts.planned(record)
        self._running.discard(test)
        slots = self._slots.get(test)
        self._failed |= record.outcome.is_bad
        if not slots:
            self._strays += [test] if record.outcome.is_bad else []
            return
        slot = slots.popleft()
        self._blocks[slot] = ktap_lines.of_record(slot.number, slot.name, record, self._style)
        self._write(self._ready())

    def end(self, run: RunEnd) -> None:
        ending = Ending(run, bool(self._steps), self._failed, self._running, self._strays)
        if not self._steps:
            if not ending.problem:
                self._finish(["1..0 # SKIP no test was selected", self._about])
                return
            self._plan(Group("", [Slot(RUN, number=1)]))
            self._write(self._beginning())
        missing = [slot for slots in self._slots.values() for slot in slots]
        for slot in missing:
            self._blocks[slot] = ending.no_result(slot, self._style)
        self._end_last(ending)
        lines = self._ready(everything=True)
        if missing:
            lines.append(ktap_text.comment(f"tests without a result: {len(missing)} ({ending.why})"))
        self._finish([*lines, ktap_lines.totals(self._totals)])

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._out.close()

    # The plan

    def _plan(self, top: Group) -> None:
        self._top = top
        self._steps.extend(steps(top))
        for step in self._steps:
            if isinstance(step, Slot):
                self._last = step
                if step.error is not None:
                    self._blocks[step] = ktap_lines.of_error(step.number, step.name, step.error, self._style)
                if step.test is not None:
                    self._slots.setdefault(step.test, deque()).append(step)

    def _beginning(self) -> list[str]:
        return [f"1..{len(self._top.children)}", self._about]

    # What can be written

    def _ready(self, *, everything: bool = False) -> list[str]:
        """The lines up to the first result that is missing, and without the last one until it is asked for."""
        lines: list[str] = []
        while self._steps:
            step = self._steps[0]
            if isinstance(step, Slot):
                if step not in self._blocks or (step is self._last and not everything):
                    break
                block = self._blocks.pop(step)
                self._totals[block.outcome] += 1
                lines += self._result(block, step.depth)
            elif isinstance(step, Opening):
                self._outcomes.append([])
                group = step.group
                lines += indented(ktap_lines.opening(group.name, len(group.children)), group.depth + 1)
            else:
                group = step.group
                block = ktap_lines.of_group(group.number, group.name, self._outcomes.pop(), self._style)
                lines += self._result(block, group.depth)
            self._steps.popleft()
        return lines

    def _result(self, block: Block, depth: int) -> list[str]:
        self._outcomes[-1].append(block.outcome)
        return list(indented(block.lines, depth))

    def _end_last(self, ending: Ending) -> None:
        """The line that waited: that of the run as a whole, or one that must tell what nothing else tells."""
        last = self._last
        assert last is not None
        if last.test is None and last.error is None:
            self._blocks[last] = ending.of_whole(last, self._style)
        elif ending.problem and not self._is_red:
            self._blocks[last] = ending.spoilt(last, self._blocks[last], self._style)

    @property
    def _is_red(self) -> bool:
        outcomes = {*self._totals, *(block.outcome for block in self._blocks.values())}
        return any(outcome.is_bad for outcome in outcomes)

    # The file

    def _finish(self, lines: Sequence[str]) -> None:
        self._write(lines)
        self._out.close()

    def _write(self, lines: Sequence[str]) -> None:
        data = memoryview("".join(f"{line}\n" for line in lines).encode("ascii"))
        if not data:
            return
        while data:
            written = self._out.write(data)
            if written is None:  # a pipe that somebody has made non-blocking, and that is full
                select.select([], [self._out], [])
            else:
                data = data[written:]
        if self._durable:
            os.fsync(self._out.fileno())


def _is_on_disk(out: io.RawIOBase) -> bool:
    try:
        return stat.S_ISREG(os.fstat(out.fileno()).st_mode)
    except io.UnsupportedOperation:
        return False
