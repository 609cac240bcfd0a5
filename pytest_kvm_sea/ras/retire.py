# SPDX-License-Identifier: GPL-2.0-only
"""Take a poisoned page out of service, so that it does not go back to the pool and hit somebody else.

The kernel does not know of an error that was injected and never consumed: freed, its page is handed out again.
Writing its address to hard_offline_page makes the kernel run memory_failure on it, for good: there is no way back
before reboot.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from pytest_kvm_sea.ras.errors import RetireError, errno_name

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA
    from pytest_kvm_sea.hosts.contract import Host

HARD_OFFLINE = "/sys/devices/system/memory/hard_offline_page"
KPAGEFLAGS = "/proc/kpageflags"
KPF_HWPOISON = 19
EHWPOISON = 133
_ENTRY = 8


def is_offline(host: Host, hpa: HostPA) -> bool:
    """Whether the kernel knows the page as poisoned: bit 19 of /proc/kpageflags. RetireError if it cannot be read."""
    try:
        with closing(host.open(KPAGEFLAGS, os.O_RDONLY)) as file:
            data = file.pread(_ENTRY, hpa // host.page_size * _ENTRY)
    except OSError as error:
        code = error.errno or 0
        text = f"{KPAGEFLAGS} cannot be read ({errno_name(code)}, {error.strerror}); run as root"
        raise RetireError(hpa, text, code) from error
    return bool(int.from_bytes(data, "little") >> KPF_HWPOISON & 1)


def retire(host: Host, hpa: HostPA) -> None:
    """Take the page that holds ``hpa`` out of service and see that it is. A page that already is: nothing.

    Of hugetlb memory the whole huge page goes. RetireError if the kernel refuses.
    """
    try:
        with closing(host.open(HARD_OFFLINE, os.O_WRONLY)) as file:
            file.write(f"{hpa:#x}".encode())
    except OSError as error:
        if error.errno != EHWPOISON:
            code = error.errno or 0
            text = f"writing {hpa:#x} to {HARD_OFFLINE} failed with {errno_name(code)} ({error.strerror})"
            raise RetireError(hpa, text, code) from error
    if not is_offline(host, hpa):
        raise RetireError(hpa, f"{HARD_OFFLINE} took it, but bit {KPF_HWPOISON} of {KPAGEFLAGS} is not set")
