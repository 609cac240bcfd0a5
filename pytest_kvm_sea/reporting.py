# SPDX-License-Identifier: GPL-2.0-only
"""From pytest's reports to the records of `reports`, and to everything that reads them.

Registered as a plugin only where something is to be written, and never in a worker of xdist: the controller gets the
reports of all.
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest

from pytest_kvm_sea import reasons, resume
from pytest_kvm_sea.command_line import each_host
from pytest_kvm_sea.options import settings
from pytest_kvm_sea.outputs import Output, make_outputs
from pytest_kvm_sea.reports.record import (
    CollectionError,
    Outcome,
    Record,
    RunEnd,
    RunStart,
    Sink,
    Subtest,
    TestId,
)
from pytest_kvm_sea.resume import Resume
from pytest_kvm_sea.targets import properties_of, targets

REPORTING = "kvm-sea-reporting"
"""The name of the plugin; `plugin` has it too, and must not import this module."""
PAYLOAD = "kvm_sea"
"""The attribute of a report that the plugin hangs what it knows of a test on; JSON, so that it leaves a worker."""
_SECTIONS = ("Captured stdout", "Captured stderr", "Captured log")
_NO_RUN = ("collectonly", "help", "version", "markers", "showfixtures", "show_fixtures_per_test")
"""What pytest does in place of a run."""
_WHEN = {"setup": "setup", "call": "call", "teardown": "teardown"}


class Reporting:
    """The pytest plugin that feeds the sinks of one run."""

    def __init__(
        self, config: pytest.Config, outputs: Sequence[Output], now: RunStart, resume: Resume | None = None
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._start = resume.earlier.start if resume else now
        self._targets = now.targets
        self._resume = resume
        self._each = each_host(config)
        self._planned: list[TestId] = []
        self._is_planned = False
        self._errors: dict[tuple[str, str], CollectionError] = {}
        self._hosts: list[tuple[object, str]] = []
        self._pending: dict[TestId, list[pytest.TestReport]] = {}
        self._subtests: dict[TestId, list[Subtest]] = {}
        self._stopped = ""
        self._broken = False
        self._told = False

    def _send(self, after: str, call: Callable[[Sink], None]) -> None:
        for output in self._outputs:
            output(after, call)

    # The run

    def pytest_sessionstart(self) -> None:
        self._send("the first test", lambda sink: sink.start(self._start))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            # Workers may have errors of their own in one file.
            key = report.nodeid, report.longreprtext
            self._errors[key] = CollectionError(report.nodeid, _message(report), report.longreprtext)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # The controller of xdist collects nothing itself.
        self._planned += [TestId(item.nodeid) for item in session.items]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        host = self._host(node)
        known = set(self._planned)
        self._planned += [test for nodeid in ids if (test := TestId(nodeid, host)) not in known]

    def _host(self, node: Any) -> str:
        """The gateway's id where each is a host of its own; of one that went down, also for the one in its place."""
        if not self._each or node is None:
            return ""
        spec = node.gateway.spec  # the same object for both; equal ones are different hosts
        for known, name in self._hosts:
            if known is spec:
                return name
        name = str(node.gateway.id)
        self._hosts.append((spec, name))
        return name

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            tests, errors = tuple(self._planned), tuple(self._errors.values())
            if self._resume is not None:
                tests, errors = self._resume.planned(tests, errors)
            self._send("the first test", lambda sink: sink.planned(tests, errors))
            for record in self._resume.records if self._resume else ():
                self._send(str(record.test), lambda sink, record=record: sink.finished(record))  # type: ignore[misc]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._resume is not None and not self._is_planned:  # a run in which no test begins runs none again
            self._resume.run_again(self._planned)
        self._plan()
        if not self._each:
            self._send(nodeid, lambda sink: sink.started(TestId(nodeid)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._plan()
        node = getattr(report, "node", None)
        worker = node.gateway.id if node is not None else ""
        test = TestId(report.nodeid, self._host(node))
        if hasattr(report, "context"):
            self._subtests.setdefault(test, []).append(_subtest(report))
            return
        phases = self._pending.setdefault(test, [])
        if report.when == "setup":
            phases.clear()  # what is left of a try that is run again
        phases.append(report)
        # "???" is xdist's, of a worker that is gone; "rerun" that of pytest-rerunfailures, and another try follows.
        if str(report.when) in ("teardown", "???") and "rerun" not in {str(phase.outcome) for phase in phases}:
            del self._pending[test]
            record = make_record(test, phases, self._subtests.pop(test, ()), worker)
            if record.phase == "crash":  # xdist's report knows nothing of the test
                record = replace(record, properties=properties_of(test.nodeid, self._targets))
            self._send(str(test), lambda sink: sink.finished(record))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        text = str(excinfo.value)
        # Interrupted, of pytest and of xdist, is -x and collection errors: results of tests, and nobody's interrupt.
        own = excinfo.typename == "Interrupted" and "keyboard-interrupt" not in text
        self._broken = self._broken or not own
        self._stopped = f"interrupted: {text}" if text else "interrupted from the keyboard"

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._broken = True
        self._stopped = f"internal error: {excinfo.exconly()}"

    def end(self, session: pytest.Session, exit_status: int, findings: Sequence[str] = ()) -> None:
        """The run is over; ``findings``: what the gate says of all of it.

        A report that was lost makes a run that was green fail: somebody counts on it.
        """
        self._plan()
        if self._broken and exit_status == pytest.ExitCode.OK:
            # xdist's controller ends a run of which a worker had an internal error as if nothing had happened.
            exit_status = session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        stopped = self._stopped or str(session.shouldfail or session.shouldstop or "")
        run = RunEnd(time.time(), exit_status, stopped, self._broken, findings)
        if self._resume is not None:
            run = self._resume.end(run, self._planned, tuple(self._errors.values()))
            session.exitstatus = run.exit_status
        self._send("the end", lambda sink: sink.end(run))
        if self.problems and run.exit_status == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def problems(self) -> list[str]:
        """Reports that could not be written to their end, a line each."""
        return [output.problem for output in self._outputs if output.problem]

    def take_problems(self) -> list[str]:
        """The problems, once: for the first who can show them."""
        problems = [] if self._told else self.problems
        self._told = True
        return problems


def make_record(test: TestId, phases: Sequence[pytest.TestReport], subtests: Sequence[Subtest], worker: str) -> Record:
    """One record of the reports of a test's set-up, call and tear-down."""
    outcome, decisive = _judge(phases, subtests)
    bad = [phase for phase in phases if phase.failed]
    payloads = [payload for phase in phases if (payload := getattr(phase, PAYLOAD, None))]
    stories = [payload["story"] for payload in payloads if payload.get("story")]
    sections = {title: text for phase in phases for title, text in phase.sections if title.startswith(_SECTIONS)}
    return Record(
        test,
        outcome,
        phase=_WHEN.get(str(decisive.when), "crash"),
        reason=reasons.of(decisive),
        message="; ".join(filter(None, map(_message, bad))),
        detail="\n".join(phase.longreprtext for phase in bad),
        output=sections,
        start=getattr(phases[0], "start", 0.0),
        duration=sum(phase.duration for phase in phases),
        properties={name: str(value) for name, value in phases[0].user_properties},
        subtests=tuple(subtests),
        worker=worker,
        story=stories[-1] if stories else None,
    )


def _judge(phases: Sequence[pytest.TestReport], subtests: Sequence[Subtest]) -> tuple[Outcome, pytest.TestReport]:
    """The outcome of the whole, and the report that decided it: the first bad one, else the one that says most."""
    for phase in phases:
        if phase.failed:
            return _bad(phase), phase
    for phase in phases:
        if phase.skipped or hasattr(phase, "wasxfail"):
            return _mild(phase), phase
    call = next((phase for phase in phases if phase.when == "call"), phases[-1])
    return (Outcome.FAIL if any(one.outcome.is_bad for one in subtests) else Outcome.PASS), call


def _bad(phase: pytest.TestReport) -> Outcome:
    if (getattr(phase, PAYLOAD, None) or {}).get("timeout"):
        return Outcome.TIMEOUT
    return Outcome.FAIL if phase.when == "call" else Outcome.ERROR


def _mild(phase: pytest.TestReport) -> Outcome:
    if not hasattr(phase, "wasxfail"):
        return Outcome.SKIP
    return Outcome.XFAIL if phase.skipped else Outcome.XPASS


def _subtest(report: Any) -> Subtest:
    context = report.context
    parts = [str(context.msg)] if context.msg is not None else []
    parts += [f"{name}={_unquoted(str(value))}" for name, value in (context.kwargs or {}).items()]
    outcome = Outcome.FAIL if report.failed else _mild(report) if report.skipped else Outcome.PASS
    return Subtest(" ".join(parts) or "subtest", outcome, reasons.of(report), _message(report) if report.failed else "")


def _unquoted(value: str) -> str:
    """pytest gives values of subtests as repr() has them, and once more so after their way from a worker of xdist."""
    while value[:1] in ("'", '"'):
        try:
            value = str(ast.literal_eval(value))
        except (SyntaxError, ValueError):  # cut short by pytest, or not all of it a literal
            break
    return value


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The last word of a failure, one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext.strip()
    lines = text.splitlines()
    if not lines:
        return ""
    return lines[0] if crash is not None else lines[-1].removeprefix("E  ").strip()


def run_start(config: pytest.Config) -> RunStart:
    """What is known of this process. Raises pytest.UsageError where the targets cannot be had."""
    host, machine = settings(config).host, os.uname()
    return RunStart(
        time.time(),
        version("pytest-kvm-sea"),
        host,
        tuple(map(str, config.invocation_params.args)),
        {target.id: target.properties for target in targets(config)},
        f"{machine.nodename} {machine.release} {machine.version}" if host == "linux" else "",
    )


def configure(config: pytest.Config) -> None:
    """Register the plugin if there is something to write and this process writes."""
    if hasattr(config, "workerinput"):
        resume.configure_worker(config, config.workerinput)
        return
    if any(config.getoption(name, None) for name in _NO_RUN):
        return  # none that a file should end with, or lose its last one for
    found = resume.find(config, lambda: run_start(config))
    outputs = make_outputs(config, found)
    if found is not None:
        config.pluginmanager.register(found, resume.NAME)
    if outputs:
        now = found.now if found else run_start(config)
        config.pluginmanager.register(Reporting(config, outputs, now, found), REPORTING)
