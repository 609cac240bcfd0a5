# SPDX-License-Identifier: GPL-2.0-only
"""What a host has of EINJ, and what stands in the way. Reads only; raises nothing."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.ras.einj_errors import refused
from pytest_kvm_sea.ras.einj_files import DIRECTORY, EinjFiles
from pytest_kvm_sea.ras.errors import EinjError

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

TABLE = "/sys/firmware/acpi/tables/EINJ"
MEMORY_CE, MEMORY_UER, MEMORY_FATAL = 0x08, 0x10, 0x20


@dataclass(frozen=True, slots=True)
class EinjStatus:
    """What there is of EINJ, and why not."""

    table: bool
    """The firmware has an EINJ table."""
    files: tuple[str, ...]
    """Names in the EINJ directory; empty where it is missing or shut."""
    error_types: dict[int, str]
    """From available_error_type; empty where that cannot be read."""
    problems: tuple[Missing, ...]

    @property
    def usable(self) -> bool:
        """Whether memory errors can be injected at an address."""
        return not self.problems


def status(host: Host) -> EinjStatus:
    """Which files and types there are."""
    table = exists(host, TABLE)
    names, problems = _names(host, table=table)
    types: dict[int, str] = {}
    if names:
        problems += _missing_files(names)
        try:
            types = EinjFiles(host).available_types()
        except EinjError as error:
            problems.append(Missing("einj-types", str(error), "see the kernel log for EINJ"))
        problems += _locked_down(host)
        if types and MEMORY_UER not in types:
            offered = ", ".join(f"{number:#x}" for number in types)
            what = f"the firmware does not offer error type {MEMORY_UER:#x} (it offers {offered})"
            problems.append(Missing("einj-memory-uer", what, "enable it in the firmware's set-up, or use another host"))
    return EinjStatus(table, names, types, tuple(problems))


def exists(host: Host, path: str) -> bool:
    """Whether there is such a file; one behind a closed door counts as there."""
    try:
        host.access(path, os.F_OK)
    except OSError as error:
        return error.errno == errno.EACCES
    return True


def _names(host: Host, *, table: bool) -> tuple[tuple[str, ...], list[Missing]]:
    try:
        return tuple(host.listdir(DIRECTORY)), []
    except OSError as error:
        if error.errno == errno.EACCES:
            problem = Missing("root", f"{DIRECTORY} is open to root alone", "run as root")
        elif not table:
            problem = Missing(
                "einj-table", "the firmware has no EINJ table", "enable error injection in the firmware's set-up"
            )
        else:
            problem = Missing("einj-module", "the EINJ module is not loaded", "modprobe einj")
        return (), [problem]


def _missing_files(names: tuple[str, ...]) -> list[Missing]:
    if "param1" not in names or "flags" not in names:
        what = "EINJ takes no address"
        return [Missing("einj-parameters", what, "firmware with SET_ERROR_TYPE_WITH_ADDRESS (ACPI 5.0)")]
    if "notrigger" not in names:
        what = "EINJ has no notrigger: an error is reported at once and its page taken offline"
        return [Missing("einj-notrigger", what, "a kernel and firmware with notrigger")]
    return []


def _locked_down(host: Host) -> list[Missing]:
    try:
        host.open(f"{DIRECTORY}/error_type", os.O_RDWR).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            what = "the kernel is locked down and keeps EINJ shut"
            return [Missing("lockdown", what, "boot with lockdown=none and without Secure Boot")]
        return [Missing("einj-files", str(refused(f"{DIRECTORY}/error_type", error)), "run as root")]
    return []
