# SPDX-License-Identifier: GPL-2.0-only
"""What an errno of one of the EINJ files means, and what to do (drivers/acpi/apei/einj-core.c)."""

from __future__ import annotations

import errno

from pytest_kvm_sea.ras.errors import EinjError, errno_name

_LOCKED_DOWN = (
    "the kernel is locked down and keeps debugfs shut",
    "boot with lockdown=none and without Secure Boot; /sys/kernel/security/lockdown tells",
)
_NOT_ROOT = ("debugfs is for root alone", "run as root")
_MISSING = {
    "flags": ("the firmware takes no parameters", "firmware with SET_ERROR_TYPE_WITH_ADDRESS (ACPI 5.0)"),
    "notrigger": ("this kernel or firmware has no notrigger", "inject with notrigger=False, or use another host"),
    None: ("the EINJ driver is not there", "modprobe einj; it loads only where the firmware has an EINJ table"),
}

# (file or None for any, errno): (meaning, what to do)
_MEANINGS: dict[tuple[str | None, int], tuple[str, str]] = {
    (None, errno.EPERM): _LOCKED_DOWN,
    (None, errno.EACCES): _NOT_ROOT,
    (None, errno.EINVAL): ("the kernel does not read a number in this", "write a decimal, 0x or 0 octal number"),
    (None, errno.ERANGE): ("the number has more than 64 bits", "write a smaller one"),
    ("error_type", errno.EINVAL): (
        "the type has more than one bit, more than 32 bits, or is not one that the firmware offers",
        "choose one from available_error_type",
    ),
    ("error_inject", errno.EINVAL): (
        "the kernel or the firmware refuses the combination: no error_type set, a bit of flags that it does not know, a"
        " mask (param2) coarser than a page of the host, or an address (param1) that is not System RAM",
        "compare param1 with /proc/iomem, and set every bit of param2 above the page size of the host",
    ),
    ("error_inject", errno.EADDRINUSE): (
        "the address is the kernel's shared page of zeros: the memory was read, but never written",
        "write to the memory before it is translated",
    ),
    ("error_inject", errno.EBUSY): (
        "the firmware answered with failure; it is usually busy with another injection",
        "wait and try again; see the log of the firmware",
    ),
    ("error_inject", errno.EIO): (
        "the firmware did not finish within a second, or its trigger table could not be run",
        "see the kernel log for EINJ and the log of the firmware",
    ),
    ("error_inject", errno.ENOENT): (
        "the EINJ table lacks an action that the kernel needs",
        "update the firmware",
    ),
    ("error_inject", errno.ENOMEM): ("the kernel is out of memory", "free some and try again"),
}


def meaning(file: str, code: int) -> tuple[str, str]:
    """(what this errno of this file means, what to do next)."""
    if code == errno.ENOENT and file != "error_inject":
        key = "flags" if file.startswith("param") else file
        return _MISSING.get(key, _MISSING[None])
    unknown = ("that is not an errno which the driver is known to give", "see the kernel log for EINJ")
    return _MEANINGS.get((file, code)) or _MEANINGS.get((None, code)) or unknown


def refused(path: str, error: OSError, value: str | None = None) -> EinjError:
    """The exception for an OSError of one of the files; ``value`` is what was written, None for a read or an open."""
    file = path.rpartition("/")[2]
    code = error.errno or 0
    what, remedy = meaning(file, code)
    did = f"writing {value!r} to {path}" if value is not None else f"reading {path}"
    text = f"{did} failed with {errno_name(code)} ({error.strerror}): {what}; {remedy}"
    return EinjError(text, file=file, value=value, code=code)
