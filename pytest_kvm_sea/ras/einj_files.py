# SPDX-License-Identifier: GPL-2.0-only
"""EINJ's files in debugfs: reading, writing, and putting back what was written.

The files are global to the machine and keep what is in them. A notrigger of 1 left behind would silently disarm the
injections of everybody else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.ras.einj_errors import refused
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.reports.trace import NO_TRACE, Step, Trace

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

DIRECTORY = "/sys/kernel/debug/apei/einj"


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a file: one of EINJ's by its name, any other by its path."""

    file: str
    text: str
    restoring: bool = False
    why: str = ""

    @property
    def path(self) -> str:
        return self.file if self.file.startswith("/") else f"{DIRECTORY}/{self.file}"

    def __str__(self) -> str:
        return f"echo {self.text} > {self.path}" + (f"  # {self.why}" if self.why else "")


class EinjFiles:
    """The files of one host, by name. Every error is an EinjError with the kernel's errno and what it means."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, name: str) -> str:
        path = f"{DIRECTORY}/{name}"
        try:
            file = self._host.open(path, os.O_RDONLY)
            try:
                return file.read().decode("ascii", "replace")
            finally:
                file.close()
        except OSError as error:
            raise refused(path, error) from error

    def write(self, name: str, text: str) -> None:
        path = f"{DIRECTORY}/{name}"
        try:
            file = self._host.open(path, os.O_WRONLY)
            try:
                file.write(text.encode())
            finally:
                file.close()
        except OSError as error:
            raise refused(path, error, text) from error

    def available_types(self) -> dict[int, str]:
        """Number and name of every type that the firmware offers; those of EINJv2 (V2_...) are left out."""
        types = {}
        for line in self.read("available_error_type").splitlines():
            number, _, name = line.partition("\t")
            if number.startswith("0x"):
                types[int(number, 16)] = name
        return types


def way_back(saved: dict[str, str]) -> list[Write]:
    """The writes that put files back that held these texts, last file first.

    error_type is left out where it held nothing: it takes back no text that means *unset*.
    """
    return [
        Write(name, text.strip(), restoring=True, why="as it was before")
        for name, text in reversed(saved.items())
        if name != "error_type" or text.strip() not in {"", "0x0"}
    ]


def same_value(shown: str, written: str) -> bool:
    """Whether a file that shows this holds what was written: the kernel shows numbers with leading zeros."""
    try:
        return int(shown, 0) == int(written, 0)
    except ValueError:
        return shown.strip() == written.strip()


class Transaction:
    """The writes of one injection, and the way back."""

    def __init__(self, files: EinjFiles, saved: dict[str, str], trace: Trace = NO_TRACE) -> None:
        """``saved``: what the files that will be written hold now."""
        self._files = files
        self._trace = trace
        self._saved = saved
        self._changed: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self.writes: list[Write] = []
        self.unrestored: list[str] = []
        """After `restore`: names of files that do not hold what they held before."""

    def write(self, write: Write) -> None:
        self.writes.append(write)
        if write.file in self._saved:
            # Before the write: one that fails may have changed the file all the same (error_type since 6.17).
            self._changed[write.file] = self._saved[write.file]
            self._written[write.file] = write.text
        self._do(write)

    def _do(self, write: Write) -> None:
        try:
            self._files.write(write.file, write.text)
        except EinjError as error:
            self._trace.add(Step.WRITE, None, write, str(error))
            raise
        self._trace.add(Step.WRITE, None, write, None)

    def check(self) -> None:
        """EinjError where a file does not hold any more what was written to it: somebody else uses EINJ as well.

        No lock of the driver's spans several files, so nothing can close the gap between this look and error_inject.
        """
        for name, text in self._written.items():
            found = self._files.read(name).strip()
            if not same_value(found, text):
                raise EinjError(
                    f"{DIRECTORY}/{name} holds {found!r}, and {text!r} was written to it a moment ago: another process"
                    " uses EINJ on this host at the same time; nothing was injected. Find out who, and take turns",
                    file=name,
                    value=text,
                )

    def _others(self, write: Write) -> str | None:
        """What a file holds that is neither what was written here nor what was there before. None: one of these.

        None as well for a file that cannot be read: whether it can be written will show.
        """
        try:
            found = self._files.read(write.file).strip()
        except EinjError:
            return None
        known = (self._written[write.file], write.text)
        return None if any(same_value(found, text) for text in known) else found

    def restore(self) -> list[EinjError]:
        """Put every file back that was written, the last one first; what failed.

        A file that somebody else has written to since then is left alone.
        """
        failures = []
        back = way_back(self._changed)
        self.unrestored += [name for name in self._changed if name not in {write.file for write in back}]
        for write in back:
            if self._others(write) is not None:
                self.unrestored.append(write.file)
                continue
            self.writes.append(write)
            try:
                self._do(write)
            except EinjError as error:
                self.unrestored.append(write.file)
                # A text that the kernel refused before is refused again, and stays to be read as before.
                if write.file != "error_type":
                    failures.append(error)
        self._changed.clear()
        return failures
