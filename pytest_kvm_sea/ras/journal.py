# SPDX-License-Identifier: GPL-2.0-only
"""A journal of injections, on disk before memory is destroyed.

If the session dies between the injection and the clean-up, a poisoned page goes back to the kernel's pool and nobody
knows. The journal knows: one JSON object per line, appended and flushed to the disk (fsync) before the first write to
EINJ, and after each step.

- begin (time, host, boot, pid, test, hva, hpa, page_size, knobs, writes): before the first write
- injected: the kernel reported success
- failed (error, certain): it did not; ``certain`` tells whether that means that nothing was injected
- restored (unrestored): EINJ's files were put back, but for those named, which take nothing back
- unrestored (unrestored): the files that are named could not be put back
- retired (by): the page was taken out of service, and is seen to be
- kept (error): it could not be taken out of service
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.ras.errors import JournalError, errno_name
from pytest_kvm_sea.ras.lock import now

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

NAME = "einj-journal.jsonl"
DIRECTORY = "pytest-kvm-sea"
SYSTEM_STATE = Path("/var/lib")
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def default_path() -> Path:
    """Where root's sessions keep it, whoever became root: below /var/lib; for others, in their state directory."""
    if os.geteuid() == 0:
        return SYSTEM_STATE / DIRECTORY / NAME
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / DIRECTORY / NAME


def boot_id(host: Host) -> str:
    """Of the host's running kernel; empty where it has none. Poison and retired pages last for one boot."""
    try:
        with closing(host.open(BOOT_ID, os.O_RDONLY)) as file:
            return file.read().decode("ascii", "replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An injection that was begun, and how far it got."""

    id: str
    time: str
    boot: str
    pid: int
    test: str
    hpa: HostPA
    knobs: Mapping[str, str]
    """What EINJ's files held before."""
    writes: Sequence[tuple[str, str]]
    """(file, text) of everything that was to be written."""
    events: frozenset[str]
    """What came after ``begin``."""

    @property
    def restored(self) -> bool:
        return "restored" in self.events

    @property
    def page_is_safe(self) -> bool:
        """Nothing was injected, or the page is out of service."""
        return "retired" in self.events or "nothing" in self.events

    @property
    def finished(self) -> bool:
        return self.restored and self.page_is_safe


class Journal:
    """One file. Several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: set[str] = set()
        """Ids of unfinished injections that this session has told of."""

    def begin(self, **fields: object) -> str:
        """Write down an injection that is about to be made; its id. JournalError if it is not safely on disk."""
        entry = uuid.uuid4().hex[:12]
        self._append({"event": "begin", "id": entry, "time": now(), "pid": os.getpid(), **fields})
        return entry

    def note(self, event: str, entry: str, **fields: object) -> None:
        """Write down what became of it. JournalError."""
        self._append({"event": event, "id": entry, "time": now(), **fields})

    def entries(self) -> list[Entry]:
        """All injections, in the order in which they were begun. JournalError if the file cannot be read."""
        begun: dict[str, dict[str, object]] = {}
        events: dict[str, set[str]] = {}
        for record in self._records():
            key = str(record.get("id"))
            if record["event"] == "begin":
                begun[key] = record
                events[key] = set()
            elif key in events:
                events[key].add("nothing" if record.get("certain") else str(record["event"]))
        return [entry for key, record in begun.items() if (entry := _entry(record, events[key]))]

    def _records(self) -> Iterator[dict[str, object]]:
        try:
            text = self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error("read", error) from error
        for line in text.splitlines():
            # A line that was cut off by a crash was never flushed, so what it announced was not done.
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "event" in record:
                yield record

    def _append(self, record: Mapping[str, object]) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            descriptor = self._open()
            try:
                if _cut_off(descriptor):
                    line = b"\n" + line
                # One write: the kernel appends it in one piece, whoever else appends.
                if os.write(descriptor, line) != len(line):
                    raise OSError(28, os.strerror(28))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._error("written", error) from error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, flags | os.O_CREAT, 0o644)
        _sync_directory(self.path.parent)
        return descriptor

    def _error(self, what: str, error: OSError) -> JournalError:
        return JournalError(
            f"the journal {self.path} cannot be {what}: {errno_name(error.errno or 0)}, {error.strerror}; nothing is"
            " injected without it. Make room, or name another file with --kvm-sea-journal"
        )


def _entry(record: Mapping[str, object], events: set[str]) -> Entry | None:
    """None for a record of another make."""
    try:
        return Entry(
            id=str(record["id"]),
            time=str(record["time"]),
            boot=str(record["boot"]),
            pid=int(str(record["pid"])),
            test=str(record["test"]),
            hpa=HostPA(int(str(record["hpa"]), 16)),
            knobs=dict(record["knobs"]),  # type: ignore[call-overload] # TypeError where it is no mapping
            writes=[(str(file), str(text)) for file, text in record["writes"]],  # type: ignore[attr-defined] # as above
            events=frozenset(events),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _cut_off(descriptor: int) -> bool:
    """Whether the last line has no end, because writing it was cut off."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
