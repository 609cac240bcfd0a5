# SPDX-License-Identifier: GPL-2.0-only
"""From the options of a run to the safeguards of its injections."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_kvm_sea.command_line import DRY_RUN
from pytest_kvm_sea.hosts.contract import SharedPool
from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.options import settings
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.ras.firmware import Firmware, FirmwareError
from pytest_kvm_sea.ras.journal import Journal, default_path
from pytest_kvm_sea.ras.lock import INJECT, MAP_HUGETLB, HostLock, Turn
from pytest_kvm_sea.ras.safeguards import Safeguards, not_named

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.ras.einj_files import Write
    from pytest_kvm_sea.reports.trace import Trace

_JOURNAL: pytest.StashKey[Journal] = pytest.StashKey()
EINJ: pytest.StashKey[Einj] = pytest.StashKey()
"""The client that a test uses, kept on its item: memory must not be unmapped before its pages are out of service."""
TURN: pytest.StashKey[Turn] = pytest.StashKey()
"""The turn of a test on a real host, kept on its item."""


def forbidden(config: pytest.Config, host: Host) -> list[Missing]:
    """What the user has not allowed. A dry run writes nothing, and needs no leave."""
    chosen = settings(config)
    problem = None if chosen.dry_run else not_named(host, chosen.einj_host)
    return [] if problem is None else [problem]


@contextlib.contextmanager
def taking_turns(config: pytest.Config, host: Host, who: str) -> Iterator[Turn | None]:
    """While this lasts, hugetlb memory of a real host is mapped when nobody else on the machine has any, or injects.

    Whoever maps some first has the machine's lock to the end of this. ``who``: what others are told that wait. Gives
    the turn, for EINJ; None on a simulated host, which is nobody else's.
    """
    if host.name == "sim":
        yield None
        return
    turn = Turn(HostLock(host=host.node, test=who, say=lambda text: say(config, text)))
    share = turn.share(MAP_HUGETLB)

    def wait() -> None:
        try:
            share.acquire()
        except OSError as error:  # not as it is: an OSError of map_memory would mean that there are no pages
            raise EinjError(
                f"the lock {share.path} cannot be used ({error.strerror}); no hugetlb memory was mapped. Make it"
                " readable"
            ) from error

    with turn, _before_hugetlb(host, wait):
        yield turn


@contextlib.contextmanager
def _before_hugetlb(host: Host, call: Callable[[], None]) -> Iterator[None]:
    if not isinstance(host, SharedPool):
        yield
        return
    before, host.before_hugetlb = host.before_hugetlb, call
    try:
        yield
    finally:
        host.before_hugetlb = before


@contextlib.contextmanager
def turn_of_test(item: pytest.Item, host: Host) -> Iterator[None]:
    """Around all that a test does with a host."""
    with taking_turns(item.config, host, item.nodeid) as turn:
        if turn is None:
            yield
            return
        item.stash[TURN] = turn
        try:
            yield
        finally:
            del item.stash[TURN]


def make_einj(item: pytest.Item, host: Host, trace: Trace) -> Einj:
    """The client of EINJ for one test. A simulated host has its own EINJ: no lock, and a journal only on demand."""
    chosen = settings(item.config)
    real = host.name != "sim"

    def rehearse(writes: Sequence[Write]) -> NoReturn:
        say(item.config, "\n".join((f"kvm-sea: {item.nodeid} would write on {host.node}:", *map(str, writes))))
        pytest.skip(f"[dry-run] {len(writes)} writes were shown and none was made; leave out {DRY_RUN.flag}")

    firmware = Firmware(host, trace=trace)
    breaks_tables = real and _breaks_tables(firmware)
    einj = Einj(
        host,
        Safeguards(
            named=chosen.einj_host,
            lock=item.stash[TURN].share(INJECT) if real else None,
            journal=_journal(item.config) if real or chosen.journal else None,
            test=item.nodeid,
            rehearse=rehearse if chosen.dry_run else None,
            mend=firmware.mend_einj if breaks_tables else None,
        ),
        trace,
    )
    einj.broken_table_level = firmware.einj_level if breaks_tables else None
    item.stash[EINJ] = einj
    return einj


def _breaks_tables(firmware: Firmware) -> bool:
    """Whether the firmware behind EINJ is an emulated machine's, which cannot break a cell."""
    try:
        return "einj-mend" in firmware.ask("about")["operations"]
    except FirmwareError:
        return False


def retire_before_unmapping(item: pytest.Item) -> None:
    """Called before memory of a VM goes, whichever fixture came first."""
    if EINJ in item.stash:
        item.stash[EINJ].close()


def forget(item: pytest.Item) -> None:
    """The test is over. Items live to the end of the run, and would keep its host."""
    del item.stash[EINJ]


def say(config: pytest.Config, text: str) -> None:
    """Put lines on the terminal now, past the capture of output; from a worker of xdist by way of stderr."""
    stream = "stderr" if hasattr(config, "workerinput") else "stdout"
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        getattr(sys, stream).write(f"\n{text}\n")
        getattr(sys, stream).flush()


def _journal(config: pytest.Config) -> Journal:
    """One for the run, so that what is found in it is told once."""
    if _JOURNAL not in config.stash:
        config.stash[_JOURNAL] = Journal(settings(config).journal or default_path())
    return config.stash[_JOURNAL]
