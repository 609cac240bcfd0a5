# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a VM, in words for the person who reads the test's output."""

from __future__ import annotations

from pytest_kvm_sea.addresses import GuestVA


class VmmError(Exception):
    """The VMM was asked for something that cannot be."""


class GuestMemoryAccessError(VmmError):
    """An address is outside the guest's memory."""


class RunError(VmmError):
    """KVM_RUN failed. `errno` is the kernel's."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class GuestTimeoutError(VmmError):
    """The guest did not give control back in time."""


class UcallProtocolError(VmmError):
    """What the guest stored to the ucall address is not a ucall."""


class GuestFailure(AssertionError):
    """An assertion inside the guest did not hold (GUEST_ASSERT, GUEST_FAIL)."""

    def __init__(self, message: str, pc: GuestVA) -> None:
        super().__init__(message)
        self.pc = pc


class UnhandledException(GuestFailure):
    """The guest took an exception that it has no handler for."""


class UnexpectedExit(AssertionError):
    """The guest did something else than the test waits for."""
