# SPDX-License-Identifier: GPL-2.0-only
"""From a target to a host: the one module above the hosts that knows which implementation is which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.targets import Target

_PROBED: pytest.StashKey[dict[str, Host]] = pytest.StashKey()


def make_host(target: Target) -> Host:
    """A host for this target."""
    if target.host == "linux":
        from pytest_kvm_sea.hosts.linux import LinuxHost
        from pytest_kvm_sea.uapi.revisions import REVISIONS

        return LinuxHost(REVISIONS[target.revision])
    from pytest_kvm_sea.sim.host import SimHost

    return SimHost(target.load_platform())


def probe_host(config: pytest.Config, target: Target) -> Host:
    """The host that requirements are looked up on: one for the whole run, so that probes run once.

    What is found stays true for the fresh simulated hosts of the tests, because all of them are made from one platform.
    """
    probed = config.stash.setdefault(_PROBED, {})
    if target.id not in probed:
        host = make_host(target)
        probed[target.id] = host
        config.add_cleanup(host.close)
    return probed[target.id]


@contextlib.contextmanager
def open_host(config: pytest.Config, target: Target) -> Iterator[Host]:
    """The host for one test: a fresh one where it is simulated, so that no test sees another one's poison."""
    if target.host == "linux":
        yield probe_host(config, target)
        return
    host = make_host(target)
    try:
        yield host
    finally:
        host.close()


def debugfs_of(host: Host) -> Path:
    """Where the simulated debugfs tree is on this machine. Skips the test on a real host, which has its own."""
    from pytest_kvm_sea.sim.host import SimHost

    if not isinstance(host, SimHost):
        pytest.skip("[simulated-debugfs] a real host has no fake debugfs tree; run with --kvm-sea-host=sim")
    return host.debugfs
