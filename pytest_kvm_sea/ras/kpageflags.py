# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel says about page frames: /proc/kpageflags (include/uapi/linux/kernel-page-flags.h)."""

from __future__ import annotations

import enum
import os
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA
    from pytest_kvm_sea.hosts.contract import Host

PATH = "/proc/kpageflags"
_ENTRY = 8


class PageFlag(enum.IntFlag):
    """The bits that matter here, of the u64 of one page frame."""

    SLAB = 1 << 7
    HUGE = 1 << 17
    HWPOISON = 1 << 19
    NOPAGE = 1 << 20
    THP = 1 << 22
    OFFLINE = 1 << 23
    ZERO_PAGE = 1 << 24
    PGTABLE = 1 << 26
    RESERVED = 1 << 32


UNFIT = {
    PageFlag.NOPAGE: "there is no page frame",
    PageFlag.HWPOISON: "it is poisoned and out of service already",
    PageFlag.ZERO_PAGE: "it is the page of zeros, which all processes share: write to the memory first",
    PageFlag.OFFLINE: "it is logically offline (ballooned, or being hot-removed)",
    PageFlag.RESERVED: "it is reserved: the kernel's image, or firmware",
    PageFlag.SLAB: "it holds objects of the kernel (slab)",
    PageFlag.PGTABLE: "it holds page tables of the kernel or of a process",
}
"""Pages that no error may be injected into, and why."""
_UNFIT_BITS = sum(flag.value for flag in UNFIT)


def page_flags(host: Host, hpa: HostPA) -> PageFlag:
    """The flags of the page that holds ``hpa``; those that have no name here are kept. OSError if it cannot be read."""
    with closing(host.open(PATH, os.O_RDONLY)) as file:
        data = file.pread(_ENTRY, hpa // host.page_size * _ENTRY)
    # Beyond the last page frame the file ends.
    return PageFlag(int.from_bytes(data, "little")) if len(data) == _ENTRY else PageFlag.NOPAGE


def unfit(flags: PageFlag) -> str | None:
    """Why no error may be injected into such a page; None where it may."""
    if not flags.value & _UNFIT_BITS:
        return None
    return next(why for flag, why in UNFIT.items() if flags & flag)
