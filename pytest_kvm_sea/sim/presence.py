# SPDX-License-Identifier: GPL-2.0-only
"""Which pages of this very Python process have been touched, from the real /proc/self/pagemap.

Simulated memory is real anonymous memory of this process, so the real kernel knows which pages exist. Bits 63
(present), 62 (swapped) and 56 (mapped only here) are shown to the unprivileged too.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct

PRESENT, SWAPPED, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
_CHUNK = 8192
"""Entries read at once: 64 KiB of them tell about 32 MiB of memory."""


class Presence(enum.Enum):
    """What a fault has put behind a page so far."""

    ABSENT = "absent"
    """Never touched."""
    ZERO = "zero"
    """Only read: the kernel's shared page of zeros, or a page of our own that is indistinguishable from it."""
    OWN = "own"
    """A page of the process' own."""


def presence(address: int, size: int) -> Presence:
    """The most that is known of any page in the range; OWN where the real pagemap cannot be read."""
    first = address // mmap.PAGESIZE
    last = -(-(address + size) // mmap.PAGESIZE)
    found = Presence.ABSENT
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Presence.OWN
    try:
        for start in range(first, last, _CHUNK):
            data = os.pread(descriptor, 8 * min(_CHUNK, last - start), 8 * start)
            if not data.strip(b"\0"):
                continue
            for (entry,) in struct.iter_unpack("=Q", data):
                if entry & SWAPPED or entry & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE:
                    return Presence.OWN
                if entry & PRESENT:
                    found = Presence.ZERO
    finally:
        os.close(descriptor)
    return found
