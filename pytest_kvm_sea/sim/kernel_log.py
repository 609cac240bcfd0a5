# SPDX-License-Identifier: GPL-2.0-only
"""The simulated kernel's messages, and /dev/kmsg (kernel/printk/printk.c devkmsg_read; ABI/testing/dev-kmsg).

Only what the kernel says about the things that are modelled: EINJ's driver, GHES and memory_failure. It starts empty:
nothing is said of a boot that never was.
"""

from __future__ import annotations

import enum
import errno
import os
import re
from time import perf_counter
from typing import TYPE_CHECKING

from pytest_kvm_sea.sim.files import SimFile, fail

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA

PATH = "/dev/kmsg"
_UNPRINTABLE = re.compile(r"[^ -\[\]-~]")


class Level(enum.IntEnum):
    """Log levels (include/linux/kern_levels.h)."""

    ERR = 3
    WARNING = 4
    INFO = 6


class KernelLog:
    """The ring buffer; nothing is ever overwritten."""

    def __init__(self) -> None:
        self._start = perf_counter()
        self._errors = 0
        self.records: list[bytes] = []
        """As /dev/kmsg gives them."""

    def add(self, level: Level, text: str) -> None:
        """printk() of one line."""
        escaped = _UNPRINTABLE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), text)
        microseconds = int((perf_counter() - self._start) * 1e6)
        self.records.append(f"{level:d},{len(self.records)},{microseconds},-;{escaped}\n".encode())

    def hardware_error(self, hpa: HostPA | None) -> None:
        """A recoverable error record of GHES with a memory section, or with none that says where
        (drivers/acpi/apei/ghes.c __ghes_print_estatus, drivers/firmware/efi/cper.c)."""
        self._errors += 1
        prefix = f"{{{self._errors}}}[Hardware Error]: "
        self.add(Level.ERR, f"{prefix}Hardware error from APEI Generic Hardware Error Source: 0")
        self.add(Level.ERR, f"{prefix}event severity: recoverable")
        if hpa is not None:
            self.add(Level.ERR, f"{prefix} Error 0, type: recoverable")
            self.add(Level.ERR, f"{prefix}  section_type: memory error")
            self.add(Level.ERR, f"{prefix}  physical_address: {hpa:#018x}")

    def memory_failure(self, pfn: int, text: str, level: Level = Level.ERR) -> None:
        """mm/memory-failure.c."""
        self.add(level, f"Memory failure: {pfn:#x}: {text}")


class KmsgFile(SimFile):
    """An open /dev/kmsg: one record per read, from the first.

    Where a read at the end would wait for the next message it is EAGAIN, also without O_NONBLOCK. Seeking and writing
    are not modelled.
    """

    seekable = False

    def __init__(self, flags: int, log: KernelLog, *, permitted: bool) -> None:
        """``permitted``: CAP_SYSLOG, for kernels with dmesg_restrict, which distributions set."""
        super().__init__(PATH, flags)
        if self.readable and not permitted:
            fail(errno.EPERM, PATH)
        self._log = log
        self._next = 0

    def read(self, size: int = -1, /) -> bytes:
        """One record whatever the size; EINVAL where it is too small for it."""
        self._check(readable=True)
        with self._lock:
            if self._next >= len(self._log.records):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), PATH)
            record = self._log.records[self._next]
            self._next += 1
            if 0 <= size < len(record):
                fail(errno.EINVAL, PATH)
            return record
