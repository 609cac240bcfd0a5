# SPDX-License-Identifier: GPL-2.0-only
"""From the options of a run to the safeguards of its injections."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_kvm_sea.command_line import DRY_RUN
from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.options import settings
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.firmware import Firmware, FirmwareError
from pytest_kvm_sea.ras.journal import Journal, default_path
from pytest_kvm_sea.ras.lock import HostLock
from pytest_kvm_sea.ras.safeguards import Safeguards, not_named

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.ras.einj_files import Write
    from pytest_kvm_sea.reports.trace import Trace

_JOURNAL: pytest.StashKey[Journal] = pytest.StashKey()
EINJ: pytest.StashKey[Einj] = pytest.StashKey()
"""The client that a test uses, kept on its item: memory must not be unmapped before its pages are out of service."""


def forbidden(config: pytest.Config, host: Host) -> list[Missing]:
    """What the user has not allowed. A dry run writes nothing, and needs no leave."""
    chosen = settings(config)
    problem = None if chosen.dry_run else not_named(host, chosen.einj_host)
    return [] if problem is None else [problem]


def make_einj(item: pytest.Item, host: Host, trace: Trace) -> Einj:
    """The client of EINJ for one test. A simulated host has its own EINJ: no lock, and a journal only on demand."""
    chosen = settings(item.config)
    real = host.name != "sim"
    lock = None
    if real:
        lock = HostLock(host=host.node, test=item.nodeid, say=lambda text: say(item.config, text))

    def rehearse(writes: Sequence[Write]) -> NoReturn:
        say(item.config, "\n".join((f"kvm-sea: {item.nodeid} would write on {host.node}:", *map(str, writes))))
        pytest.skip(f"[dry-run] {len(writes)} writes were shown and none was made; leave out {DRY_RUN.flag}")

    firmware = Firmware(host, trace=trace)
    breaks_tables = real and _breaks_tables(firmware)
    einj = Einj(
        host,
        Safeguards(
            named=chosen.einj_host,
            lock=lock,
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
