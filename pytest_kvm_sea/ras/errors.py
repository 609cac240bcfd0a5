# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with memory errors on purpose, as exceptions with texts for people."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import HostPA, HostVA
    from pytest_kvm_sea.ras.einj import Injection


class Untranslatable(enum.Enum):
    """Why /proc/self/pagemap gives no physical address."""

    NOT_MAPPED = "not-mapped"
    NOT_PRESENT = "not-present"
    SWAPPED = "swapped"
    HIDDEN = "hidden"
    ZERO = "zero"
    UNREADABLE = "unreadable"


class TranslationError(Exception):
    """A host virtual address has no physical one that may be used. Raised by `Pagemap.translate`."""

    def __init__(self, hva: HostVA, reason: Untranslatable, text: str) -> None:
        super().__init__(f"host address {hva:#x} has no usable physical address: {text}")
        self.hva = hva
        self.reason = reason


class EinjError(Exception):
    """An injection that was refused, by this program before it wrote anything or by the kernel.

    ``file`` is the name below the EINJ directory (None: no file was concerned), ``value`` what was written, ``errno``
    the kernel's (None: the kernel was not asked). ``injection`` is set where the error was injected nevertheless, and
    only putting the files back failed.
    """

    def __init__(
        self, text: str, *, file: str | None = None, value: str | None = None, code: int | None = None
    ) -> None:
        super().__init__(text)
        self.file = file
        self.value = value
        self.errno = code
        self.injection: Injection | None = None


class LockTimeoutError(EinjError):
    """Somebody else on this machine has its lock for longer than this session waits."""


class JournalError(EinjError):
    """What is about to be done cannot be written down, so it is not done."""


class PoisonWarning(UserWarning):
    """Memory of this machine may be poisoned, or EINJ set, and the kernel does not know: somebody has to act."""


class RetireError(Exception):
    """A poisoned page could not be taken out of service. ``errno`` as for EinjError."""

    def __init__(self, address: HostPA, text: str, code: int | None = None) -> None:
        super().__init__(f"the page of host physical address {address:#x} is still in service: {text}")
        self.address = address
        self.errno = code


def errno_name(code: int) -> str:
    """``EINVAL``; the number where it has no name here."""
    return errno.errorcode.get(code, "EHWPOISON" if code == 133 else str(code))
