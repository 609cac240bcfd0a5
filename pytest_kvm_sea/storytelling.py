# SPDX-License-Identifier: GPL-2.0-only
"""What happened in a test, told where it failed: a section of pytest's report, a file with the whole, a payload.

The process that ran the test does all of it: under xdist that is the worker, and only the report travels.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.command_line import TRACE
from pytest_kvm_sea.options import settings

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.reports.story import Story
    from pytest_kvm_sea.stories.evidence import Evidence
    from pytest_kvm_sea.targets import Target

TITLE = "kvm-sea: what happened"
DIRECTORY = "kvm-sea"
"""Below the directory of pytest's cache."""
PAYLOAD = "kvm_sea"
"""As in `reporting`, which reads it."""
_PACKAGE = Path(__file__).parent
_EVIDENCE: pytest.StashKey[Evidence] = pytest.StashKey()
_PYTEST_TIMEOUT = re.compile(r"Timeout \(?>\s*[\d.]+s\)?")
"""How pytest-timeout ends a test (method signal)."""


def begin(item: pytest.Item, target: Target, host: Host, *, fresh: bool) -> Evidence:
    """A test of ours starts. ``fresh``: the host was made for it."""
    from pytest_kvm_sea.stories.evidence import Evidence

    evidence = item.stash[_EVIDENCE] = Evidence(target.id, host, fresh)
    return evidence


def evidence_of(node: pytest.Item) -> Evidence:
    """What `begin` made for this test."""
    return node.stash[_EVIDENCE]


def shorten(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """End a traceback where it goes into this package, if it ends in an error of its own.

    Whoever reads it wants the line of the test and what was wrong there. With --full-trace everything stays, and so
    it does for an exception of Python's, which is a fault of ours. To be called before anybody looks at the traceback.
    """
    is_whole = item.config.getoption("fulltrace", default=False)  # an option of the terminal plugin, if it is there
    if is_whole or not type(excinfo.value).__module__.startswith("pytest_kvm_sea."):
        return
    entry: TracebackType | None = excinfo.tb
    last = None
    while entry is not None:
        if not _is_ours(entry.tb_frame.f_code.co_filename):
            last = entry
        entry = entry.tb_next
    if last is not None:
        last.tb_next = None


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_PACKAGE / "selftests")


def tell(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Add to the report of one phase what there is to tell. Nothing that goes wrong here costs a result."""
    evidence = item.stash.get(_EVIDENCE, None)
    if report.when == "teardown" and evidence is not None:
        del item.stash[_EVIDENCE]
    wanted = _is_wanted(item.config)
    if not report.failed and not (wanted and report.when == "call"):
        return
    story = None
    if evidence is not None:
        try:
            story = _build(evidence, report)
            if report.failed:
                _add_section(item, report, story)
        except Exception as error:  # noqa: BLE001 - a defect of the reporter must not replace the report
            report.sections.append((TITLE, f"cannot be told, which is a defect of pytest-kvm-sea: {error!r}"))
    payload = {"timeout": _is_timeout(call), "story": story.as_json() if wanted and story is not None else None}
    setattr(report, PAYLOAD, payload)


def _is_wanted(config: pytest.Config) -> bool:
    """Whether something reads the stories of all tests."""
    chosen = settings(config)
    return chosen.report is not None or chosen.json is not None


def _build(evidence: Evidence, report: pytest.TestReport) -> Story:
    from pytest_kvm_sea.stories.builder import build

    crash = getattr(report.longrepr, "reprcrash", None)
    expected = str(crash.message) if crash is not None else report.longreprtext if report.failed else ""
    return build(evidence, expected=expected, closed=report.when == "teardown")


def _is_timeout(call: pytest.CallInfo[None]) -> bool:
    from pytest_kvm_sea.ras.errors import LockTimeoutError
    from pytest_kvm_sea.vmm.errors import GuestTimeoutError

    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, pytest.fail.Exception):
        return bool(_PYTEST_TIMEOUT.match(str(error)))
    return isinstance(error, (GuestTimeoutError, LockTimeoutError))


# The section and the file


def _add_section(item: pytest.Item, report: pytest.TestReport, story: Story) -> None:
    """To longrepr where it takes one: from there it gets into JUnit XML, too."""
    from pytest_kvm_sea.reports import telling

    text = "\n".join([*telling.section(story), _write(item, report, story)])
    add = getattr(report.longrepr, "addsection", None)
    if add is not None:
        add(TITLE, text, "-")
    else:
        report.sections.append((TITLE, text))


def _write(item: pytest.Item, report: pytest.TestReport, story: Story) -> str:
    """Write the whole to a file; the line that says where it is, or why it is nowhere."""
    from pytest_kvm_sea.reports import filenames, telling

    name = filenames.file_name(item.nodeid, ".txt" if report.when == "call" else f".{report.when}.txt")
    try:
        directory = _directory(item.config)
        if directory is None:
            return f"the whole story: give {TRACE.flag}=DIR (pytest's cache is off)"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / name
        lines = [f"test      {item.nodeid}", *telling.whole(story)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"the whole story could not be written: {error.filename}: {error.strerror}; give {TRACE.flag}=DIR"
    return f"the whole story: {_short(path, item.config)}"


def _directory(config: pytest.Config) -> Path | None:
    chosen = settings(config).trace
    if chosen is not None:
        return chosen
    cache = getattr(config, "cache", None)
    return None if cache is None else Path(cache.mkdir(DIRECTORY))


def _short(path: Path, config: pytest.Config) -> str:
    """A path as it is given to a command: from where pytest was started, if that is shorter."""
    absolute = str(path)
    relative = os.path.relpath(absolute, config.invocation_params.dir)
    return min(absolute, relative, key=len)
