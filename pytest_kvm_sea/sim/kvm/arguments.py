# SPDX-License-Identifier: GPL-2.0-only
"""What an ioctl was given: a number, or a structure in the caller's memory (as a buffer, or by its address)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

from pytest_kvm_sea.sim.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument


def fail(number: int) -> NoReturn:
    """Give up with an errno, as a system call does."""
    raise OSError(number, os.strerror(number))


def as_number(argument: Argument) -> int:
    """The argument of a request that takes a number."""
    if isinstance(argument, int):
        return argument
    fail(errno.EINVAL)


def read_structure(argument: Argument, size: int) -> bytes:
    """The ``size`` bytes of a structure. EFAULT where they are not there."""
    if isinstance(argument, int):
        return copy_from_user(argument, size)
    data = bytes(memoryview(argument).cast("B")[:size])
    if len(data) < size:
        fail(errno.EFAULT)
    return data


def write_structure(argument: Argument, data: bytes, offset: int = 0) -> None:
    """Put bytes into the caller's structure. EFAULT where it is too short."""
    if isinstance(argument, int):
        copy_to_user(argument + offset, data)
        return
    view = memoryview(argument).cast("B")
    if len(view) < offset + len(data):
        fail(errno.EFAULT)
    view[offset : offset + len(data)] = data
