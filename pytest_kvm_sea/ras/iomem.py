# SPDX-License-Identifier: GPL-2.0-only
"""What /proc/iomem says about physical memory (kernel/resource.c)."""

from __future__ import annotations

import os
import re
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

PATH = "/proc/iomem"
SYSTEM_RAM = "System RAM"
_LINE = re.compile(r" *([0-9a-f]+)-([0-9a-f]+) : (.*)")


@lru_cache(maxsize=16)
def parse(text: str) -> tuple[tuple[range, str], ...]:
    """(addresses, name) of every line, at whatever depth. Lines of another form are passed over.

    Kept by text: it is read before every injection, and changes when memory is plugged in.
    """
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return tuple((range(int(match[1], 16), int(match[2], 16) + 1), match[3]) for match in found if match)


def system_ram(host: Host) -> list[range] | None:
    """Where the host has RAM. None where the kernel hides it: without CAP_SYS_ADMIN all addresses read 0."""
    try:
        with closing(host.open(PATH, os.O_RDONLY)) as file:
            resources = parse(file.read().decode("ascii", "replace"))
    except OSError:
        return None
    ranges = [addresses for addresses, name in resources if name == SYSTEM_RAM]
    return ranges if any(addresses.stop > 1 for addresses in ranges) else None
