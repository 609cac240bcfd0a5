# SPDX-License-Identifier: GPL-2.0-only
"""The files of KVM: /dev/kvm, VM and vCPU descriptors. They know ioctl and mmap, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pytest_kvm_sea.sim.kvm.arguments import fail

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument

Handler: TypeAlias = "Callable[[Any, Argument], int]"
"""A method of the class of the file, which is the first argument."""


class KvmFile:
    """An open file whose ioctls are a table of request number to handler."""

    REQUESTS: ClassVar[Mapping[int, Handler]] = {}
    """The requests that files of this class know."""

    def __init__(self) -> None:
        self._open = True

    def unknown_request(self) -> int:
        """errno of a request that it does not know."""
        return errno.ENOTTY

    def ioctl(self, request: int, argument: Argument = 0, /) -> int:
        self._check_open()
        handler = self.REQUESTS.get(request)
        if handler is None:
            fail(self.unknown_request())
        return handler(self, argument)

    def mmap(self, length: int, /) -> memoryview:  # noqa: ARG002 - only a vCPU's file can be mapped
        self._check_open()
        fail(errno.ENODEV)

    def pread(self, size: int, offset: int, /) -> bytes:  # noqa: ARG002 - no file of KVM's can be read
        self._check_open()
        fail(errno.EINVAL)

    def read(self, size: int = -1, /) -> bytes:  # noqa: ARG002
        self._check_open()
        fail(errno.EINVAL)

    def write(self, data: bytes, /) -> int:  # noqa: ARG002
        self._check_open()
        fail(errno.EINVAL)

    def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            fail(errno.EBADF)
