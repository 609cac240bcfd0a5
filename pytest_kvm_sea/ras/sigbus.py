# SPDX-License-Identifier: GPL-2.0-only
"""What a SIGBUS says about a memory error (sigaction(2), include/uapi/asm-generic/siginfo.h).

The code alone does not prove who saw the error first: BUS_MCEERR_AR comes from APEI that claimed a guest's SEA as well
as from KVM that meets a page which was offline before the guest touched it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Sigbus

BUS_ADRALN, BUS_ADRERR, BUS_OBJERR, BUS_MCEERR_AR, BUS_MCEERR_AO = 1, 2, 3, 4, 5
SI_USER, SI_TKILL, SI_KERNEL = 0, -6, 0x80

NAMES = {
    BUS_ADRALN: "BUS_ADRALN",
    BUS_ADRERR: "BUS_ADRERR",
    BUS_OBJERR: "BUS_OBJERR",
    BUS_MCEERR_AR: "BUS_MCEERR_AR",
    BUS_MCEERR_AO: "BUS_MCEERR_AO",
    SI_USER: "SI_USER",
    SI_TKILL: "SI_TKILL",
    SI_KERNEL: "SI_KERNEL",
}

_ADDRESSED = {BUS_MCEERR_AR, BUS_MCEERR_AO, BUS_OBJERR, BUS_ADRERR, BUS_ADRALN}
_WITH_LSB = {BUS_MCEERR_AR, BUS_MCEERR_AO}

_CAUSES = {
    BUS_ADRALN: "a misaligned access of the VMM; no memory error",
    BUS_ADRERR: "memory that is mapped and cannot be provided: beyond the end of a file, or no huge page left; no"
    " memory error",
    BUS_OBJERR: "the VMM itself consumed a memory error, and APEI did not claim it (arm64 do_sea): the error did not"
    " come from the guest",
    BUS_MCEERR_AR: "a thread needs a page that is known to be poisoned. Either APEI claimed the guest's SEA, from a"
    " record in its GHES, and memory_failure took the page offline just now; or the page was offline before (patrol"
    " scrub, EINJ without notrigger, a report from elsewhere) and KVM met it when it mapped it for the guest. HWPOISON"
    " in /proc/kpageflags before the access tells the second from the first",
    BUS_MCEERR_AO: "memory_failure took a page of this process offline that nobody was just using (early kill:"
    " vm.memory_failure_early_kill or prctl PR_MCE_KILL); no thread has consumed the error",
    SI_KERNEL: "APEI claimed the SEA and memory_failure could not act on it: no physical address in the record, nothing"
    " queued, or the page is not one that can be taken offline",
    SI_USER: "sent by a process with kill(2); no memory error",
    SI_TKILL: "sent by a process with tkill(2) or tgkill(2); no memory error",
}


def name(code: int) -> str:
    """The name of an si_code of SIGBUS: ``BUS_MCEERR_AR``; the number for an unknown one."""
    return NAMES.get(code, f"si_code {code:#x}")


def explain(sigbus: Sigbus) -> str:
    """What arrived, and every cause that the kernel has for it."""
    place = ""
    if sigbus.code in _ADDRESSED:
        place = f" at {sigbus.address:#x}"
    if sigbus.code in _WITH_LSB and sigbus.lsb:
        place += f" ({_size(1 << sigbus.lsb)} lost)"
    cause = _CAUSES.get(sigbus.code, "a code that the kernel is not known to give with SIGBUS")
    return f"SIGBUS {name(sigbus.code)}{place}: {cause}"


def _size(count: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> shift:
            return f"{count >> shift} {unit}"
    return f"{count} bytes"
