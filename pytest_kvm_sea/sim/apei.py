# SPDX-License-Identifier: GPL-2.0-only
"""The host's APEI: error records of the firmware, and what the kernel makes of them (drivers/acpi/apei/ghes.c).

Two sources of errors: one is notified by SEA, and its records are about what the current thread has just consumed; the
other one is asynchronous, as of a patrol scrubber. The platform says what its firmware records for a guest's SEA.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.platforms.model import Platform, SeaPolicy
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.memory_failure import SENDING
from pytest_kvm_sea.sim.physical import EHWPOISON

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.memory_failure import MemoryFailure
    from pytest_kvm_sea.sim.process import Process

SI_KERNEL = 0x80
CACHE_SECONDS = 10.0
"""How long GHES remembers a record that it has dealt with (GHES_ESTATUS_IN_CACHE_MAX_NSEC)."""
CACHE_SIZE = 4
"""How many it remembers (GHES_ESTATUS_CACHES_SIZE)."""


class Severity(enum.Enum):
    """Of an asynchronous record of a memory error."""

    CORRECTED = "corrected"
    """Corrected once too often: the threshold is exceeded, and the page is taken out of service softly."""
    RECOVERABLE = "recoverable"
    """Uncorrected, and consumed by nobody yet."""


class Apei:
    """GHES of one host."""

    def __init__(
        self,
        platform: Platform,
        failure: MemoryFailure,
        process: Process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock``: seconds, for how long records are remembered."""
        self.present = platform.firmware.ghes
        """There are sources of errors. Without them nothing is claimed, and nothing reported."""
        self._policy = platform.firmware.sea
        self._tells_duplicates = platform.kernel.ghes_tells_duplicates
        self._failure = failure
        self._process = process
        self._clock = clock
        self._log = failure.log
        self._seen: dict[HostPA | None, float] = {}
        self.record: tuple[HostPA, Callable[[], None]] | None = None
        """An error record that waits to be read: what it says is broken, and what follows when it has been read."""

    # The source that is notified by SEA

    def claim_sea(self, hpa: HostPA | None) -> bool:
        """apei_claim_sea. True: the abort was dealt with; if that has a consequence for the VMM, it was sent SIGBUS.

        ``hpa``: where the error is; None where no memory of the kernel's is to blame.
        """
        if self.record is not None:
            (hpa, done), self.record = self.record, None
            done()
            return self._process_record(hpa)
        if self._policy is SeaPolicy.UNCLAIMED:
            return False
        if self._policy is SeaPolicy.DUPLICATE:
            return not self._tells_duplicates
        return self._process_record(None if self._policy is SeaPolicy.CLAIMED_UNHANDLED else hpa)

    def _process_record(self, hpa: HostPA | None) -> bool:
        """ghes_in_nmi_queue_one_entry, ghes_do_proc. A record that is in the cache is not looked at again."""
        if self._is_cached(hpa):
            return not self._tells_duplicates
        self._remember(hpa)
        self._log.hardware_error(hpa)
        if hpa is None:
            self._kill("GHES GHES.0: [Hardware Error]: GHES: {}: synchronous unrecoverable error (SIGBUS)")
        else:
            self._memory_failure(hpa)
        return True

    def _memory_failure(self, hpa: HostPA) -> None:
        """memory_failure_cb: what cannot be dealt with ends the thread that consumed it."""
        try:
            self._failure.handle(hpa, action_required=True)
        except OSError as error:
            if error.errno != EHWPOISON:
                self._kill(f"{self._failure.pfn(hpa):#x}: {SENDING}")

    def _kill(self, text: str) -> None:
        """force_sig, and ``text`` in the log, with the process where there is {}."""
        self._log.add(Level.ERR, text.format(self._process.label))
        self._process.deliver_sigbus(Sigbus(SI_KERNEL, HostVA(0)))

    def _is_cached(self, hpa: HostPA | None) -> bool:
        """Two records are the same if they name the same address: firmware puts no time into them."""
        seen = self._seen.get(hpa)
        return seen is not None and self._clock() - seen < CACHE_SECONDS

    def _remember(self, hpa: HostPA | None) -> None:
        self._seen.pop(hpa, None)
        while len(self._seen) >= CACHE_SIZE:
            del self._seen[next(iter(self._seen))]
        self._seen[hpa] = self._clock()

    # The asynchronous source

    def report(self, hpa: HostPA, severity: Severity) -> None:
        """A record of an error that nobody was just consuming; the kernel deals with it at once."""
        if not self.present:
            return
        self._log.hardware_error(hpa)
        # In a work queue, where nobody waits for the result (memory_failure_work_func).
        with contextlib.suppress(OSError):
            if severity is Severity.CORRECTED:
                self._failure.soft_offline(hpa)
            else:
                self._failure.handle(hpa)
