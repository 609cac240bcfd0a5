# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin. Nothing heavy is imported at module level: every pytest run of the environment loads this file."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea import options

if TYPE_CHECKING:
    from pytest_kvm_sea.reports.summary import Result

MARKS = (
    "kvm_sea_requires(*names): skip the test where the host lacks one of these; see pytest_kvm_sea.requirements",
    "kvm_sea_platforms(*names): run the test on these simulated platforms only",
)
IN_USE: pytest.StashKey[bool] = pytest.StashKey()
"""Set when a test or a mark of ours was collected; without it every hook ends at once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if options.settings(config).platforms:
        from pytest_kvm_sea.targets import targets

        targets(config)  # what the user named is checked before anything runs
    if importlib.util.find_spec("pytest_kvm_sea.fixtures"):
        config.pluginmanager.register(importlib.import_module("pytest_kvm_sea.fixtures"), "kvm-sea-fixtures")


def pytest_report_header(config: pytest.Config) -> str | None:
    settings = options.settings(config)
    if not settings.explicit:
        return None
    platforms = "" if settings.host == "linux" else f", platforms {', '.join(settings.platforms) or 'all bundled'}"
    revision = settings.uapi or ("mainline" if settings.host == "linux" else "of the platform")
    return f"kvm-sea: host {settings.host}{platforms}, revision {revision}, time-out {settings.timeout:g} s"


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # First, so that every test id starts with the target, whatever else the test is parametrised over.
    if options.TARGET in metafunc.fixturenames:
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
