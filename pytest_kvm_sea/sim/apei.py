# SPDX-License-Identifier: GPL-2.0-only
"""The host's APEI: does it claim a synchronous external abort, and what does the VMM see then?

drivers/acpi/apei/ghes.c ghes_notify_sea and memory_failure. The platform says what its firmware records.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.platforms.model import SeaPolicy
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.physical import EHWPOISON

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

BUS_MCEERR_AR = 4
_COMM = "pytest"
"""The simulated VMM's name in the kernel's messages."""
SI_KERNEL = 0x80


class Apei:
    """apei_claim_sea of one host."""

    def __init__(self, policy: SeaPolicy, physical: PhysicalMemory, process: Process) -> None:
        self._policy = policy
        self._physical = physical
        self._process = process
        self.record: tuple[HostPA, Callable[[], None]] | None = None
        """An error record that waits to be read: what it says is broken, and what follows when it has been read."""

    def claim_sea(self, hpa: HostPA | None) -> bool:
        """True: the abort was dealt with; its consequence for the VMM, a SIGBUS, has been delivered."""
        if self.record is not None:
            (hpa, done), self.record = self.record, None
            done()
            self._memory_failure(hpa)
            return True
        if self._policy is SeaPolicy.UNCLAIMED:
            return False
        if self._policy is SeaPolicy.CLAIMED_UNHANDLED or hpa is None:
            self._physical.log.hardware_error(None)
            self._physical.log.add(
                Level.ERR,
                f"GHES GHES.0: [Hardware Error]: GHES: {_COMM}:{os.getpid()}: synchronous unrecoverable error (SIGBUS)",
            )
            self._process.deliver_sigbus(Sigbus(SI_KERNEL, HostVA(0)))
            return True
        self._memory_failure(hpa)
        return True

    def _memory_failure(self, hpa: HostPA) -> None:
        """The page is taken from every mapping; who was using it gets SIGBUS with its address and size.

        A page that is offline already kills who touches it all the same; one that cannot be taken is SI_KERNEL
        (ghes.c, memory_failure_cb; mm/memory-failure.c kill_accessing_process).
        """
        log, pfn = self._physical.log, hpa // self._physical.page_size
        killed = f"Sending SIGBUS to {_COMM}:{os.getpid()} due to hardware memory corruption"
        log.hardware_error(hpa)
        hva = self._process.hva_of(hpa)
        if hva is not None:
            log.memory_failure(pfn, killed)
        try:
            self._physical.offline(hpa)
        except OSError as error:
            if error.errno != EHWPOISON:
                log.add(Level.ERR, f"{pfn:#x}: {killed}")
                self._process.deliver_sigbus(Sigbus(SI_KERNEL, HostVA(0)))
                return
        _, size = self._physical.page_unit(hpa)
        address = HostVA(0) if hva is None else HostVA(hva // size * size)
        self._process.deliver_sigbus(Sigbus(BUS_MCEERR_AR, address, size.bit_length() - 1))
