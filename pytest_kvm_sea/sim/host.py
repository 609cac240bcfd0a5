# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host: implements the contract of `hosts.contract` for one platform."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.firmware import port
from pytest_kvm_sea.hosts.contract import Backing, File, MceKill, Memory, Sigbus
from pytest_kvm_sea.sim.files import TextFile
from pytest_kvm_sea.sim.filesystem import DEBUGFS, KVM, Filesystem
from pytest_kvm_sea.sim.firmware import Firmware
from pytest_kvm_sea.sim.firmware_port import FirmwarePort
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.kvm.device import KvmDevice, Machine
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.presence import Presence
from pytest_kvm_sea.sim.process import HUGETLB_SIZES, Process, nobody

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.uapi.revisions import Revision

_FIRST_DESCRIPTOR = 3
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class _TreeRoot:
    """The directory for debugfs on this machine: one that was given, or a temporary one when it is first needed."""

    def __init__(self, given: Path | None) -> None:
        self._given = given
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self) -> Path:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="kvm-sea-", ignore_cleanup_errors=True)
        return Path(self._own.name)

    def close(self) -> None:
        if self._own is not None:
            self._own.cleanup()
            self._own = None


class _Descriptors(dict[int, File]):
    """The open files of KVM that ioctls have made."""

    def install(self, file: File) -> int:
        descriptor = _FIRST_DESCRIPTOR + len(self)
        self[descriptor] = file
        return descriptor


def _open_kvm(machine: Machine, _flags: int) -> File:
    """Whoever may not open it does not get here (`Filesystem.register`); any mode serves."""
    return KvmDevice(machine)


class SimHost:
    """One simulated arm64 Linux machine with one VMM process on it."""

    name = "sim"
    machine = "aarch64"

    def __init__(self, platform: Platform, *, tree: Path | None = None) -> None:
        """``tree``: a directory for debugfs that is kept, and that other simulated hosts may use at the same time."""
        self.platform = platform
        self.physical = PhysicalMemory(platform.kernel.page_size, platform.memory)
        self.process = Process(self.physical, platform.kernel.page_size, platform.hugepages)
        self.firmware = Firmware(platform, self.physical, self.process)
        self._descriptors = _Descriptors()
        self._machine = Machine(
            platform,
            self.process,
            self.physical,
            self.firmware.apei,
            self._descriptors.install,
        )
        self.process.interrupt = self.interrupt
        # Hosts come and go with the tests. Nothing in one leads back to it when it is closed: it is gone at once then,
        # without the garbage collector.
        self._tree_root = _TreeRoot(tree)
        self._files = Filesystem(
            platform, self.process, self.physical, self.firmware, self._tree_root, shared=tree is not None
        )
        self._files.register(KVM, partial(_open_kvm, self._machine))
        self._files.register(port.PATH, FirmwarePort(self._machine, self.firmware).open, mode=0o600)
        boot_id = f"{uuid.uuid4()}\n".encode()
        self._files.register(BOOT_ID, lambda flags: TextFile(BOOT_ID, flags, lambda: boot_id), mode=0o444)

    @property
    def label(self) -> str:
        return f"sim-{self.platform.name}-{self.platform.kernel.uapi}"

    @property
    def revision(self) -> Revision:
        return self._machine.behaviour.revision

    @property
    def page_size(self) -> int:
        return self.platform.kernel.page_size

    @property
    def release(self) -> str:
        return self.platform.kernel.release

    @property
    def node(self) -> str:
        return self.platform.name

    def open(self, path: str, flags: int, /) -> File:
        return self._files.open(path, flags)

    def adopt(self, descriptor: int, /) -> File:
        found = self._descriptors.get(descriptor)
        if found is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def access(self, path: str, mode: int, /) -> None:
        self._files.access(path, mode)

    def listdir(self, path: str, /) -> Sequence[str]:
        return self._files.listdir(path)

    def map_memory(self, size: int, /, *, backing: Backing = Backing.ANONYMOUS, alignment: int = 0) -> Memory:
        return self.process.map_memory(size, backing=backing, alignment=alignment)

    def clean_cache(self, address: HostVA, size: int, /) -> None:
        """There are no caches: what is written is in memory."""

    def poison_page(self, address: HostVA, /) -> None:
        if not self.platform.process.root:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        found = self.process.resolve(address)
        if found is None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        memory, offset = found
        if memory.lost(offset):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        # It looks the page up as a read does, and what was never written is the page of zeros, which is the kernel's.
        own = memory.backing in HUGETLB_SIZES or memory.presence(offset) is Presence.OWN
        hpa = memory.hpa(offset) if own else self.physical.zero_page
        self.physical.log.add(
            Level.INFO,
            f"Injecting memory failure for pfn {self.firmware.failure.pfn(hpa):#x}"
            f" at process virtual address {address:#x}",
        )
        with self.process.capture_sigbus():
            self.firmware.failure.handle(hpa, action_required=True)

    def set_mce_kill(self, policy: MceKill, /) -> None:
        self.process.set_mce_kill(policy)

    @contextlib.contextmanager
    def capture_sigbus(self) -> Iterator[Callable[[], list[Sigbus]]]:
        with self.process.capture_sigbus() as captured:
            yield lambda: captured

    def run_mask(self) -> bytes:
        return bytes(8)

    def interrupt(self, thread: int, /) -> None:
        for vm in tuple(self._machine.vms):
            for vcpu in tuple(vm.vcpus.values()):
                if vcpu.thread == thread:
                    vcpu.signal()

    @property
    def debugfs(self) -> Path:
        """The fake debugfs tree, a real directory: the kernel's files, to be looked at with ls and cat."""
        return Path(self._files.tree.on_disk(DEBUGFS))

    def close(self) -> None:
        self._descriptors.clear()
        for vm in self._machine.vms:
            vm.vcpus.clear()
        self._machine.vms.clear()
        self.process.interrupt = nobody
        self.process.close()
        self._tree_root.close()
