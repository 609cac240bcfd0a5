# SPDX-License-Identifier: GPL-2.0-only
"""The VMM's process on the simulated host: its mappings, their frames, and the SIGBUS that arrives in its threads.

A mapping is real private anonymous memory of this Python process, so guest and VMM share bytes without copies, and
its physical side is simulated. Frames are bound when the mapping is made; a real kernel binds them at the first touch.
What can be seen of that, presence in pagemap, follows the real touch.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import Backing, Contents, MceKill, Sigbus, write
from pytest_kvm_sea.platforms.model import GIB, MIB, Hugepages
from pytest_kvm_sea.sim import copy_on_write
from pytest_kvm_sea.sim.frames import BLOCK, Frames
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.presence import Presence, presence

MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)
HUGETLB_SIZES = {Backing.HUGETLB_2M: 2 * MIB, Backing.HUGETLB_1G: GIB}
TASK_SIZE = 1 << 48
"""End of the address space of a process: 48-bit virtual addresses."""
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
_ADVICE = {Backing.ANONYMOUS: getattr(mmap, "MADV_NOHUGEPAGE", 15), Backing.THP: getattr(mmap, "MADV_HUGEPAGE", 14)}


class SigbusNotCaptured(Exception):
    """A SIGBUS reached a thread that does not capture it. A real VMM would have been killed by it."""

    def __init__(self, sigbus: Sigbus, thread: int) -> None:
        super().__init__(
            f"SIGBUS (si_code {sigbus.code:#x}, si_addr {sigbus.address:#x}) in thread {thread}, and"
            " nothing captures it: on a real host it would have killed this process. Use host.capture_sigbus() in that"
            " thread."
        )
        self.sigbus = sigbus


class SimMemory:
    """One mapping. Implements the Memory protocol of the host contract."""

    def __init__(
        self, process: Process, frames: Frames, backing: Backing, *, raw: mmap.mmap, skip: int, address: int
    ) -> None:
        self._process = process
        self._raw: mmap.mmap | None = raw
        self._view = memoryview(raw)[skip : skip + frames.size]
        self._address = HostVA(address)
        self._touched: set[int] = set()
        self._overlays: list[tuple[int, int]] = []
        self.frames = frames
        self.backing = backing

    @property
    def address(self) -> HostVA:
        """The true address of the first byte in this Python process."""
        return self._address

    @property
    def size(self) -> int:
        """In bytes; whole (huge) pages, as the kernel maps."""
        return self.frames.size

    @property
    def view(self) -> memoryview:
        """All bytes, format 'B', writable. After `close` it is no memory of the process any more, and reads zeros."""
        return self._view

    def fill(self, offset: int, contents: Contents, /) -> None:
        """Write what the next VM will probably want, too: it may be mapped, and copied where it changes."""
        if self._raw is not None and copy_on_write.overlay(self._address + offset, contents):
            self._overlays.append((self._address + offset, contents.size))
        else:
            write(contents, self._view[offset : offset + contents.size])

    @property
    def closed(self) -> bool:
        return self._raw is None

    @property
    def fault_unit(self) -> int:
        """How many bytes one fault brings in: a huge page where there is one, else a page of the host."""
        if self.backing in HUGETLB_SIZES:
            return HUGETLB_SIZES[self.backing]
        return BLOCK if self.backing is Backing.THP else self.frames.page_size

    def hpa(self, offset: int) -> HostPA:
        """The physical address behind a byte. IndexError outside the mapping."""
        return HostPA(self.frames.hpa(offset))

    def lost(self, offset: int) -> bool:
        """Whether memory_failure took the page at ``offset`` away."""
        return self.frames.lost(offset)

    def split(self, offset: int) -> bool:
        """Whether a transparent huge page was split because a page of it was taken away or moved."""
        frames = self.frames
        start = offset // BLOCK * BLOCK
        return any(start <= index * frames.entry < start + BLOCK for index in frames.changed)

    def presence(self, offset: int) -> Presence:
        """What is behind the page at ``offset``: nothing, the page of zeros, or a page of its own."""
        unit = self.fault_unit
        number = offset // unit
        if number in self._touched:
            return Presence.OWN
        start = number * unit
        size = min(unit, self.size - start)
        if self._is_overlaid(self.address + start, size):
            # Written, as far as the process knows
            self._touched.add(number)
            return Presence.OWN
        found = presence(self.address + start, size)
        if found is Presence.ZERO and (
            self.backing is not Backing.ANONYMOUS or any(self._view[start : start + size].tobytes())
        ):
            # Huge pages do not use that page; bytes other than zero prove a page that is only shared with a fork.
            found = Presence.OWN
        if found is Presence.OWN:
            self._touched.add(number)
        return found

    def _is_overlaid(self, start: int, size: int) -> bool:
        return any(address < start + size and start < address + length for address, length in self._overlays)

    def close(self) -> None:
        """munmap(2). Views that are still around read zeros; the address resolves no more.

        The pages are given back at once: the mapping itself lives as long as any view does, and with reference cycles
        that is until the garbage collector comes by.
        """
        if self._raw is not None:
            raw, self._raw = self._raw, None
            try:
                for address, size in self._overlays:
                    copy_on_write.blank(address, size)
                raw.madvise(mmap.MADV_DONTNEED)
            finally:
                self._process.forget(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.backing.value
        return f"<SimMemory {self.address:#x}+{self.size:#x} {state}>"


def nobody(_thread: int) -> None:
    """`Process.interrupt` where no thread is in KVM_RUN."""


class Process:
    """The address space and the signals of the simulated VMM."""

    def __init__(self, physical: PhysicalMemory, page_size: int, hugepages: Hugepages) -> None:
        self.physical = physical
        self.page_size = page_size
        self.label = f"pytest:{os.getpid()}"
        """How the kernel calls the process in its messages."""
        self.generation = 0
        """Goes up whenever a mapping comes or goes."""
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._mappings: list[SimMemory] = []
        self._by_frames: dict[int, SimMemory] = {}
        self._captures: dict[int, list[list[Sigbus]]] = {}
        self._mce_kill: WeakKeyDictionary[threading.Thread, MceKill] = WeakKeyDictionary()
        self.interrupt: Callable[[int], None] = nobody
        """Called with a thread that a signal was sent to: what it is waiting in returns EINTR."""
        if page_size < 64 << 10 and hugepages.free_1g:
            # Kernels with 64 KiB pages have no huge pages of 1 GiB: only 2 MiB, 512 MiB and 16 GiB.
            physical.reserve_pool(GIB, hugepages.free_1g)
        if hugepages.free_2m:
            physical.reserve_pool(2 * MIB, hugepages.free_2m)

    # Mappings

    def map_memory(self, size: int, backing: Backing = Backing.ANONYMOUS, alignment: int = 0) -> SimMemory:
        """mmap(2) of private anonymous memory; ``size`` is rounded up to whole (huge) pages, as the kernel does.

        OSError: EINVAL for a size of 0 and for huge pages of a size that this kernel does not know, ENOMEM where RAM or
        the pool of huge pages does not suffice. ValueError: ``alignment`` is no power of two.
        """
        if alignment & (alignment - 1) or alignment < 0:
            raise ValueError(f"alignment {alignment:#x} is not a power of two")
        unit = HUGETLB_SIZES.get(backing, self.page_size)
        if size <= 0 or (unit == GIB and self.page_size == 64 << 10):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        size = -(-size // unit) * unit
        frames = self._allocate(size, backing)
        try:
            memory = self._map(frames, backing, max(alignment, BLOCK if backing is Backing.THP else unit))
        except BaseException:
            self.physical.free(frames)
            raise
        with self._lock:
            position = bisect_right(self._starts, memory.address)
            self._starts.insert(position, memory.address)
            self._mappings.insert(position, memory)
            self._by_frames[id(frames)] = memory
            self.generation += 1
        return memory

    def _map(self, frames: Frames, backing: Backing, alignment: int) -> SimMemory:
        slack = max(0, alignment - mmap.PAGESIZE)
        raw = mmap.mmap(-1, frames.size + slack, flags=_FLAGS)
        advice = _ADVICE.get(backing)
        if advice is not None:
            with suppress(OSError):  # a kernel without transparent huge pages knows no such advice
                raw.madvise(advice)
        address = ctypes.addressof(ctypes.c_char.from_buffer(raw))
        skip = -address % alignment
        return SimMemory(self, frames, backing, raw=raw, skip=skip, address=address + skip)

    def forget(self, memory: SimMemory) -> None:
        """Take a mapping out of the address space; called by `SimMemory.close`."""
        with self._lock:
            position = bisect_right(self._starts, memory.address) - 1
            if position < 0 or self._mappings[position] is not memory:
                return
            del self._starts[position], self._mappings[position]
            del self._by_frames[id(memory.frames)]
            self.generation += 1
        self.physical.free(memory.frames)

    def _allocate(self, size: int, backing: Backing) -> Frames:
        return self.physical.allocate(size, huge_page=HUGETLB_SIZES.get(backing, 0), contiguous=backing is Backing.THP)

    def migrate(self, memory: SimMemory) -> None:
        """Move a mapping to other frames, as compaction and NUMA balancing do behind a process' back (mm/migrate.c).

        The bytes stay where they are for the process. OSError ENOMEM if there are not enough frames.
        """
        frames = self._allocate(memory.size, memory.backing)
        with self._lock:
            old, memory.frames = memory.frames, frames
            # Hwpoison entries stay as they are.
            frames.changed.update((index, page) for index, page in old.changed.items() if isinstance(page, int))
            del self._by_frames[id(old)]
            self._by_frames[id(frames)] = memory
            self.generation += 1
        self.physical.free(old)

    def migrate_entry(self, memory: SimMemory, offset: int) -> None:
        """Move what one entry of the page tables maps to another page. OSError ENOMEM if there is none."""
        frames = memory.frames
        page = self._allocate(frames.entry, memory.backing if memory.backing in HUGETLB_SIZES else Backing.ANONYMOUS)
        with self._lock:
            old = frames.replace(offset, page)
            self.generation += 1
        if old is not None:
            self.physical.free(old)

    def resolve(self, hva: int, size: int = 1) -> tuple[SimMemory, int] | None:
        """The mapping that holds all of [hva, hva+size), and the offset of ``hva`` in it. None: not mapped (EFAULT)."""
        with self._lock:
            position = bisect_right(self._starts, hva) - 1
            if position < 0:
                return None
            memory = self._mappings[position]
        offset = hva - memory.address
        return (memory, offset) if offset + size <= memory.size else None

    def hpa_of(self, hva: int) -> HostPA | None:
        """The physical address that is, or after a touch will be, behind a virtual one."""
        found = self.resolve(hva)
        return found[0].hpa(found[1]) if found else None

    def hva_of(self, hpa: int) -> HostVA | None:
        """The virtual address that a physical one is mapped at."""
        found = self.memory_at(hpa)
        return None if found is None else HostVA(found[0].address + found[1])

    def memory_at(self, hpa: int) -> tuple[SimMemory, int] | None:
        """The mapping that holds a physical address, and the offset in it."""
        found = self.physical.owner(hpa)
        memory = None if found is None else self._by_frames.get(id(found[0]))
        return None if found is None or memory is None else (memory, found[1])

    def hwpoison_entry(self, hpa: int) -> tuple[SimMemory, int] | None:
        """The mapping that had the page at ``hpa`` when it went offline, and the offset in it."""
        for memory in tuple(self._mappings):
            frames = memory.frames
            for index in frames.changed:
                offset = index * frames.entry
                within = hpa - frames.hpa(offset)
                if frames.lost(offset) and 0 <= within < frames.entry:
                    return memory, offset + within
        return None

    def close(self) -> None:
        """The end of the process: all mappings go."""
        for memory in tuple(self._mappings):
            memory.close()

    # SIGBUS

    @contextmanager
    def capture_sigbus(self) -> Iterator[list[Sigbus]]:
        """While the context lasts, SIGBUS of the calling thread goes into the list. Of nested ones, the innermost."""
        captured: list[Sigbus] = []
        stack = self._captures.setdefault(threading.get_ident(), [])
        stack.append(captured)
        try:
            yield captured
        finally:
            stack.pop()

    def deliver_sigbus(self, sigbus: Sigbus, *, thread: int | None = None) -> None:
        """Send a thread, the calling one without ``thread``, a SIGBUS, and have it leave KVM_RUN.

        Raises SigbusNotCaptured where that would have killed the process.
        """
        target = threading.get_ident() if thread is None else thread
        stack = self._captures.get(target)
        if not stack:
            raise SigbusNotCaptured(sigbus, target)
        stack[-1].append(sigbus)
        self.interrupt(target)

    def set_mce_kill(self, policy: MceKill) -> None:
        """prctl(2) PR_MCE_KILL of the calling thread. Threads that it makes later do not inherit it here."""
        self._mce_kill[threading.current_thread()] = policy

    def early_kill_thread(self, *, by_default: bool) -> int | None:
        """The thread that is told of errors nobody has consumed: the first that wants to be, or None."""
        wants = {MceKill.EARLY: True, MceKill.LATE: False, MceKill.DEFAULT: by_default}
        threads = threading.enumerate()
        return next((each.ident for each in threads if wants[self._mce_kill.get(each, MceKill.DEFAULT)]), None)
