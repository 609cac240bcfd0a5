# SPDX-License-Identifier: GPL-2.0-only
"""What a file of JSON lines says of its run, also when the run died in the middle of a line. `jsonl` has the format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, Subtest, TestId

VERSION = 1
"""Of the format. A reader refuses others, and ignores events and keys that it does not know."""


class JsonLinesError(Exception):
    """The file is not what `jsonl` writes. The text says where and why."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run as far as its file goes."""

    start: RunStart
    """Of the first process."""
    planned: tuple[TestId, ...] = ()
    errors: tuple[CollectionError, ...] = ()
    """Of the last collection."""
    records: tuple[Record, ...] = ()
    """In the order in which tests ended."""
    running: Mapping[TestId, float] = field(default_factory=dict)
    """Tests that began and have no result, and when. Empty after an end: whoever wrote that was in control."""
    end: RunEnd | None = None
    """None where the file ends in the middle."""
    size: int = 0
    """Bytes up to the end of the last whole line."""

    @property
    def unfinished(self) -> tuple[TestId, ...]:
        """Planned tests without a result."""
        done = {record.test for record in self.records}
        return tuple(test for test in self.planned if test not in done)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all has a result, or the run stopped because of one (-x).

        One that was interrupted, that could not collect a file, or that ran out of workers is not.
        """
        if self.end is None or self.end.broken or not self.records:
            return False
        return not self.errors if self.end.stopped else not self.unfinished


def read(path: Path) -> RunFile | None:
    """The run; None where not even the first line is whole. Raises OSError and JsonLinesError."""
    run: RunFile | None = None
    records: dict[TestId, Record] = {}
    size = 0
    with path.open("rb") as file:
        lines = enumerate(file, 1)
        for number, line in lines:
            event = _event(line)
            if event is None:
                if next(lines, None) is not None:
                    raise JsonLinesError(f"{path}:{number}: not a line of JSON, and not the last one")
                break
            try:
                run = _apply(run, event, records)
            except _FormatError as error:
                raise JsonLinesError(f"{path}:{number}: {error}") from None
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                name = event.get("event")
                raise JsonLinesError(f"{path}:{number}: not what version {VERSION} has in {name}: {error!r}") from None
            size += len(line)
    return None if run is None else replace(run, records=tuple(records.values()), size=size)


class _FormatError(Exception):
    pass


def _event(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None for one that is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _apply(run: RunFile | None, event: dict[str, Any], records: dict[TestId, Record]) -> RunFile:
    """The run after an event; results go to ``records``, and are no part of it until all is read."""
    kind = str(event.get("event"))
    if kind in ("start", "resume") and event.get("version") != VERSION:
        raise _FormatError(f"version {event.get('version')!r} of the format; this plugin reads version {VERSION}")
    if run is None:
        if kind != "start":
            raise _FormatError("the first line is not the start of a run; not a file that --kvm-sea-json wrote")
        return RunFile(_start(event))
    if kind == "result":
        record = _record(event)
        records[record.test] = record
        return replace(run, running={test: when for test, when in run.running.items() if test != record.test})
    return replace(run, **_CHANGES[kind](run, event)) if kind in _CHANGES else run


def _planned(_run: RunFile, event: Mapping[str, Any]) -> dict[str, Any]:
    errors = (CollectionError(one["nodeid"], one["message"], one["detail"]) for one in event["errors"])
    return {"planned": tuple(map(_test, event["tests"])), "errors": tuple(errors)}


def _started(run: RunFile, event: Mapping[str, Any]) -> dict[str, Any]:
    return {"running": {**run.running, _test(event): float(event["time"])}}


def _test(event: Mapping[str, Any]) -> TestId:
    return TestId(str(event["nodeid"]), str(event.get("host", "")))


def _start(event: Mapping[str, Any]) -> RunStart:
    return RunStart(
        float(event["time"]),
        str(event["plugin"]),
        str(event["host"]),
        tuple(event["command"]),
        {name: dict(properties) for name, properties in event["targets"].items()},
        str(event["machine"]),
    )


def _record(event: Mapping[str, Any]) -> Record:
    known = {item.name for item in fields(Record)} & event.keys()
    values = {name: event[name] for name in known}
    values |= {
        "test": _test(event),
        "outcome": Outcome(event["outcome"]),
        "subtests": tuple(
            Subtest(one["name"], Outcome(one["outcome"]), one["reason"], one["message"])
            for one in event.get("subtests", ())
        ),
    }
    return Record(**values)


def _end(event: Mapping[str, Any]) -> RunEnd:
    return RunEnd(
        float(event["time"]),
        int(event["exit_status"]),
        str(event["stopped"]),
        bool(event["broken"]),
        tuple(event["findings"]),
    )


_CHANGES: Mapping[str, Callable[[RunFile, Mapping[str, Any]], dict[str, Any]]] = {
    "resume": lambda _run, _event: {"end": None},
    "planned": _planned,
    "started": _started,
    "end": lambda _run, event: {"end": _end(event), "running": {}},
}
"""What an event changes in a run."""
