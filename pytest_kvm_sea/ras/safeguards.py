# SPDX-License-Identifier: GPL-2.0-only
"""What stands between a test and the memory of a real server. Simulated hosts have an EINJ each, and need nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.ras.einj_files import Write
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.ras.journal import Journal
from pytest_kvm_sea.ras.lock import HostLock, Share

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

OPTION = "--kvm-sea-einj-host"


@dataclass(frozen=True, slots=True)
class Safeguards:
    """How careful an `Einj` is."""

    named: str | None = None
    """The host whose memory the user allows to be destroyed, as uname -n; without it a real host is left alone."""
    lock: HostLock | Share | None = None
    """Held from before the first injection until the pages are out of service."""
    journal: Journal | None = None
    test: str = "an unnamed test"
    """Who injects, for the journal."""
    rehearse: Callable[[Sequence[Write]], NoReturn] | None = None
    """Given, nothing is ever written: it gets every write that would be made, and ends the test."""
    mend: Callable[[], None] | None = None
    """Called before pages are taken out of service: an emulated firmware mends what the kernel walks to do that."""


def not_named(host: Host, named: str | None) -> Missing | None:
    """Why this host's memory may not be destroyed; None where it may."""
    if host.name == "sim" or named == host.node:
        return None
    given = "no host was named" if named is None else f"{OPTION} names {named!r}"
    what = f"an injection destroys memory of this machine, which is {host.node!r}, and {given}"
    return Missing("einj-host", what, f"{OPTION}={host.node}")


def check_named(host: Host, named: str | None) -> None:
    """EinjError where this host's memory may not be destroyed."""
    problem = not_named(host, named)
    if problem is not None:
        raise EinjError(str(problem))
