# SPDX-License-Identifier: GPL-2.0-only
"""What a report of pytest says why a test did not simply pass, without the prefixes that pytest adds."""

from __future__ import annotations

import pytest


def of_skip(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why something was skipped."""
    if isinstance(report.longrepr, tuple):  # file, line, text
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext


def of(report: pytest.TestReport) -> str:
    """Why a test was skipped, or failed as expected; empty for every other."""
    expected: str | None = getattr(report, "wasxfail", None)
    if expected is not None:
        return expected.removeprefix("reason: ")
    return of_skip(report) if isinstance(report.longrepr, tuple) else ""
