# SPDX-License-Identifier: GPL-2.0-only
"""Go on with a run that ended in the middle (`--kvm-sea-resume`): what is left to run, and what to say of the rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm_sea.command_line import JSON, RESUME
from pytest_kvm_sea.options import settings
from pytest_kvm_sea.reports.jsonl import clean
from pytest_kvm_sea.reports.jsonl_reader import JsonLinesError, RunFile, read
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, TestId
from pytest_kvm_sea.targets import properties_of

NAME = "kvm-sea-resume"
"""Of the plugin."""
WENT_DOWN = "the host or the run went down while this test ran"
_COMPLETE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""What pytest ends with where nothing stopped it; the last one means here that nothing was left."""
_INPUT = "kvm_sea_resume"
"""What a worker of xdist is given: the names of tests that are not run again, or None for all."""


class Deselection:
    """Leaves out what is not run again. In every process that collects."""

    def __init__(self, done: Sequence[str] | None) -> None:
        self.done = done
        """Node ids; None: all."""

    @pytest.hookimpl(trylast=True)  # after xdist has put its groups into the names
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = None if self.done is None else frozenset(self.done)
        left = [] if done is None else [item for item in items if clean(item.nodeid) not in done]
        if len(left) < len(items):
            kept = set(left)
            config.hook.pytest_deselected(items=[item for item in items if item not in kept])
            items[:] = left


class Resume(Deselection):
    """The earlier part of a run. In the process that reports."""

    def __init__(self, path: Path, earlier: RunFile, now: RunStart) -> None:
        self.path = path
        self.now = now
        """This process."""
        self.earlier = earlier
        self.records = _in_order(earlier)
        """Of all that is not run again, in the order in which it was planned."""
        super().__init__(None if earlier.is_over else [record.test.nodeid for record in self.records])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_INPUT] = self.done

    def pytest_report_header(self) -> str:
        return f"kvm-sea: {self._summary()}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        bad = list(filter(_is_bad, self.records))
        if bad:
            terminalreporter.write_sep("=", "kvm-sea: failed earlier, in the run that is resumed")
        for record in bad:
            terminalreporter.write_line(f"{record.outcome.value.upper()} {record.test} - {record.message}", red=True)
        terminalreporter.write_line(f"kvm-sea: {self._summary()}")

    def run_again(self, now: Sequence[TestId]) -> None:
        """Forget results of what this part runs once more: the gate's promises, for the machine may have lost some."""
        again = {TestId(clean(test.nodeid)) for test in now}
        self.records = [record for record in self.records if record.test not in again]

    def planned(
        self, now: Sequence[TestId], errors: Sequence[CollectionError]
    ) -> tuple[tuple[TestId, ...], tuple[CollectionError, ...]]:
        """The tests of the whole run: those of its first part in that order, then new ones; what is not collected."""
        if self.earlier.is_over:
            return self.earlier.planned, self.earlier.errors
        return tuple(dict.fromkeys((*self.earlier.planned, *now))), tuple(errors)

    def end(self, run: RunEnd, now: Sequence[TestId], errors: Sequence[CollectionError]) -> RunEnd:
        """How the whole run ended, where its last part ended so; that had ``now`` to run."""
        if self.earlier.is_over and self.earlier.end is not None:
            now_bad = run.exit_status == pytest.ExitCode.TESTS_FAILED  # the gate says so
            return replace(
                self.earlier.end,
                exit_status=int(pytest.ExitCode.TESTS_FAILED) if now_bad else self.earlier.end.exit_status,
                findings=run.findings or self.earlier.end.findings,
            )
        if run.stopped or run.exit_status not in _COMPLETE:
            return run
        gone = [] if errors else self._gone(now)
        if gone:
            text = f"{len(gone)} of the tests that were planned are not collected any more, the first is {gone[0]}"
            run = replace(run, stopped=text, broken=True)
        failed = run.exit_status == pytest.ExitCode.TESTS_FAILED or gone or any(map(_is_bad, self.records))
        return replace(run, exit_status=int(pytest.ExitCode.TESTS_FAILED if failed else pytest.ExitCode.OK))

    def _gone(self, now: Sequence[TestId]) -> list[TestId]:
        known = {TestId(clean(test.nodeid)) for test in now} | {record.test for record in self.records}
        return [test for test in self.earlier.planned if test not in known]

    def _summary(self) -> str:
        counts = Counter(record.outcome.value for record in self.records)
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "none"
        if self.earlier.is_over and self.earlier.end is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.earlier.end.time))
            return f"the run in {self.path} ended at {when} ({listed}), nothing is run; delete the file to start anew"
        running = ", ".join(map(str, self.earlier.running))
        crashed = f"; when it went down it ran {running}" if running else ""
        return (
            f"resumed from {self.path}: {len(self.records)} of {len(self.earlier.planned)} planned tests have a result "
            f"({listed}) and are not run again{crashed}"
        )


