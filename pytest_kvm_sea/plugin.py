# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin. Nothing heavy is imported at module level: every pytest run of the environment loads this file."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea import command_line

if TYPE_CHECKING:
    from pytest_kvm_sea.reporting import Reporting
    from pytest_kvm_sea.reports.summary import Result

MARKS = (
    "kvm_sea_requires(*names): skip the test where the host lacks one of these; see pytest_kvm_sea.requirements",
    "kvm_sea_platforms(*names): run the test on these simulated platforms only",
    "kvm_sea_distinct(*keys): of simulated platforms that have the same in these keys, run the test on the first only",
)
REPORTING = "kvm-sea-reporting"
"""The name that `reporting` registers its plugin by."""
IN_USE: pytest.StashKey[bool] = pytest.StashKey()
"""Set when a test or a mark of ours was collected; without it every hook ends at once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    command_line.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if command_line.given(config):
        _check(config)
        from pytest_kvm_sea import reporting

        reporting.configure(config)
    from pytest_kvm_sea import fixtures

    config.pluginmanager.register(fixtures, "kvm-sea-fixtures")


def pytest_report_header(config: pytest.Config) -> str | None:
    if not command_line.given(config):
        return None
    from pytest_kvm_sea.options import header

    return header(config)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # First, so that every test id starts with the target, whatever else the test is parametrised over.
    if command_line.TARGET in metafunc.fixturenames:
        from pytest_kvm_sea import collection

        metafunc.config.stash[IN_USE] = True
        collection.parametrize(metafunc)
    elif any(mark.name.startswith("kvm_sea_") for mark in metafunc.definition.own_markers):
        from pytest_kvm_sea import collection

        metafunc.config.stash[IN_USE] = True
        collection.refuse_marks(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash.get(IN_USE, False):
        from pytest_kvm_sea import collection

        collection.finish(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.stash.get(IN_USE, False):
        # What was collected stays to the end. Without this the garbage collector walks through all of it again and
        # again while the tests make and drop VMs: a sixth of the time.
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is None or not item.config.stash.get(IN_USE, False):
        return
    outcome = call.excinfo.value
    if isinstance(outcome, pytest.xfail.Exception) and not item.config.getoption("xfail_tb", default=False):
        # For a traceback pytest parses the source of every frame. Nobody sees the one of an expected failure, and
        # those of the known defects were a sixth of the time of the selftests.
        outcome.pytrace = False
        outcome.__suppress_context__ = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporting: Reporting | None = session.config.pluginmanager.getplugin(REPORTING)
    if reporting is not None:
        reporting.end(session, exitstatus)


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.stash.get(IN_USE, False):
        gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    results = [
        found
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        for report in reports
        if (found := _result(outcome, report))
    ]
    if results:
        from pytest_kvm_sea.reports import summary

        terminalreporter.write_sep("=", summary.title(results))
        for line in summary.lines(results):
            terminalreporter.write_line(line)
    reporting: Reporting | None = terminalreporter.config.pluginmanager.getplugin(REPORTING)
    for problem in reporting.problems if reporting is not None else ():
        terminalreporter.write_line(f"kvm-sea: {problem}", red=True)


def _check(config: pytest.Config) -> None:
    """What the user names is checked before anything runs, also where no test of ours will be collected."""
    from pytest_kvm_sea.options import settings
    from pytest_kvm_sea.targets import targets

    if settings(config).platforms:
        targets(config)


def _result(outcome: str, report: object) -> Result | None:
    """A report of a test of ours as the summary wants it. The properties survive the way from an xdist worker."""
    if not isinstance(report, pytest.TestReport) or not report.user_properties:
        return None
    properties = dict(report.user_properties)
    if "kvm_sea_host" not in properties:
        return None
    from pytest_kvm_sea.reports.summary import Result

    platform = properties["kvm_sea_platform"] or properties["kvm_sea_host"]
    return Result(report.nodeid, outcome, _reason(report), str(platform))


def _reason(report: pytest.TestReport) -> str:
    expected: str | None = getattr(report, "wasxfail", None)
    if expected is not None:
        return expected.removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):  # a skip: file, line, text
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""
