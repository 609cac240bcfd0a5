# SPDX-License-Identifier: GPL-2.0-only
"""The gate in the process that the user has started: the verdict on the run as a whole, and the first file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_kvm_sea.command_line import EXPECT_WRITE
from pytest_kvm_sea.gate.first import Seen, write
from pytest_kvm_sea.gate.verdict import Tally, Verdict, add, judge_run
from pytest_kvm_sea.gating.gate import Gate
from pytest_kvm_sea.gating.recorder import Recorder
from pytest_kvm_sea.gating.worker import PAYLOAD
from pytest_kvm_sea.reports.record import GATE
from pytest_kvm_sea.requirements import REQUIREMENTS
from pytest_kvm_sea.resume import NAME as RESUME
from pytest_kvm_sea.resume import Resume

GATING = "kvm-sea-gating"
"""The name of the plugin; `plugin` has it too, and must not import this module."""
NEEDS = {name: requirement.needs for name, requirement in REQUIREMENTS.items()}
_ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""Any other run was stopped, or did not begin, and is not green anyway."""


def node_down(node: Any, ungated: list[str]) -> None:
    """A worker of xdist has ended. It may have a gate where this process has none: each machine its own.

    ``ungated``: those that ended before, without a gate.

    Raises pytest.UsageError with what the worker found to be wrong with its file.
    """
    manager = node.config.pluginmanager
    referee: Referee | None = manager.getplugin(GATING)
    if referee is None:
        referee = Referee(node.config, None, None, ungated)
        manager.register(referee, GATING)
    referee.hear(node.gateway.id, getattr(node, "workeroutput", None))


class Referee:
    """The pytest plugin. ``runner``: what ran the tests in this process, where it is not the controller of xdist."""

    def __init__(
        self,
        config: pytest.Config,
        runner: Gate | Recorder | None,
        new: Path | None,
        ungated: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._runner = runner
        self._new = new
        self._tallies: dict[str, Tally] = {}
        self._seen = Seen()
        self._earlier: list[Tally] = []
        """Beside those of workers."""
        self._lost: list[str] = []
        self._ungated = list(ungated)
        self._verdict: Verdict | None = None
        self._written = ""
        self._problem = ""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong with the run as a whole, once it is over."""
        return self._verdict.findings if self._verdict else ()

    def hear(self, worker: str, output: Mapping[str, Any] | None) -> None:
        """What a worker has seen; ``output`` is None where its process is gone."""
        if output is None:
            self._lost.append(worker)
            return
        told = output.get(PAYLOAD, {})
        if not told:
            self._ungated.append(worker)
        if problems := told.get("problems"):
            raise pytest.UsageError(*problems)
        if "tally" in told:
            self._tallies[worker] = Tally(**told["tally"])
        if "seen" in told:
            if self._new is None:
                raise pytest.UsageError(
                    f"{EXPECT_WRITE.flag}: {worker} has it and this process has not; give it on the command line"
                )
            self._seen.add(Seen.from_json(told["seen"]))

    # The end

    @pytest.hookimpl(tryfirst=True)  # before pytest writes its JUnit XML
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        # A gate of this process has run nothing where there are workers.
        alone = not self._config.pluginmanager.hasplugin("dsession")
        if exitstatus not in _ENDED:
            return
        if isinstance(self._runner, Recorder):
            if alone:
                self._seen = self._runner.seen()
            self._write_first()
        elif self._runner is not None or self._tallies:
            self._hear_earlier()
            self._verdict = judge_run(self._by_machine(alone=alone), self._lost, self._ungated)
        if self.findings or self._problem:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.findings:
            self._tell_junit()

    def _tell_junit(self) -> None:
        """What is said of the run as a whole, as a test of its own: whoever reads the XML alone must not see green."""
        text = "\n".join(self.findings)
        phases: tuple[tuple[Literal["call", "teardown"], Literal["passed", "failed"], str | None], ...] = (
            ("call", "failed", text),
            ("teardown", "passed", None),
        )
        for plugin in self._config.pluginmanager.get_plugins():
            if hasattr(type(plugin), "add_global_property"):  # pytest's writer of JUnit XML; there is no public way
                for when, outcome, longrepr in phases:
                    plugin.pytest_runtest_logreport(
                        pytest.TestReport(GATE, (GATE, None, GATE), {}, outcome, longrepr, when)
                    )

    def _hear_earlier(self) -> None:
        """A run that was resumed is one run: what ran in its first part counts, and is judged."""
        resume = self._config.pluginmanager.getplugin(RESUME)
        if isinstance(resume, Resume) and isinstance(self._runner, Gate):
            self._runner.judge_earlier(resume.records)
            self._earlier = [self._runner.tally()]

    def _by_machine(self, *, alone: bool) -> dict[str, Tally]:
        if self._config.getoption("dist", "no") == "each" and not alone:
            return dict(sorted(self._tallies.items()))
        if self._tallies:
            return {"": add([*self._tallies.values(), *self._earlier])}
        return {"": self._runner.tally()} if isinstance(self._runner, Gate) else {}

    def _write_first(self) -> None:
        if self._new is None:
            return
        if not self._seen.ran or self._lost:
            why = f"{', '.join(self._lost)} went down" if self._lost else "nothing ran"
            self._problem = f"{self._new} was not written: {why}"
            return
        try:
            with self._new.open("x", encoding="utf-8") as stream:
                stream.write(write(self._seen, NEEDS))
        except OSError as error:
            self._problem = f"{self._new} was not written: {error.strerror}"
            return
        self._written = f"{self._new} is written: read it, correct it, and use it with --kvm-sea-expect"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        terminalreporter.write_sep("=", "kvm-sea expectations")
        if exitstatus not in _ENDED:
            terminalreporter.write_line("the run did not come to its end, so it is not judged as a whole")
        if self._verdict is not None:
            for line in (*self._verdict.summary, *(f"note: {note}" for note in self._verdict.notes)):
                terminalreporter.write_line(line)
            for finding in self._verdict.findings:
                terminalreporter.write_line(f"FAILED: {finding}", red=True)
        if self._written:
            terminalreporter.write_line(self._written)
        if self._problem:
            terminalreporter.write_line(f"FAILED: {self._problem}", red=True)
