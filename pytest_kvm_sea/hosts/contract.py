# SPDX-License-Identifier: GPL-2.0-only
"""The host contract: what a Linux machine offers to a VMM at the system-call boundary.

Everything above this file (vmm, ras, fixtures, tests) is written once against these protocols; `hosts.linux` and
`sim.host` implement them. Errors are OSError with the kernel's errno, on both.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from ctypes import Array, Structure, c_char
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from pytest_kvm_sea.addresses import HostVA

if TYPE_CHECKING:
    from pytest_kvm_sea.uapi.revisions import Revision

Argument: TypeAlias = "int | Structure | Array[c_char] | bytearray | memoryview"
"""What an ioctl takes: a number, or a buffer that the kernel reads and writes in place."""


class Backing(enum.Enum):
    """What guest memory is made of; the value is the word used in options and test ids."""

    ANONYMOUS = "anonymous"
    THP = "thp"
    HUGETLB_2M = "hugetlb-2m"
    HUGETLB_1G = "hugetlb-1g"


class File(Protocol):
    """An open file description. Closing twice is allowed; anything else on a closed file is EBADF."""

    def ioctl(self, request: int, argument: Argument = 0, /) -> int:
        """ioctl(2): the non-negative result. Buffers are read and written in place."""
        ...

    def mmap(self, length: int, /) -> memoryview:
        """A shared, writable mapping of the file from offset 0."""
        ...

    def pread(self, size: int, offset: int, /) -> bytes: ...

    def read(self, size: int = -1, /) -> bytes:
        """From the file's position; everything to the end without a size."""
        ...

    def write(self, data: bytes, /) -> int: ...

    def close(self) -> None: ...


class Contents(Protocol):
    """What a large part of memory is to hold; equal ones hold the same."""

    def __hash__(self) -> int: ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def parts(self) -> Iterator[memoryview]:
        """The bytes, in order; a part is only valid until the next one is asked for."""
        ...


def write(contents: Contents, view: memoryview) -> None:
    """Write contents to where they begin."""
    at = 0
    for part in contents.parts():
        view[at : at + len(part)] = part
        at += len(part)


class Memory(Protocol):
    """Memory of the VMM that can back a guest."""

    @property
    def address(self) -> HostVA: ...

    @property
    def size(self) -> int: ...

    @property
    def view(self) -> memoryview:
        """The bytes themselves, format 'B', writable."""
        ...

    def fill(self, offset: int, contents: Contents, /) -> None:
        """Write much at once, which others may want to begin with as well."""
        ...

    def close(self) -> None:
        """munmap(2). Allowed twice."""
        ...


class MceKill(enum.Enum):
    """When a thread wants to hear of an error in memory of its process (prctl(2) PR_MCE_KILL)."""

    EARLY = "early"
    """As soon as the kernel knows of it, used or not: SIGBUS, BUS_MCEERR_AO."""
    LATE = "late"
    """When it touches the memory."""
    DEFAULT = "default"
    """As the sysctl vm.memory_failure_early_kill says."""


@dataclass(frozen=True, slots=True)
class Sigbus:
    """The siginfo of a SIGBUS (sigaction(2)); codes as in asm-generic/siginfo.h."""

    code: int
    """BUS_ADRERR 2, BUS_OBJERR 3, BUS_MCEERR_AR 4, BUS_MCEERR_AO 5, SI_KERNEL 0x80."""
    address: HostVA
    lsb: int = 0
    """Least significant bit of the address that is valid: 12 for a 4 KiB page. Only with the MCEERR codes."""


class Host(Protocol):
    """A Linux machine as a VMM sees it."""

    @property
    def name(self) -> str:
        """``linux`` or ``sim``."""
        ...

    @property
    def label(self) -> str:
        """The start of test ids: ``sim-ampereone-mainline``, ``linux-mainline``."""
        ...

    @property
    def revision(self) -> Revision:
        """The revision of KVM's user API that was chosen for this host."""
        ...

    @property
    def page_size(self) -> int: ...

    @property
    def machine(self) -> str:
        """As uname -m."""
        ...

    @property
    def release(self) -> str:
        """As uname -r."""
        ...

    @property
    def node(self) -> str:
        """As uname -n: the name by which users know the machine."""
        ...

    def open(self, path: str, flags: int, /) -> File:
        """open(2) with O_RDONLY, O_WRONLY or O_RDWR; files are never created."""
        ...

    def adopt(self, descriptor: int, /) -> File:
        """The file behind a descriptor that an ioctl returned (KVM_CREATE_VM, KVM_CREATE_VCPU)."""
        ...

    def access(self, path: str, mode: int, /) -> None:
        """access(2) with os.F_OK, R_OK, W_OK: returns, or raises OSError with the reason."""
        ...

    def listdir(self, path: str, /) -> Sequence[str]: ...

    def map_memory(self, size: int, /, *, backing: Backing = Backing.ANONYMOUS, alignment: int = 0) -> Memory:
        """mmap(2) of private anonymous memory, reserved but not touched. ENOMEM where huge pages are missing."""
        ...

    def clean_cache(self, address: HostVA, size: int, /) -> None:
        """Write every cache line of [address, address + size) back to memory and drop it, where the host has caches.

        The memory must have been touched. OSError where that is not possible.
        """
        ...

    def poison_page(self, address: HostVA, /) -> None:
        """madvise(2) MADV_HWPOISON: the kernel deals with the page as if its memory had failed; not the memory itself.

        The SIGBUS that the kernel sends the caller for it is taken. OSError: EPERM without CAP_SYS_ADMIN, EINVAL
        where the kernel has no CONFIG_MEMORY_FAILURE, EFAULT where the page is offline already.
        """
        ...

    def set_mce_kill(self, policy: MceKill, /) -> None:
        """prctl(2) PR_MCE_KILL for the calling thread. Of a process, the first thread that is to be told is told."""
        ...

    def capture_sigbus(self) -> AbstractContextManager[Callable[[], list[Sigbus]]]:
        """While the context lasts, a SIGBUS that comes during KVM_RUN does not end the process.

        The function that it yields gives those that came so far. To be used by the thread that runs the vCPU.
        """
        ...

    def run_mask(self) -> bytes:
        """The signals to block during KVM_RUN, 8 bytes, for KVM_SET_SIGNAL_MASK."""
        ...

    def interrupt(self, thread: int, /) -> None:
        """Make KVM_RUN in that thread (threading.get_ident) return EINTR, as a signal does."""
        ...

    def close(self) -> None:
        """Release what the host holds. Files and memory that are still open become invalid."""
        ...


@runtime_checkable
class SharedPool(Protocol):
    """A host whose huge pages are those of all processes of a machine. A simulated host has a pool of its own."""

    before_hugetlb: Callable[[], None]
    """Called each time before hugetlb memory is mapped; what it raises, `Host.map_memory` raises."""
