# SPDX-License-Identifier: GPL-2.0-only
"""How a report of pytest is made a failure."""

from __future__ import annotations

import pytest


def fail(report: pytest.TestReport, text: str) -> None:
    """Make a report that of a failure, with a text in place of a traceback. Its first line is what short forms show."""
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception:
        # An exception, and not just the text, because only of that the first line gets into summaries and JUnit XML.
        report.longrepr = pytest.ExceptionInfo.from_current().getrepr(style="value")
    report.outcome = "failed"
    if hasattr(report, "wasxfail"):
        del report.wasxfail
