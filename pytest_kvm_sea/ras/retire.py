# SPDX-License-Identifier: GPL-2.0-only
"""Take a poisoned page out of service, so that it does not go back to the pool and hit somebody else.

The kernel does not know of an error that was injected and never consumed: freed, its page is handed out again. Either
way makes the kernel run memory_failure on it, for good: there is no way back before reboot.

- hard_offline_page in sysfs takes the address. It kills nobody who does not touch the page again, and works for pages
  that are mapped nowhere any more. It needs CONFIG_MEMORY_HOTPLUG besides CONFIG_MEMORY_FAILURE.
- MADV_HWPOISON takes an address of this process, so its page must still be mapped there; where sysfs has no such file.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from pytest_kvm_sea.ras import kpageflags
from pytest_kvm_sea.ras.errors import RetireError, TranslationError, errno_name
from pytest_kvm_sea.ras.kpageflags import PageFlag
from pytest_kvm_sea.ras.pagemap import Pagemap

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA, HostVA
    from pytest_kvm_sea.hosts.contract import File, Host

HARD_OFFLINE = "/sys/devices/system/memory/hard_offline_page"
MADV_HWPOISON = "MADV_HWPOISON"
EHWPOISON = 133


def is_offline(host: Host, hpa: HostPA) -> bool:
    """Whether the kernel knows the page as poisoned: bit 19 of /proc/kpageflags. RetireError if it cannot be read."""
    try:
        return PageFlag.HWPOISON in kpageflags.page_flags(host, hpa)
    except OSError as error:
        code = error.errno or 0
        text = f"{kpageflags.PATH} cannot be read ({errno_name(code)}, {error.strerror}); run as root"
        raise RetireError(hpa, text, code) from error


def retire(host: Host, hpa: HostPA, hva: HostVA | None = None) -> str:
    """Take the page that holds ``hpa`` out of service and see that it is; by what. A page that already is: nothing.

    ``hva``: where this process has it mapped. A huge page of hugetlb is unmapped as a whole and leaves its pool.
    RetireError if the kernel refuses, or if it agrees and the page is not marked afterwards.
    """
    try:
        file = host.open(HARD_OFFLINE, os.O_WRONLY)
    except OSError as error:
        _poison(host, hpa, hva, error)
        way = MADV_HWPOISON
    else:
        _offline(file, hpa)
        way = HARD_OFFLINE
    if not is_offline(host, hpa):
        text = f"{way} took it, but bit {PageFlag.HWPOISON.bit_length() - 1} of {kpageflags.PATH} is not set"
        raise RetireError(hpa, text)
    return way


def _offline(file: File, hpa: HostPA) -> None:
    try:
        with closing(file):
            file.write(f"{hpa:#x}".encode())
    except OSError as error:
        if error.errno != EHWPOISON:
            raise RetireError(hpa, _failed(f"writing {hpa:#x} to {HARD_OFFLINE}", error), error.errno) from error


def _poison(host: Host, hpa: HostPA, hva: HostVA | None, no_file: OSError) -> None:
    """The other way. It must not hit another page that has come to that address meanwhile."""
    first = _failed(f"opening {HARD_OFFLINE}", no_file)
    try:
        if hva is None or Pagemap(host).translate(hva) != hpa:
            raise RetireError(hpa, f"{first}, and it is not mapped here any more for {MADV_HWPOISON}", no_file.errno)
        host.poison_page(hva)
    except TranslationError as error:
        # Poisoned and known: the entry has become a swap entry, or is gone with its huge page.
        if not is_offline(host, hpa):
            raise RetireError(hpa, f"{first}; {error}", no_file.errno) from error
    except OSError as error:
        if error.errno != EHWPOISON:
            text = f"{first}; {_failed(MADV_HWPOISON, error)}"
            raise RetireError(hpa, text, no_file.errno) from error


def _failed(what: str, error: OSError) -> str:
    return f"{what} failed with {errno_name(error.errno or 0)} ({error.strerror})"
