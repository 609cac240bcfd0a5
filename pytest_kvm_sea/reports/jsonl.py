# SPDX-License-Identifier: GPL-2.0-only
"""JSON lines: a run as it happens, one event per line; what is left of it after a crash can be read and gone on with.

Events: start, planned (again where a later process goes on), started and result of every test, end; and resume, where a
later process goes on. docs/json-lines.md has their keys. Where several hosts run all tests each, `host` stands beside
`nodeid`. The file is ASCII: all other characters are escaped as JSON has it. A lone surrogate, which JSON cannot carry
to every reader, is written as the six characters that stand for it in Python, and a text above `LIMIT` is cut in the
middle and says so.

A line counts when its newline is there; only the last one can be without. It is given to the kernel in one piece as
soon as the event happens, so that it outlives this process however it ends. On a real host, which a memory error may
take down, it is also on the disk (fdatasync) before the run goes on; on a simulated one that would cost more time than
the tests.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pytest_kvm_sea.reports.jsonl_reader import VERSION, RunFile, read
from pytest_kvm_sea.reports.record import CollectionError, Record, RunEnd, RunStart, TestId

__all__ = ["LIMIT", "VERSION", "JsonLines", "RunFile", "clean", "event_of", "read"]

LIMIT = 65536
"""Characters. Names of tests are never cut: they are what a run is gone on with by."""
_OMITTED = {"test", "outcome"}
_EMPTY: tuple[object, ...] = ("", {}, [])


class JsonLines:
    """The sink. With ``earlier`` it goes on with that run's file, and repeats nothing that the file has."""

    def __init__(self, path: Path, earlier: RunFile | None = None, now: RunStart | None = None) -> None:
        """``now``: the process that goes on, only with ``earlier``. Raises OSError."""
        self._path = path
        self._earlier = earlier
        self._now = now
        self._written = {record.test: record for record in earlier.records} if earlier else {}
        self._is_silent = earlier is not None and earlier.is_over
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        self._is_synced = False
        self._lock()

    def start(self, run: RunStart) -> None:
        # Cut only now: a usage error after the file was opened leaves what is in it.
        if self._is_silent:
            return
        if self._is_regular:
            os.ftruncate(self._file, self._earlier.size if self._earlier else 0)
        self._is_synced = self._is_regular and run.host == "linux"
        if self._is_synced:
            self._sync_directory()
        self._write(_start("start", run) if self._now is None else _start("resume", self._now))

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        self._write(
            {
                "event": "planned",
                "tests": [_test(test) for test in tests],
                "errors": [_plain(asdict(error)) | {"nodeid": clean(error.nodeid)} for error in errors],
            }
        )

    def started(self, test: TestId) -> None:
        self._write({"event": "started", **_test(test), "time": time.time()})

    def finished(self, record: Record) -> None:
        # A promise of the gate is looked after anew: then the later result counts, as it does for who reads the file.
        if self._written.get(record.test) != record:
            self._write(event_of(record))

    def end(self, run: RunEnd) -> None:
        self._write({"event": "end", **_plain(asdict(run))})
        if self._is_regular:
            os.fdatasync(self._file)
        self._close()

    def abandon(self) -> None:
        try:
            self._close()
        except OSError:
            self._file = -1  # the problem that led here is the one to tell of

    def _lock(self) -> None:
        """Against a second run on the same file, which would tear the first one's lines."""
        if not self._is_regular:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return  # a file system without locks
            self._close()
            raise OSError(error.errno, "another run is writing it", str(self._path)) from None

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._is_silent:
            return
        line = memoryview(json.dumps(event, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n")
        while line:
            line = line[os.write(self._file, line) :]
        if self._is_synced:
            os.fdatasync(self._file)

    def _sync_directory(self) -> None:
        """A new file that its directory does not have after a crash is no file."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def clean(text: str) -> str:
    """What the file says for a text: the same, but for lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def event_of(record: Record) -> dict[str, Any]:
    """A result as its line has it, cleaned and cut."""
    event = {"event": "result", **_test(record.test), "outcome": record.outcome.value}
    for name in (field.name for field in fields(Record) if field.name not in _OMITTED):
        value = getattr(record, name)
        if name == "subtests":
            value = [asdict(subtest) | {"outcome": subtest.outcome.value} for subtest in value]
        value = _plain(value)
        if value is not None and (name == "story" or value not in _EMPTY):
            event[name] = value
    return event


def _start(event: str, run: RunStart) -> dict[str, Any]:
    values = asdict(run)
    return {"event": event, "version": VERSION, "plugin": values.pop("version"), **_plain(values)}


def _test(test: TestId) -> dict[str, str]:
    return {"nodeid": clean(test.nodeid)} | ({"host": clean(test.host)} if test.host else {})


def _plain(value: Any) -> Any:
    """A value in what JSON has, every text cleaned and cut."""
    if isinstance(value, str):
        return _cut(clean(value))
    if isinstance(value, Mapping):
        return {clean(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _cut(clean(str(value)))


def _cut(text: str) -> str:
    """Both ends tell most: of the console where it began, of a failure what it came to."""
    if len(text) <= LIMIT:
        return text
    note = f"\n[kvm-sea: {len(text) - LIMIT} of {len(text)} characters were cut here]\n"
    return text[: LIMIT // 2] + note + text[-LIMIT // 2 :]
