# SPDX-License-Identifier: GPL-2.0-only
"""Where an error may be injected. Reads only; what is wrong is an EinjError without an errno, before any write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.ras import iomem, kpageflags
from pytest_kvm_sea.ras.errors import EinjError, errno_name

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

ADDRESS_BITS = 64
GRANULE = 64
"""What an arm64 server marks as corrupt: one cache line."""
GRANULE_MASK = (1 << ADDRESS_BITS) - GRANULE
"""param2. All bits above the page size are set, for pages of every size: the kernel insists on it."""
_UNTOUCHED = "nothing was injected"


def extent(hpa: HostPA, mask: int) -> range:
    """The addresses that an address and a mask stand for."""
    size = (1 << ADDRESS_BITS) - mask
    return range(hpa & mask, (hpa & mask) + size)


def check_mask(mask: int, page_size: int) -> None:
    """A mask (param2) has all its high bits set, and stands for no more than a page of the host."""
    size = (1 << ADDRESS_BITS) - mask
    valid = f"valid: {(1 << ADDRESS_BITS) - page_size:#x}, a page of {page_size} bytes, to {(1 << ADDRESS_BITS) - 1:#x}"
    if not 0 < size <= 1 << ADDRESS_BITS or size & (size - 1):
        raise EinjError(f"the mask {mask:#x} is not 64 bits with all high bits set; {valid}. {_UNTOUCHED}")
    if size > page_size:
        raise EinjError(f"the mask {mask:#x} is wider than a page, {size:#x} bytes; {valid}. {_UNTOUCHED}")


def check_address(host: Host, hpa: HostPA) -> None:
    """Ordinary RAM that the kernel does not need for itself."""
    if hpa <= 0 or hpa >> ADDRESS_BITS or hpa < host.page_size:
        raise EinjError(
            f"{hpa:#x} is no physical address to inject at: a PFN of 0 is what pagemap shows to the unprivileged;"
            f" {_UNTOUCHED}. Run as root in the initial user namespace"
        )
    _check_ram(host, hpa)
    try:
        flags = kpageflags.page_flags(host, hpa)
    except OSError as error:
        raise EinjError(
            f"{kpageflags.PATH} cannot be read ({errno_name(error.errno or 0)}, {error.strerror}), so nothing is known"
            f" of the page of {hpa:#x}; {_UNTOUCHED}. Run as root, on a kernel with CONFIG_PROC_PAGE_MONITOR"
        ) from error
    why = kpageflags.unfit(flags)
    if why is not None:
        raise EinjError(f"the page of {hpa:#x} is not one to inject into: {why} ({kpageflags.PATH}); {_UNTOUCHED}")


def _check_ram(host: Host, hpa: HostPA) -> None:
    ram = iomem.system_ram(host)
    if ram is None:
        raise EinjError(
            f"{iomem.PATH} does not say where System RAM is, so {hpa:#x} cannot be looked up; {_UNTOUCHED}. Run as root"
            " in the initial user namespace"
        )
    if not any(hpa in addresses for addresses in ram):
        ranges = ", ".join(f"{addresses.start:#x}-{addresses.stop - 1:#x}" for addresses in ram)
        raise EinjError(f"{hpa:#x} is not System RAM, which is {ranges} ({iomem.PATH}); {_UNTOUCHED}")
