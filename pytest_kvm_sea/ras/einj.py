# SPDX-License-Identifier: GPL-2.0-only
"""Inject memory errors by EINJ's files in debugfs (Documentation/firmware-guide/acpi/apei/einj.rst).

This destroys memory of the host. Everything that can be checked is checked before anything is written; the files are
global to the host and keep what is in them, so they are put back, whatever happens. A notrigger of 1 left behind
would silently disarm the injections of everybody else.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.ras import iomem
from pytest_kvm_sea.ras.einj_errors import refused
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.ras.pagemap import Pagemap

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

DIRECTORY = "/sys/kernel/debug/apei/einj"
TABLE = "/sys/firmware/acpi/tables/EINJ"
MEMORY_CE, MEMORY_UER, MEMORY_FATAL = 0x08, 0x10, 0x20
FLAG_MEMORY = 2
"""flags: param1 and param2 are a memory address and its mask."""
GRANULE = 64
"""What an arm64 server marks as corrupt: one cache line."""
GRANULE_MASK = (1 << 64) - GRANULE
"""param2. All bits above the page size are set, for pages of every size: the kernel insists on it."""

_injecting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Write:
    """One write to an EINJ file, in the order in which they were made."""

    file: str
    text: str
    restoring: bool = False


@dataclass(frozen=True, slots=True)
class Injection:
    """An error that was injected."""

    address: HostPA
    """What was asked for."""
    error_type: int
    notrigger: bool
    writes: tuple[Write, ...]
    """Every write that was made, those that put the files back included."""
    unrestored: tuple[str, ...] = ()
    """Files that do not hold what they held before: error_type takes back no text that means *unset*."""

    @property
    def granule(self) -> HostPA:
        """First of the 64 bytes that are poisoned now."""
        return HostPA(self.address // GRANULE * GRANULE)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that stands in the way: an id as in the reasons of skips, what is missing, how to get it."""

    id: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"[{self.id}] {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class EinjStatus:
    """What there is of EINJ, and why not."""

    table: bool
    """The firmware has an EINJ table."""
    files: tuple[str, ...]
    """Names in the EINJ directory; empty where it is missing or shut."""
    error_types: dict[int, str]
    """From available_error_type; empty where that cannot be read."""
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether memory errors can be injected at an address."""
        return not self.problems


class Einj:
    """The client of EINJ on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pagemap = Pagemap(host)
        self.injections: list[Injection] = []
        """Every error that was injected: pages that are to be taken out of service (`ras.retire`)."""

    # What there is

    def status(self) -> EinjStatus:
        """Which files and types there are. Reads only; raises nothing."""
        table = self._exists(TABLE)
        names, problems = self._names(table=table)
        types: dict[int, str] = {}
        if names:
            problems += self._missing_files(names)
            try:
                types = self.available_types()
            except EinjError as error:
                problems.append(Problem("einj-types", str(error), "see the kernel log for EINJ"))
            problems += self._locked_down()
            if types and MEMORY_UER not in types:
                offered = ", ".join(f"{number:#x}" for number in types)
                problems.append(
                    Problem(
                        "einj-memory-uer",
                        f"the firmware does not offer error type {MEMORY_UER:#x} (it offers {offered})",
                        "enable it in the firmware's set-up, or use another host",
                    )
                )
        return EinjStatus(table, names, types, tuple(problems))

    def available_types(self) -> dict[int, str]:
        """Number and name of every type that the firmware offers; those of EINJv2 (V2_...) are left out."""
        types = {}
        for line in self._read("available_error_type").splitlines():
            number, _, name = line.partition("\t")
            if number.startswith("0x"):
                types[int(number, 16)] = name
        return types

    # Injecting

    def inject_memory_error(self, hpa: HostPA, *, error_type: int = MEMORY_UER, notrigger: bool = True) -> Injection:
        """Break the 64-byte granule that holds host physical address ``hpa``.

        With ``notrigger`` the error waits until somebody consumes it; without, the firmware makes the kernel notice it
        at once, which takes the page offline. Raises EinjError; nothing was injected unless it carries an injection.
        """
        return self._inject(hpa, error_type, notrigger=notrigger, still_there=lambda: None)

    def inject_at(self, hva: HostVA, *, error_type: int = MEMORY_UER, notrigger: bool = True) -> Injection:
        """Break the granule that holds an address of this process.

        The address is translated before and once more just before the last write. Raises EinjError, also where its
        page has moved meanwhile, and TranslationError.
        """
        hpa = self._pagemap.translate(hva)

        def still_there() -> None:
            now = self._pagemap.translate(hva)
            if now != hpa:
                raise EinjError(
                    f"the page of host address {hva:#x} moved from {hpa:#x} to {now:#x} during the preparations;"
                    " nothing was injected. Lock the memory (mlock), or try again"
                )

        return self._inject(hpa, error_type, notrigger=notrigger, still_there=still_there)

    def _inject(self, hpa: HostPA, error_type: int, *, notrigger: bool, still_there: Callable[[], None]) -> Injection:
        self._check(hpa, error_type)
        knobs = {
            "error_type": f"{error_type:#x}",
            "flags": f"{FLAG_MEMORY:#x}",
            "param1": f"{hpa:#x}",
            "param2": f"{GRANULE_MASK:#x}",
            "notrigger": f"{int(notrigger)}",
        }
        with _injecting:
            if not notrigger and not self._exists(f"{DIRECTORY}/notrigger"):
                del knobs["notrigger"]
            transaction = _Transaction(self, {name: self._read(name) for name in knobs})
            try:
                for name, text in knobs.items():
                    transaction.write(name, text)
                still_there()
                transaction.write("error_inject", "1")
            except BaseException as error:
                transaction.restore_after(error)
                raise
            failures = transaction.restore()
        injection = Injection(hpa, error_type, notrigger, tuple(transaction.writes), tuple(transaction.unrestored))
        self.injections.append(injection)
        if failures:
            failures[0].injection = injection
            raise failures[0]
        return injection

    def _check(self, hpa: HostPA, error_type: int) -> None:
        """What can be known before anything is written. EinjError without an errno."""
        if hpa <= 0 or hpa >> 64:
            raise EinjError(
                f"{hpa:#x} is no physical address to inject at; a PFN of 0 is what pagemap shows to the unprivileged"
            )
        if self._ram is not None and not any(hpa in addresses for addresses in self._ram):
            ranges = ", ".join(f"{addresses.start:#x}-{addresses.stop - 1:#x}" for addresses in self._ram)
            raise EinjError(f"{hpa:#x} is not System RAM, which is {ranges} ({iomem.PATH}); nothing was injected")
        types = self._types
        if error_type not in types:
            offered = ", ".join(f"{number:#x} ({name})" for number, name in types.items()) or "none"
            raise EinjError(f"the firmware does not offer error type {error_type:#x}; it offers {offered}")

    @cached_property
    def _ram(self) -> list[range] | None:
        return iomem.system_ram(self._host)

    @cached_property
    def _types(self) -> dict[int, str]:
        return self.available_types()

    # Files

    def write_file(self, name: str, text: str) -> None:
        """Write to one of the files. EinjError with the kernel's errno."""
        path = f"{DIRECTORY}/{name}"
        try:
            with closing(self._host.open(path, os.O_WRONLY)) as file:
                file.write(text.encode())
        except OSError as error:
            raise refused(path, error, text) from error

    def _read(self, name: str) -> str:
        path = f"{DIRECTORY}/{name}"
        try:
            with closing(self._host.open(path, os.O_RDONLY)) as file:
                return file.read().decode("ascii", "replace")
        except OSError as error:
            raise refused(path, error) from error

    def _exists(self, path: str) -> bool:
        """Whether there is such a file; one behind a closed door counts as there."""
        try:
            self._host.access(path, os.F_OK)
        except OSError as error:
            return error.errno == errno.EACCES
        return True

    def _names(self, *, table: bool) -> tuple[tuple[str, ...], list[Problem]]:
        try:
            return tuple(self._host.listdir(DIRECTORY)), []
        except OSError as error:
            if error.errno == errno.EACCES:
                problem = Problem("root", f"{DIRECTORY} is open to root alone", "run as root")
            elif not table:
                problem = Problem(
                    "einj-table", "the firmware has no EINJ table", "enable error injection in the firmware's set-up"
                )
            else:
                problem = Problem("einj-module", "the EINJ module is not loaded", "modprobe einj")
            return (), [problem]

    @staticmethod
    def _missing_files(names: tuple[str, ...]) -> list[Problem]:
        if "param1" not in names or "flags" not in names:
            what = "EINJ takes no address"
            return [Problem("einj-parameters", what, "firmware with SET_ERROR_TYPE_WITH_ADDRESS (ACPI 5.0)")]
        if "notrigger" not in names:
            what = "EINJ has no notrigger: an error is reported at once and its page taken offline"
            return [Problem("einj-notrigger", what, "a kernel and firmware with notrigger")]
        return []

    def _locked_down(self) -> list[Problem]:
        try:
            self._host.open(f"{DIRECTORY}/error_type", os.O_RDWR).close()
        except OSError as error:
            if error.errno == errno.EPERM:
                what = "the kernel is locked down and keeps EINJ shut"
                return [Problem("lockdown", what, "boot with lockdown=none and without Secure Boot")]
            return [Problem("einj-files", str(refused(f"{DIRECTORY}/error_type", error)), "run as root")]
        return []


