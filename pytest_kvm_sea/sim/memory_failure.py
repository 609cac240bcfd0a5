# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel does about a page of broken memory, and whom it tells (mm/memory-failure.c).

| who calls                                    | flags           | the process that has the page mapped               |
|----------------------------------------------|-----------------|----------------------------------------------------|
| GHES, for an SEA (synchronous)               | action required | the thread that consumed it: BUS_MCEERR_AR, forced |
| madvise MADV_HWPOISON                        | action required | the caller: the same                               |
| GHES, else (patrol scrub, EINJ's trigger)    | none            | only if it wants to know early: BUS_MCEERR_AO      |
| hard_offline_page                            | none            | the same                                           |
| soft_offline_page, corrected errors over the | soft offline    | nothing: its page is another one afterwards        |
| threshold                                    |                 |                                                    |

Whoever touches the page later finds a hwpoison entry: for a guest, KVM sends BUS_MCEERR_AR (`sim.kvm.abort`).
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, NoReturn

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.physical import EHWPOISON, Offline
from pytest_kvm_sea.sim.presence import Presence

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process, SimMemory

BUS_MCEERR_AR, BUS_MCEERR_AO = 4, 5
SENDING = "Sending SIGBUS to {} due to hardware memory corruption"


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


class MemoryFailure:
    """memory_failure and soft_offline_page of one host, with the sysctls that they look at."""

    def __init__(self, physical: PhysicalMemory, process: Process) -> None:
        self._physical = physical
        self._process = process
        self._lock = threading.RLock()
        self.log = physical.log
        self.early_kill = False
        """vm.memory_failure_early_kill: processes that did not say by prctl when they want to know, want it early."""
        self.enable_soft_offline = True
        """vm.enable_soft_offline."""

    def handle(self, hpa: int, *, action_required: bool = False) -> None:
        """memory_failure(): take the page at ``hpa`` away from everybody, for good.

        OSError: ENXIO outside the kernel's memory; EBUSY if the page is the kernel's own, or a hugetlb page that is
        promised to somebody (marked, not recovered); EHWPOISON if it was offline before. `SigbusNotCaptured` where
        the signal would have killed the process.
        """
        physical = self._physical
        if not physical.is_ram(hpa):
            self._say(hpa, "memory outside kernel control")
            _fail(errno.ENXIO)
        with self._lock:
            if physical.is_offline(hpa):
                signal = self._of_an_offline_page(hpa, action_required=action_required)
                code, action = EHWPOISON, "recovery action for already poisoned page: Failed"
            else:
                signal, kind = self._take_away(hpa)
                code, action = 0, f"recovery action for {kind}: Recovered"
        thread = None if signal is None else self._recipient(action_required=action_required)
        if thread is not None:
            self._say(hpa, SENDING.format(self._process.label))
        self._say(hpa, action)
        if signal is not None and thread is not None:
            code_ = BUS_MCEERR_AR if action_required else BUS_MCEERR_AO
            self._process.deliver_sigbus(Sigbus(code_, signal.address, signal.lsb), thread=thread)
        elif action_required:
            code = 0  # nobody has it mapped any more: nothing is left to be done
        if code:
            _fail(code)

    def pfn(self, hpa: int) -> int:
        return hpa // self._physical.page_size

    def _say(self, hpa: int, text: str) -> None:
        self.log.memory_failure(self.pfn(hpa), text)

    def soft_offline(self, hpa: int) -> None:
        """soft_offline_page(): move what is in the page to another one, and take the page out of service.

        OSError: ENXIO outside the kernel's memory, EOPNOTSUPP if switched off, ENOTRECOVERABLE if it is the kernel's
        own, ENOMEM if there is no page to move to. A page that is offline already is no error.
        """
        physical = self._physical
        if not physical.is_ram(hpa):
            _fail(errno.ENXIO)
        if not self.enable_soft_offline:
            _fail(errno.EOPNOTSUPP)
        with self._lock:
            if physical.is_offline(hpa):
                self.log.add(Level.INFO, f"Soft offline: {self.pfn(hpa):#x}: page already poisoned")
                return
            if hpa in physical.map.kernel:
                self._say(hpa, "unhandlable page.")
                _fail(errno.ENOTRECOVERABLE)
            found = self._process.memory_at(hpa)
            was = Offline.FREE
            if found is not None:
                if found[0].presence(found[1]) is Presence.OWN and physical.huge_page(hpa) is None:
                    was = Offline.ANONYMOUS
                self._process.migrate_entry(*found)
            physical.take_offline(hpa, was)

    def _take_away(self, hpa: int) -> tuple[Sigbus | None, str]:
        """Mark the page and unmap it; what there is to tell the process that had it, and what kind of page it was."""
        if hpa in self._physical.map.kernel:
            self._physical.take_offline(hpa, Offline.KERNEL)
            self._say(hpa, "unhandlable page.")
            self._say(hpa, "recovery action for reserved kernel page: Ignored")
            _fail(errno.EBUSY)
        ordinary = self._physical.huge_page(hpa) is None
        free = "free buddy page" if ordinary else "free huge page"
        found = self._process.memory_at(hpa)
        if found is None:
            self._physical.take_offline(hpa, Offline.FREE)
            return None, free
        memory, offset = found
        if memory.presence(offset) is not Presence.OWN:
            self._take_free_page(hpa, memory, offset, free)
            return None, free
        signal = self._signal(memory, offset)
        memory.frames.lose(offset)
        self._physical.take_offline(hpa, Offline.ANONYMOUS if ordinary else Offline.FREE)
        return signal, "dirty LRU page" if ordinary else "huge page"

    def _take_free_page(self, hpa: int, memory: SimMemory, offset: int, kind: str) -> None:
        """Frames are bound when memory is mapped: a real kernel would not have chosen one for this page yet."""
        try:
            self._process.migrate_entry(memory, offset)
        except OSError:
            self._physical.take_offline(hpa, Offline.FREE)
            memory.frames.lose(offset)
            self._say(hpa, f"recovery action for {kind}: Failed")
            _fail(errno.EBUSY)
        self._physical.take_offline(hpa, Offline.FREE)

    def _of_an_offline_page(self, hpa: int, *, action_required: bool) -> Sigbus | None:
        """kill_accessing_process: by a walk through the page tables, for a hwpoison entry of this very page."""
        if not action_required:
            return None
        found = self._process.hwpoison_entry(hpa)
        return None if found is None else self._signal(*found)

    def _signal(self, memory: SimMemory, offset: int) -> Sigbus:
        """The page that failed, and how much of the mapping went with it."""
        page = offset // memory.frames.page_size * memory.frames.page_size
        return Sigbus(BUS_MCEERR_AR, HostVA(memory.address + page), memory.frames.entry.bit_length() - 1)

    def _recipient(self, *, action_required: bool) -> int | None:
        """The thread that is told."""
        if action_required:
            return threading.get_ident()
        return self._process.early_kill_thread(by_default=self.early_kill)
