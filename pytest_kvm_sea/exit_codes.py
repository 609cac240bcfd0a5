# SPDX-License-Identifier: GPL-2.0-only
"""Exit codes as kselftest has them (`--kvm-sea-exit-codes=kselftest`): 0 passed, 1 failed, 4 skipped.

pytest's own codes mean other things there: its 2 (interrupted) is an expected failure, its 4 (usage error) a skip, and
both of them `ok`. So the code is decided around all of pytest's run, where usage errors end up as well, and after every
plugin has had its say.
"""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from pytest_kvm_sea.options import exit_system
from pytest_kvm_sea.reports.record import Outcome
from pytest_kvm_sea.resume import NAME as RESUME
from pytest_kvm_sea.resume import Resume

PASS, FAIL, SKIP = 0, 1, 4


class _Results:
    """What a code needs to know of a run."""

    def __init__(self) -> None:
        self.had_session = False
        self.was_interrupted = False
        self.skipped = False
        self.ran = False

    def pytest_sessionstart(self) -> None:
        self.had_session = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "context"):
            return  # of a subtest; its test has one as well
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped = True
        elif report.when == "call" or report.skipped:  # an expected failure may be one of the set-up
            self.ran = True

    def pytest_keyboard_interrupt(self) -> None:
        # Also for pytest.exit(), which may ask for any exit status.
        self.was_interrupted = True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        resume = session.config.pluginmanager.getplugin(RESUME)
        if isinstance(resume, Resume):
            outcomes = {record.outcome for record in resume.records}
            self.skipped = self.skipped or Outcome.SKIP in outcomes
            self.ran = self.ran or bool(outcomes - {Outcome.SKIP})

    def code(self, status: int) -> int:
        """kselftest's code for a pytest that ended with ``status``."""
        if status != pytest.ExitCode.OK or self.was_interrupted:
            return FAIL
        if self.ran or not self.had_session:  # --help and its like have no session
            return PASS
        return SKIP if self.skipped else FAIL


def translate(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Around `pytest_cmdline_main`."""
    if exit_system(config) != "kselftest":
        return (yield)
    results = _Results()
    config.pluginmanager.register(results, "kvm-sea-exit-codes")
    try:
        status = yield
    except pytest.UsageError as error:
        # What pytest itself would do, but for the code.
        for line in error.args:
            print(f"ERROR: {line}\n", file=sys.stderr)  # noqa: T201 - the terminal reporter is gone by now
        return FAIL
    return results.code(int(status or 0))
