# SPDX-License-Identifier: GPL-2.0-only
"""What a run finds, written down for a first file of expectations, in the process that runs the tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_kvm_sea import reasons, requirements
from pytest_kvm_sea.collection import target_of
from pytest_kvm_sea.gate.first import Failed, Seen, Skipped
from pytest_kvm_sea.providers import probe_host
from pytest_kvm_sea.targets import Target


class Recorder:
    """The pytest plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen = Seen()
        self._targets: dict[str, Target] = {}
        self._ran: set[str] = set()

    def seen(self) -> Seen:
        """All of it, with what the targets have that tests of this process ran on."""
        for name, target in self._targets.items():
            host = probe_host(self._config, target)
            self._seen.found[name] = [one for one in requirements.REQUIREMENTS if not requirements.missing(host, [one])]
        self._seen.ran = len(self._ran)
        return self._seen

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._seen.skipped.append(Skipped(report.nodeid, reasons.of_skip(report), None))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        target = target_of(item)
        if target is not None:
            self._targets[target.id] = target
        if report.skipped and not hasattr(report, "wasxfail"):
            self._seen.skipped.append(
                Skipped(item.nodeid, reasons.of_skip(report), target.id if target is not None else None)
            )
        elif report.when == "call":
            self._ran.add(item.nodeid)
        if report.failed:
            self._seen.failed.append(Failed(item.nodeid, str(report.when), _first_line(report)))
        return report


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash is not None else report.longreprtext).splitlines()
    return lines[0] if lines else ""
