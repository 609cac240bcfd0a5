# SPDX-License-Identifier: GPL-2.0-only
"""What the host's kernel says while a test runs: its messages (/dev/kmsg, ABI/testing/dev-kmsg) and its taint.

The messages are the whole machine's. Reading them needs root, or kernel.dmesg_restrict=0.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_kvm_sea.reports.story import Taint

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import File, Host

KMSG = "/dev/kmsg"
TAINTED = "/proc/sys/kernel/tainted"
_RECORD = 8192
"""The longest record."""

TAINTS = {
    0: ("P", "a proprietary module was loaded"),
    1: ("F", "a module was loaded by force"),
    2: ("S", "the kernel runs on a CPU or firmware out of specification"),
    3: ("R", "a module was unloaded by force"),
    4: ("M", "a machine check: the hardware reported an error"),
    5: ("B", "a bad page reference, or unexpected page flags"),
    6: ("U", "user space asked for it"),
    7: ("D", "the kernel died: oops or BUG"),
    8: ("A", "an ACPI table was overridden"),
    9: ("W", "the kernel issued a warning"),
    10: ("C", "a driver of staging was loaded"),
    11: ("I", "a workaround for a severe bug of the firmware"),
    12: ("O", "a module from outside of the tree was loaded"),
    13: ("E", "an unsigned module was loaded"),
    14: ("L", "a soft lockup"),
    15: ("K", "the kernel was live-patched"),
    16: ("X", "auxiliary taint of the distribution"),
    17: ("T", "built with randomised structures"),
    18: ("N", "an in-kernel test ran"),
    19: ("J", "user space changed a device by fwctl"),
}
"""Bits of /proc/sys/kernel/tainted (kernel/panic.c taint_flags)."""


class KernelMessages:
    """An open /dev/kmsg, read from the oldest message that the kernel still has."""

    def __init__(self, host: Host) -> None:
        """Raises OSError."""
        self._file: File = host.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)

    def read_new(self) -> list[str]:
        """What has come since the last call, a line each; records that were overwritten are told of."""
        lines: list[str] = []
        while True:
            try:
                record = self._file.read(_RECORD)
            except BlockingIOError:
                return lines
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                lines.append("[messages were lost: the kernel's buffer is too small]")
                continue
            if not record:
                return lines
            lines.append(_text(record))


_readers: WeakKeyDictionary[Host, KernelMessages] = WeakKeyDictionary()
"""One for each host: a real one has many thousands of messages to skip, once."""


class KernelWatch:
    """What the kernel says from now on."""

    def __init__(self, host: Host, *, fresh: bool = False) -> None:
        """``fresh``: the host has just come into being, so that all that it ever says counts, and nothing is read yet.

        Raises nothing: what cannot be read is in `notes`.
        """
        self._host = host
        self.notes: list[str] = []
        self._fresh = fresh
        self._reader = None if fresh else self._open()
        self._before = 0 if fresh else self._taint()

    def _open(self) -> KernelMessages | None:
        try:
            reader = _readers.get(self._host)
            if reader is None:
                reader = _readers[self._host] = KernelMessages(self._host)
            if not self._fresh:
                reader.read_new()
        except OSError as error:
            self._note_unreadable(error)
            return None
        return reader

    def _note_unreadable(self, error: OSError) -> None:
        way = "; run as root, or with kernel.dmesg_restrict=0" if error.errno in (errno.EPERM, errno.EACCES) else ""
        note = f"the kernel's messages ({KMSG}) cannot be read: {error.strerror}{way}"
        if note not in self.notes:
            self.notes.append(note)

    def messages(self) -> list[str]:
        """The kernel's messages since this was made, or since the last call."""
        if self._fresh:
            self._reader = self._open()
        if self._reader is None:
            return []
        try:
            return self._reader.read_new()
        except OSError as error:
            self._note_unreadable(error)
            return []

    def taint(self) -> Taint | None:
        """The taint when this was made, and now; None where it cannot be read."""
        after = self._taint()
        if self._before is None or after is None:
            return None
        return Taint(self._before, after, tuple(explain_taint(after & ~self._before)))

    def _taint(self) -> int | None:
        try:
            with closing(self._host.open(TAINTED, os.O_RDONLY)) as file:
                return int(file.read())
        except (OSError, ValueError):
            return None


def explain_taint(taint: int) -> list[str]:
    """Each bit that is set: `W (9): the kernel issued a warning`."""
    unknown = ("?", "not known here")
    return [
        "{1} ({0}): {2}".format(bit, *TAINTS.get(bit, unknown)) for bit in range(taint.bit_length()) if taint >> bit & 1
    ]


def _text(record: bytes) -> str:
    """`6,339,5140900,-;text`, and lines with properties of a device: as dmesg shows it."""
    head, _, body = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    text = body.partition("\n")[0]
    if len(fields) < 3 or not fields[2].isdigit():
        return text
    return f"[{int(fields[2]) / 1e6:12.6f}] {text}"
