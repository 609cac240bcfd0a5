# SPDX-License-Identifier: GPL-2.0-only
"""The gate in the process that runs the tests: in a worker, under xdist. What is not as expected becomes a failure."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from pytest_kvm_sea import reasons
from pytest_kvm_sea.collection import target_of
from pytest_kvm_sea.gate.model import Known, Skip
from pytest_kvm_sea.gate.rules import Rules
from pytest_kvm_sea.gate.verdict import Tally, judge_pass, judge_skip, known_reason
from pytest_kvm_sea.gating.narrow import is_narrowed
from pytest_kvm_sea.gating.promises import PromiseItem, make_promises
from pytest_kvm_sea.gating.reports import fail
from pytest_kvm_sea.providers import probe_host
from pytest_kvm_sea.reports.record import Outcome, Record
from pytest_kvm_sea.targets import Target, target_id, targets

_KNOWN: pytest.StashKey[Known] = pytest.StashKey()
_CALLING: pytest.StashKey[bool] = pytest.StashKey()
"""Set while the test itself runs: reports that are made meanwhile are those of its subtests."""
_SUBTEST_FAILED: pytest.StashKey[bool] = pytest.StashKey()

UNEXPECTED = (
    "unexpected pass: the test is marked xfail and passed; take the mark away, or make it strict where the failure is "
    "still to be expected"
)


class Gate:
    """The pytest plugin."""

    def __init__(self, config: pytest.Config, path: Path, rules: Rules) -> None:
        self._config = config
        self._path = path
        self._rules = rules
        self._releases: dict[str, str] = {}
        self._skipped_files: list[str] = []
        self._used: set[Skip] = set()
        self._ran: set[str] = set()
        self._tally = Tally(rules.name, rules.given.at_least, rules.lines.get("at_least", 0))

    def tally(self) -> Tally:
        """What this process has seen."""
        self._tally.ran = len(self._ran)
        self._tally.unused = [self._rules.place(skip) for skip in self._rules.given.skips if skip not in self._used]
        return self._tally

    def judge_earlier(self, records: Iterable[Record]) -> None:
        """Count and judge what an earlier part of the run has left, which may have had no gate, as if it ran here."""
        ids = [target.id for target in targets(self._config)]
        by_id = {target.id: target for target in targets(self._config)}
        for record in records:
            if record.test.file != self._path.name:  # a promise
                self._judge_record(record, by_id.get(target_id(record.test.nodeid, ids) or ""))

    def _judge_record(self, record: Record, target: Target | None) -> None:
        nodeid, name = record.test.nodeid, target.id if target else None
        if record.outcome is Outcome.SKIP:
            problem = self._judge_skip(record.reason, nodeid, name)
        else:
            # With an error in its tear-down it has run as well.
            if record.phase in ("call", "teardown"):
                self._ran.add(nodeid)
            problem = self._judge_end(record, self._rules.known(nodeid, name, self._release(target)))
        if problem:
            self._tally.findings.append(f"{nodeid}: {problem}")

    def _judge_end(self, record: Record, known: Known | None) -> str:
        if known is not None and not self._config.getoption("runxfail"):
            self._tally.known += record.outcome is Outcome.XFAIL
            return judge_pass(self._rules, known) if record.outcome in (Outcome.PASS, Outcome.XPASS) else ""
        return UNEXPECTED if record.outcome is Outcome.XPASS else ""

    # Collection

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that is skipped as a whole has no test that could tell."""
        if report.skipped:
            self._skipped_files.append(report.nodeid)
            problem = self._judge_skip(reasons.of_skip(report), report.nodeid, None)
            if problem:
                self._tally.findings.append(f"{report.nodeid}: {problem}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Look at all tests before some are deselected, and add the promises afterwards, which never are."""
        chosen = targets(self._config)
        if not session.testsfailed and not is_narrowed(self._config):
            names = [*(item.nodeid for item in items), *self._skipped_files]
            problems = self._rules.unknown_tests(names, [target.id for target in chosen])
            if problems and names:  # of nothing at all there is more to say than of one entry
                raise pytest.UsageError(*problems)
        for item in items:
            self._mark_known(item)
        yield
        self._tally.notes += self._rules.idle([target.id for target in chosen])
        items[:0] = make_promises(session, self._path, self._rules, chosen)

    def _mark_known(self, item: pytest.Item) -> None:
        target = target_of(item)
        known = self._rules.known(item.nodeid, target.id if target else None, self._release(target))
        if known is not None:
            item.stash[_KNOWN] = known

    def _release(self, target: Target | None) -> str:
        if target is None:
            return ""
        if target.id not in self._releases:
            linux = target.host == "linux"
            release = probe_host(self._config, target).release if linux else target.load_platform().kernel.release
            self._releases[target.id] = release
        return self._releases[target.id]

    # The tests

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        item.stash[_CALLING] = True
        try:
            yield
        finally:
            item.stash[_CALLING] = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """First, so that what the others have made of the report is seen: xfail, unittest, subtests."""
        report = yield
        if isinstance(item, PromiseItem):
            self._tally.promises += report.when == "call"
        elif report.skipped and not hasattr(report, "wasxfail"):
            target = target_of(item)
            problem = self._judge_skip(reasons.of_skip(report), item.nodeid, target.id if target else None)
            if problem:
                fail(report, problem)
        elif report.when == "call":
            self._judge_call(item, call, report, subtest=item.stash.get(_CALLING, False))
        return report

    def _judge_skip(self, reason: str, nodeid: str, target: str | None) -> str:
        problem, allowing = judge_skip(self._rules, reason, nodeid, target)
        self._used.update(allowing)
        self._tally.skips += not problem
        return problem

    def _judge_call(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, *, subtest: bool
    ) -> None:
        known = item.stash.get(_KNOWN, None)
        if not subtest:
            self._ran.add(item.nodeid)
        if known is not None and not self._config.getoption("runxfail"):
            self._judge_known(item, call, report, known, subtest=subtest)
        elif report.passed and hasattr(report, "wasxfail"):
            reason = f"\nthe mark's reason: {report.wasxfail}" if report.wasxfail else ""
            fail(report, UNEXPECTED + reason)

    def _judge_known(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, known: Known, *, subtest: bool
    ) -> None:
        # Not pytest's own mark: that one covers errors of set-up and tear-down, and takes every subtest that passes
        # for a defect that is gone.
        failed = report.failed and call.excinfo is not None
        if subtest and failed:
            item.stash[_SUBTEST_FAILED] = True
        if failed or (not subtest and report.passed and item.stash.get(_SUBTEST_FAILED, False)):
            report.outcome = "skipped"
            report.wasxfail = known_reason(self._rules, known)
            self._tally.known += not subtest
        elif not subtest and not report.skipped:
            fail(report, judge_pass(self._rules, known))
