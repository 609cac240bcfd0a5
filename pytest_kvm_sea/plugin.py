# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin. Nothing heavy is imported at module level: every pytest run of the environment loads this file."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm_sea import command_line, plain_imports

if TYPE_CHECKING:
    from pytest_kvm_sea.gating.referee import Referee
    from pytest_kvm_sea.reporting import Reporting
    from pytest_kvm_sea.reports.summary import Result

MARKS = (
    "kvm_sea_requires(*names): skip the test where the host lacks one of these; see pytest_kvm_sea.requirements",
    "kvm_sea_platforms(*names): run the test on these simulated platforms only",
    "kvm_sea_distinct(*keys): of simulated platforms that have the same in these keys, run the test on the first only",
)
REPORTING = "kvm-sea-reporting"
"""The name that `reporting` registers its plugin by."""
GATING = "kvm-sea-gating"
"""The name that `gating.referee` registers its plugin by."""
GATE_PAYLOAD = "kvm_sea_gate"
"""Where `gating.worker` leaves what a worker of xdist has to tell."""
UNGATED: pytest.StashKey[list[str]] = pytest.StashKey()
"""Workers of xdist that ended without a word of a gate, before any had one."""
HEADER = "kvm_sea_header"
"""What a worker of xdist tells the controller at its end."""
HEADERS: pytest.StashKey[dict[str, str]] = pytest.StashKey()
"""The headers of workers that are hosts of their own."""
IN_USE: pytest.StashKey[bool] = pytest.StashKey()
"""Set when a test or a mark of ours was collected; without it every hook ends at once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    command_line.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    # The outermost wrapper, so that it comes before that of pytest's capture.
    if command_line.takes_stdout(early_config):
        from pytest_kvm_sea import standard_output

        standard_output.keep(early_config)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    # What a worker of xdist ends with is between it and the controller.
    if hasattr(config, "workerinput") or not command_line.is_given(config, command_line.EXIT_CODES):
        return (yield)
    from pytest_kvm_sea import exit_codes

    return (yield from exit_codes.translate(config))


def pytest_configure(config: pytest.Config) -> None:
    plain_imports.install()
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if command_line.given(config):
        try:
            _configure(config)
        except pytest.UsageError as error:
            if not hasattr(config, "workerinput"):
                raise
            from pytest_kvm_sea.gating.worker import Refusal

            config.pluginmanager.register(Refusal(config, error), "kvm-sea-refusal")
    if hasattr(config, "workerinput") or config.getoption("xmlpath", None) or command_line.given(config):
        from pytest_kvm_sea import properties

        properties.configure(config)
    from pytest_kvm_sea import fixtures

    config.pluginmanager.register(fixtures, "kvm-sea-fixtures")


@pytest.hookimpl(tryfirst=True, specname="pytest_cmdline_main")
def pytest_kvm_sea_command(config: pytest.Config) -> int | None:
    # A second function for the hook; pytest looks only at names that begin like this.
    if not any(config.getoption(option.dest) is not None for option in command_line.OPTIONS if option.command):
        return None
    from pytest_kvm_sea import commands

    return commands.run(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    if not command_line.given(config) or hasattr(config, "workerinput"):
        return None  # nobody sees the header of a worker
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
        # It is thawed before the next run of this process, if there is one, and not at the end: the collections of
        # pytest's last steps, and that of a process that ends, would walk through it once more.
        gc.unfreeze()
        gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    # Outermost: before anybody looks at the exception, and after pytest has judged what was expected.
    if not item.config.stash.get(IN_USE, False):
        return (yield)
    _spare_traceback(item, call)
    from pytest_kvm_sea import storytelling

    if call.excinfo is not None:
        storytelling.shorten(item, call.excinfo)
    report = yield
    storytelling.tell(item, call, report)
    return report


def _spare_traceback(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    outcome = call.excinfo.value if call.excinfo is not None else None
    if isinstance(outcome, pytest.xfail.Exception) and not item.config.getoption("xfail_tb", default=False):
        # For a traceback pytest parses the source of every frame. Nobody sees the one of an expected failure, and
        # those of the known defects were a sixth of the time of the selftests.
        outcome.pytrace = False
        outcome.__suppress_context__ = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporting: Reporting | None = session.config.pluginmanager.getplugin(REPORTING)
    if reporting is not None:
        referee: Referee | None = session.config.pluginmanager.getplugin(GATING)
        reporting.end(session, int(session.exitstatus), referee.findings if referee else ())
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None and session.config.stash.get(IN_USE, False):
        from pytest_kvm_sea.options import header, is_usable

        if is_usable(session.config):
            output[HEADER] = header(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    if HEADER in output and command_line.each_host(node.config):
        node.config.stash.setdefault(HEADERS, {})[node.gateway.id] = output[HEADER]
    # A worker on another machine may have a gate of its own, by its environment, where this process has none.
    if node.config.pluginmanager.hasplugin(GATING) or GATE_PAYLOAD in output:
        from pytest_kvm_sea.gating import referee

        referee.node_down(node, node.config.stash.get(UNGATED, []))
    else:
        node.config.stash.setdefault(UNGATED, []).append(node.gateway.id)


def pytest_unconfigure(config: pytest.Config) -> None:
    reporting: Reporting | None = config.pluginmanager.getplugin(REPORTING)
    if reporting is not None:
        for problem in reporting.take_problems():  # no terminal has shown them
            sys.stderr.write(f"kvm-sea: {problem}\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    results = [
        found
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        for report in reports
        if (found := _result(outcome, report, each=command_line.each_host(terminalreporter.config)))
    ]
    if results:
        from pytest_kvm_sea.reports import summary

        terminalreporter.write_sep("=", summary.title(results))
        for line in summary.lines(results):
            terminalreporter.write_line(line)
    for worker, header in sorted(terminalreporter.config.stash.get(HEADERS, {}).items()):
        terminalreporter.write_line(f"{worker}: {header}")
    reporting: Reporting | None = terminalreporter.config.pluginmanager.getplugin(REPORTING)
    for problem in reporting.take_problems() if reporting is not None else ():
        terminalreporter.write_line(f"kvm-sea: {problem}", red=True)


def _configure(config: pytest.Config) -> None:
    """What the user names is checked before anything runs, also where no test of ours will be collected."""
    from pytest_kvm_sea import reporting
    from pytest_kvm_sea.options import settings
    from pytest_kvm_sea.targets import targets

    chosen = settings(config)
    if chosen.platforms:
        targets(config)
    reporting.configure(config)
    if chosen.expect is not None or chosen.expect_write is not None:
        from pytest_kvm_sea.gating import configure

        configure.configure(config)


def _result(outcome: str, report: object, *, each: bool) -> Result | None:
    """A report of a test of ours as the summary wants it. The properties survive the way from an xdist worker.

    With ``each`` several hosts run all tests each, and which one ran it belongs to the test.
    """
    if not isinstance(report, pytest.TestReport) or not report.user_properties:
        return None
    properties = dict(report.user_properties)
    if "kvm_sea_host" not in properties:
        return None
    from pytest_kvm_sea import reasons
    from pytest_kvm_sea.reports.summary import Result

    platform = properties["kvm_sea_platform"] or properties["kvm_sea_host"]
    test = report.nodeid
    if each and hasattr(report, "node"):
        test, platform = f"{report.node.gateway.id}: {test}", f"{platform} on {report.node.gateway.id}"
    return Result(test, outcome, reasons.of(report), str(platform))
