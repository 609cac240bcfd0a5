# SPDX-License-Identifier: GPL-2.0-only
"""What KTAP says at the end of a run: of tests without a result, and of what went wrong outside of all tests.

No parser may read a run that broke as one that passed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pytest_kvm_sea.reports import ktap_text
from pytest_kvm_sea.reports.ktap_lines import Block, Style, of_run
from pytest_kvm_sea.reports.ktap_plan import Slot
from pytest_kvm_sea.reports.record import Outcome, Record, RunEnd, TestId

RUN = "run"
"""The name of the only line of a run that broke before anything was planned."""
NOT_RUN = "[not-run]"
_OK, _NO_TESTS = 0, 5
"""Exit statuses of pytest."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A run that is over."""

    run: RunEnd
    planned: bool
    """Whether there was anything to do."""
    failed: bool
    """Whether any test has."""
    running: Collection[TestId]
    """Tests that began and did not end."""
    strays: Sequence[TestId]
    """Tests that nobody planned, and that failed."""

    @property
    def why(self) -> str:
        """Why tests have no result. Without what xdist alone puts before it."""
        if not self.run.stopped:
            good = self.run.exit_status in (_OK, _NO_TESTS)
            return "no result came" if good else f"pytest ended with status {self.run.exit_status}"
        return self.run.stopped if self.run.broken else self.run.stopped.removeprefix("interrupted: ")

    @property
    def problem(self) -> str:
        """What is wrong with the run as a whole, or nothing."""
        nothing_else = not self.planned and not self.run.findings
        broke = self.run.broken or (nothing_else and self.run.exit_status not in (_OK, _NO_TESTS))
        parts = [f"the run broke: {self.why}"] if broke else []
        if self.strays:
            parts.append(f"tests that were not planned failed: {', '.join(map(str, self.strays))}")
        return "; ".join([*parts, *self.run.findings])

    def no_result(self, slot: Slot, style: Style) -> Block:
        """The line of a test that has none."""
        # Where nothing failed and pytest is not content all the same, a skip would make the file green.
        on_purpose = self.failed or self.run.exit_status == _OK
        if self.run.stopped and not self.run.broken and on_purpose:
            return of_run(slot.number, slot.name, Outcome.SKIP, f"{NOT_RUN} {self.why}", style)
        how = "unfinished" if slot.test in self.running else "not run"
        return of_run(slot.number, slot.name, Outcome.ERROR, f"{how}: {self.why}", style)

    def of_whole(self, slot: Slot, style: Style) -> Block:
        """The line of the run as a whole."""
        if not self.problem:
            return of_run(slot.number, slot.name, Outcome.PASS, "", style)
        said = [ktap_text.comment(f"finding: {finding}") for finding in self.run.findings]
        return of_run(slot.number, slot.name, Outcome.ERROR, self.problem, style, lines=said)

    def spoilt(self, slot: Slot, block: Block, style: Style) -> Block:
        """The last line of all that were good: it has to tell of what came after it."""
        *before, line = block.lines
        said = [*before, ktap_text.comment(f"the test ended so: {line}"), ktap_text.comment(self.problem)]
        return of_run(slot.number, slot.name, Outcome.ERROR, self.problem, style, lines=said)


class Hosts:
    """Which of the planned hosts (`--dist each`) a result belongs to: xdist replaces a worker that crashed."""

    def __init__(self, tests: Collection[TestId]) -> None:
        self._known = {test.host: test.host for test in tests}
        self._crashed: list[str] = []

    def planned(self, record: Record) -> TestId:
        """The test as it was planned."""
        test = record.test
        if test.host not in self._known and self._crashed:
            self._known[test.host] = self._crashed.pop(0)
        host = self._known.get(test.host, test.host)
        if record.phase == "crash":
            self._crashed.append(host)
        return TestId(test.nodeid, host)
