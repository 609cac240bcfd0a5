# SPDX-License-Identifier: GPL-2.0-only
"""From pytest's reports to the records of `reports`, and to everything that reads them.

Registered as a plugin only where something is to be written, and never in a worker of xdist: the controller gets the
reports of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm_sea.command_line import KCIDB, each_host
from pytest_kvm_sea.options import settings
from pytest_kvm_sea.reports.kcidb import KcidbSink, Submitter
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

if TYPE_CHECKING:
    from pathlib import Path

REPORTING = "kvm-sea-reporting"
"""The name of the plugin; `plugin` has it too, and must not import this module."""
PAYLOAD = "kvm_sea"
"""The attribute of a report that the plugin hangs what it knows of a test on; JSON, so that it leaves a worker."""
_SECTIONS = ("Captured stdout", "Captured stderr", "Captured log")
_WHEN = {"setup": "setup", "call": "call", "teardown": "teardown"}


class Output:
    """A sink, and what became of it: one that cannot be written is left alone, and told of at the end."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        """The option and its file, for messages."""
        self.problem = ""
        self._sink: Sink | None = sink
        self._last = "the start"

    def __call__(self, after: str, call: Callable[[Sink], None]) -> None:
        """Do something with the sink; ``after``: the place in the run, for the message if it fails."""
        if self._sink is None:
            return
        try:
            call(self._sink)
        except OSError as error:
            self.problem = f"{self.name}: {error.strerror or error}; what was written ends before {after}"
            self._sink.abandon()
            self._sink = None


class Reporting:
    """The pytest plugin that feeds the sinks of one run."""

    def __init__(self, config: pytest.Config, outputs: Sequence[Output]) -> None:
        self._config = config
        self._outputs = outputs
        self._each = each_host(config)
        self._planned: list[TestId] = []
        self._is_planned = False
        self._errors: dict[tuple[str, str], CollectionError] = {}
        self._hosts: list[tuple[object, str]] = []
        self._pending: dict[TestId, list[pytest.TestReport]] = {}
        self._subtests: dict[TestId, list[Subtest]] = {}
        self._stopped = ""
        self._broken = False

    def _send(self, after: str, call: Callable[[Sink], None]) -> None:
        for output in self._outputs:
            output(after, call)

    # The run

    def pytest_sessionstart(self) -> None:
        start = RunStart(
            time.time(),
            version("pytest-kvm-sea"),
            settings(self._config).host,
            tuple(map(str, self._config.invocation_params.args)),
        )
        self._send("the first test", lambda sink: sink.start(start))

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
            self._send("the first test", lambda sink: sink.planned(tests, errors))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
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

    def end(self, session: pytest.Session, exit_status: int) -> None:
        """The run is over. A report that was lost makes a run that was green fail: somebody counts on it."""
        self._plan()
        if self._broken and exit_status == pytest.ExitCode.OK:
            # xdist's controller ends a run of which a worker had an internal error as if nothing had happened.
            exit_status = session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        stopped = self._stopped or str(session.shouldfail or session.shouldstop or "")
        run = RunEnd(time.time(), exit_status, stopped, self._broken)
        self._send("the end", lambda sink: sink.end(run))
        if self.problems and exit_status == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def problems(self) -> list[str]:
        """Reports that could not be written to their end, a line each."""
        return [output.problem for output in self._outputs if output.problem]


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
        reason=reason(decisive),
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
    parts += [f"{name}={value}" for name, value in (context.kwargs or {}).items()]
    outcome = Outcome.FAIL if report.failed else _mild(report) if report.skipped else Outcome.PASS
    return Subtest(" ".join(parts) or "subtest", outcome, reason(report), _message(report) if report.failed else "")


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, or failed as expected; without pytest's prefixes."""
    expected: str | None = getattr(report, "wasxfail", None)
    if expected is not None:
        return expected.removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):  # a skip: file, line, text
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The last word of a failure, one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext.strip()
    lines = text.splitlines()
    if not lines:
        return ""
    return lines[0] if crash is not None else lines[-1]


def make_outputs(config: pytest.Config) -> list[Output]:
    """What is to be written. Raises pytest.UsageError for a file that cannot be."""
    chosen = settings(config)
    outputs: list[Output] = []

    def add(flag: str, path: Path | str | None, make: Callable[[], Sink]) -> None:
        if path is None:
            return
        try:
            outputs.append(Output(f"{flag}={path}", make()))
        except OSError as error:
            raise pytest.UsageError(
                f"{flag}: {path}: cannot be written: {error.strerror}; valid: a file in a directory that exists and"
                " that you may write to"
            ) from None

    if chosen.kcidb is not None and chosen.kcidb_origin is not None:
        path, submitter = chosen.kcidb, Submitter(chosen.kcidb_origin, chosen.kcidb_build)
        add(KCIDB.flag, path, lambda: KcidbSink(path, submitter))
    return outputs


def configure(config: pytest.Config) -> None:
    """Register the plugin if there is something to write and this process writes."""
    if hasattr(config, "workerinput"):
        return
    outputs = make_outputs(config)
    if outputs:
        config.pluginmanager.register(Reporting(config, outputs), REPORTING)