def find(config: pytest.Config, start: Callable[[], RunStart]) -> Resume | None:
    """The run to go on with, if one is wanted and there is one; ``start`` tells of this process.

    Raises pytest.UsageError.
    """
    chosen = settings(config)
    if not chosen.resume:
        return None
    if chosen.json is None:
        raise pytest.UsageError(f"{RESUME.flag}: there is no file to go on with; give it: {JSON.flag}=FILE")
    if config.getoption("dist", "no") == "each":
        raise pytest.UsageError(f"{RESUME.flag}: a run with --dist each cannot be resumed; leave one of them out")
    if not chosen.json.exists():
        return None
    if not chosen.json.is_file():
        raise pytest.UsageError(f"{RESUME.flag}: {chosen.json}: not a file that can be read again; name a regular file")
    try:
        earlier = read(chosen.json)
    except JsonLinesError as error:
        raise pytest.UsageError(f"{RESUME.flag}: {error}; move the file away to start anew") from None
    except OSError as error:
        raise pytest.UsageError(f"{RESUME.flag}: {chosen.json}: cannot be read: {error.strerror}") from None
    if earlier is None:
        return None
    now = start()
    if differences := _differences(earlier, now):
        raise pytest.UsageError(
            f"{RESUME.flag}: {chosen.json} is of another run: {'; '.join(differences)}; "
            "use the same as then, or move the file away to start anew"
        )
    return Resume(chosen.json, earlier, now)


def configure_worker(config: pytest.Config, given: Mapping[str, Any]) -> None:
    """In a worker of xdist: leave out what the controller says."""
    if _INPUT in given:
        config.pluginmanager.register(Deselection(given[_INPUT]), NAME)


def _differences(earlier: RunFile, now: RunStart) -> list[str]:
    """What makes results of two runs two runs."""
    then = earlier.start
    pairs = [
        ("of plugin version", then.version, now.version),
        ("on host", then.host, now.host),
        ("on targets", ", ".join(then.targets), ", ".join(now.targets)),
        ("on machine", then.machine, now.machine),
    ]
    found = [f"{what} {old or 'none'}, now {new or 'none'}" for what, old, new in pairs if clean(new) != old]
    if any(test.host for test in earlier.planned):
        found.append("with --dist each, which cannot be resumed")
    return found


def _is_bad(record: Record) -> bool:
    return record.outcome.is_bad


def _in_order(earlier: RunFile) -> list[Record]:
    records = [*earlier.records, *(_crashed(earlier, test, when) for test, when in earlier.running.items())]
    place = {test: index for index, test in enumerate(earlier.planned)}
    return sorted(records, key=lambda record: place.get(record.test, len(place)))


def _crashed(earlier: RunFile, test: TestId, when: float) -> Record:
    began = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(when))
    return Record(
        test,
        Outcome.ERROR,
        phase="crash",
        message=WENT_DOWN,
        detail=f"{WENT_DOWN}: it began at {began}, and no result was written. It is not run again.",
        start=when,
        properties=properties_of(test.nodeid, earlier.start.targets),
    )
