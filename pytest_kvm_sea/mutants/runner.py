# SPDX-License-Identifier: GPL-2.0-only
"""Runs selftests in this process, apart from whatever else pytest does here, and says how each ended."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_kvm_sea import command_line

SELFTESTS = "pytest_kvm_sea.selftests"
FAILED, PASSED, SKIPPED, XFAILED = "failed", "passed", "skipped", "xfailed"
_WITHOUT = (
    "cacheprovider",
    "capturemanager",
    "doctest",
    "faulthandler",
    "junitxml",
    "logging",
    "pastebin",
    "terminal",
    "threadexception",
    "unittest",
    "unraisableexception",
    "warnings",
)
"""Plugins of pytest's own that would write, or get into the way of a pytest that runs this one."""
Select = Callable[[str], bool]


class RunError(Exception):
    """pytest did not run the tests: what it said."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which tests to run, and until when."""

    select: Select = lambda _test: True
    first: Select = lambda _test: False
    """These are run before the others."""
    enough: int | None = None
    """End when so many of the others have failed."""


@dataclass
class Results:
    """How tests ended, by ``module::function[id]``."""

    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Of those that failed: the first line of what was raised."""
    problems: list[str] = field(default_factory=list)
    ended_early: bool = False
    """Not all tests were run: `Plan.enough`."""

    @property
    def failed(self) -> list[str]:
        """The tests that failed, in the order in which they ran."""
        return [test for test, outcome in self.outcomes.items() if outcome == FAILED]


def name_of(item: pytest.Item) -> str:
    """``module::function[id]`` of a test, wherever its file lies."""
    return f"{item.path.stem}::{item.name}"


class _Recorder:
    """A plugin that leaves out what is not selected, and takes reports in."""

    def __init__(self, plan: Plan) -> None:
        self.results = Results()
        self._plan = plan
        self._others = 0

    def pytest_configure(self, config: pytest.Config) -> None:
        # What is said of a failure is its first line; other styles parse the source of every frame.
        config.option.tbstyle = "native"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if self._plan.select(name_of(item))]
        items[:] = sorted(chosen, key=lambda item: not self._plan.first(name_of(item)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.results.problems.append(f"{report.nodeid}: {report.longrepr}")

    def pytest_internalerror(self, excrepr: object) -> None:
        self.results.problems.append(str(excrepr))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        test = name_of(item)
        if report.failed:
            if self.results.outcomes.get(test) != FAILED and not self._plan.first(test):
                self._count(item.session)
            self.results.outcomes[test] = FAILED
            text = call.excinfo.exconly() if call.excinfo is not None else str(report.longrepr)
            self.results.reasons.setdefault(test, text.partition("\n")[0])
        elif self.results.outcomes.get(test) != FAILED and (report.when == "call" or report.skipped):
            expected = report.skipped and hasattr(report, "wasxfail")
            self.results.outcomes[test] = XFAILED if expected else report.outcome
        return report

    def _count(self, session: pytest.Session) -> None:
        """One more of those failed that are not run first."""
        self._others += 1
        if self._others == self._plan.enough:
            self.results.ended_early = True
            session.shouldfail = "enough of them failed"


EVERYTHING = Plan()


def run(
    platforms: Iterable[str],
    plan: Plan = EVERYTHING,
    modules: Iterable[str] = (),
    timeout: float = command_line.DEFAULT_TIMEOUT,
) -> Results:
    """Run the selftests (of ``modules``; none is all) of the plan, on these simulated platforms.

    ``timeout``: seconds that a guest may run.

    Raises RunError where pytest could not. Nothing that the user has set for pytest counts.
    """
    recorder = _Recorder(plan)
    names = [f"{SELFTESTS}.{module}" for module in modules] or [SELFTESTS]
    with _neutral() as directory:
        code = pytest.main(
            [
                "--pyargs",
                *names,
                *(f"--kvm-sea-platform={platform}" for platform in platforms),
                "--kvm-sea-host=sim",
                f"--kvm-sea-timeout={timeout}",
                f"--rootdir={directory}",
                f"--basetemp={directory / 'tmp'}",
                f"--config-file={directory / 'pytest.ini'}",
                "--noconftest",
                "--capture=no",
                "--import-mode=importlib",
                *(f"-pno:{name}" for name in _WITHOUT),
                "-ppytest_kvm_sea.plugin",
            ],
            plugins=[recorder],
        )
    if recorder.results.problems or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RunError("\n".join(recorder.results.problems) or f"pytest ended with {code!r}")
    return recorder.results


@contextmanager
def _neutral() -> Iterator[Path]:
    """An environment in which nothing is set for pytest, nor for this plugin; a directory for the run."""
    ours = {option.variable for option in command_line.OPTIONS}
    kept = {name: value for name, value in os.environ.items() if name in ours or name.startswith("PYTEST_")}
    for name in kept:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="kvm-sea-mutants-") as directory:
            warnings.simplefilter("ignore")  # what a bug leaves undone is not the user's business
            (Path(directory) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
            yield Path(directory)
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(kept)
