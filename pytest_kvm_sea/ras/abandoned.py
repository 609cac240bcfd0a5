# SPDX-License-Identifier: GPL-2.0-only
"""Injections of this boot that nobody finished: what may still be poisoned, and what to do about it. Reads only.

To be looked for by whoever holds the lock: then nobody else is in the middle of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.ras.einj_files import EinjFiles, Write, same_value, way_back
from pytest_kvm_sea.ras.errors import EinjError, RetireError
from pytest_kvm_sea.ras.journal import Entry, Journal, boot_id
from pytest_kvm_sea.ras.retire import HARD_OFFLINE, is_offline

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host


def abandoned(host: Host, journal: Journal) -> dict[str, str]:
    """Id and text of every injection that left something behind which still is as it left it. JournalError."""
    boot = boot_id(host)
    entries = [entry for entry in journal.entries() if entry.boot == boot and not entry.finished]
    return {entry.id: text for entry in entries if (text := _tell(host, journal, entry))}


def _tell(host: Host, journal: Journal, entry: Entry) -> str:
    parts = []
    if not entry.page_is_safe and not _is_offline(host, entry):
        parts.append(
            f"the page of {entry.hpa:#x} may be poisoned, and the kernel does not know it; whoever uses it now may be"
            f" hit by it. Take it out of service: echo {entry.hpa:#x} > {HARD_OFFLINE}"
        )
    commands = [] if entry.restored else _changed(host, entry)
    if commands:
        parts.append("EINJ's files are not as they were before. Put them back: " + "; ".join(map(str, commands)))
    if not parts:
        return ""
    return (
        f"an injection of {entry.time}, by process {entry.pid} for {entry.test}, was not finished: {'. '.join(parts)}."
        f" ({journal.path}, id {entry.id})"
    )


def _is_offline(host: Host, entry: Entry) -> bool:
    try:
        return is_offline(host, entry.hpa)
    except RetireError:
        return False


def _changed(host: Host, entry: Entry) -> list[Write]:
    """The way back, for those files that still hold what the injection wrote."""
    files = EinjFiles(host)
    written: dict[str, str] = {}
    for file, text in entry.writes:
        written.setdefault(file, text)  # what comes later is the way back
    back = []
    for write in way_back(dict(entry.knobs)):
        try:
            now = files.read(write.file).strip()
        except EinjError:
            now = ""
        if now != write.text and same_value(now, written.get(write.file, "")):
            back.append(Write(write.file, write.text))
    return back