class _Transaction:
    """The writes of one injection, and the way back."""

    def __init__(self, einj: Einj, saved: dict[str, str]) -> None:
        self._einj = einj
        self._saved = saved
        self._changed: list[str] = []
        self.writes: list[Write] = []
        self.unrestored: list[str] = []

    def write(self, name: str, text: str) -> None:
        self.writes.append(Write(name, text))
        if name in self._saved:
            # Before the write: one that fails may have changed the file all the same (error_type since 6.17).
            self._changed.append(name)
        self._einj.write_file(name, text)

    def restore(self) -> list[EinjError]:
        """Put every file back that was written, the last one first; what failed."""
        failures = []
        for name in reversed(self._changed):
            text = self._saved[name].strip()
            if name == "error_type" and text in {"", "0x0"}:
                self.unrestored.append(name)
                continue
            self.writes.append(Write(name, text, restoring=True))
            try:
                self._einj.write_file(name, text)
            except EinjError as error:
                self.unrestored.append(name)
                # A text that the kernel refused before is refused again, and stays to be read as before.
                if name != "error_type":
                    failures.append(error)
        self._changed.clear()
        return failures

    def restore_after(self, error: BaseException) -> None:
        """Put the files back although something went wrong, and tell in ``error`` of what could not be."""
        for failure in self.restore():
            error.add_note(f"and putting EINJ back failed: {failure}")
