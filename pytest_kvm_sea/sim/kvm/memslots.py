# SPDX-License-Identifier: GPL-2.0-only
"""Memslots: which guest physical addresses are which of the VMM (virt/kvm/kvm_main.c kvm_set_memory_region)."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from pytest_kvm_sea.addresses import GuestPA, HostVA
from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.sim.uaccess import copy_from_user
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.userfault import KVM_MEM_USERFAULT

_REGION = struct.Struct("<IIQQQ")
REGION_SIZE = _REGION.size
_REGION2 = struct.Struct("<IIQQQ16xQ104x")
REGION2_SIZE = _REGION2.size
_FLAGS = kvm.KVM_MEM_LOG_DIRTY_PAGES | kvm.KVM_MEM_READONLY
_USER_SPACE_END = 1 << 48
_SLOT_ID_BITS = 16


@dataclass(frozen=True, slots=True)
class Memslot:
    """One memslot; sizes in bytes."""

    slot: int
    flags: int
    base: GuestPA
    size: int
    userspace_addr: HostVA
    userfault_bitmap: int = 0
    """The VMM's address of a bit for each page, least significant first; 0 without KVM_MEM_USERFAULT."""

    @property
    def end(self) -> int:
        return self.base + self.size

    @property
    def readonly(self) -> bool:
        return bool(self.flags & kvm.KVM_MEM_READONLY)

    def hva(self, ipa: int) -> HostVA:
        """The VMM's address of a guest physical address in this slot."""
        return HostVA(self.userspace_addr + ipa - self.base)

    def is_userfault(self, ipa: int, page_size: int) -> bool:
        """Whether the VMM keeps this page to itself. OSError EFAULT where its bitmap is not there."""
        if not self.userfault_bitmap:
            return False
        index = (ipa - self.base) // page_size
        (byte,) = copy_from_user(self.userfault_bitmap + index // 8, 1)
        return bool(byte >> index % 8 & 1)

    def holds_block(self, hva: HostVA, size: int) -> bool:
        """Whether stage 2 may map the block of this size that holds ``hva`` (fault_supports_stage2_huge_mapping)."""
        start = hva // size * size
        return (
            self.base % size == self.userspace_addr % size
            and self.userspace_addr <= start
            and start + size <= self.userspace_addr + self.size
        )


class Memslots:
    """The memslots of one VM."""

    def __init__(self, page_size: int, ipa_bits: int, *, userfault: bool = False) -> None:
        self.page_size = page_size
        self._userfault = userfault
        self._ipa_size = 1 << ipa_bits
        self._slots: dict[int, Memslot] = {}
        self.generation = 0
        """Changes whenever a slot does."""

    def find(self, ipa: int) -> Memslot | None:
        """The slot that holds a guest physical address."""
        for slot in self._slots.values():
            if slot.base <= ipa < slot.base + slot.size:
                return slot
        return None

    def set_region(self, data: bytes) -> None:
        """KVM_SET_USER_MEMORY_REGION with the bytes of struct kvm_userspace_memory_region.

        EINVAL for what is malformed, changes size or address of an existing slot, or deletes what is not there; EEXIST
        for an overlap; EFAULT beyond the VM's address space. Moving a slot elsewhere in guest physical memory is
        allowed.
        """
        slot_id, flags, base, size, userspace_addr = _REGION.unpack(data)
        self._set(Memslot(slot_id, flags, GuestPA(base), size, HostVA(userspace_addr)), _FLAGS)

    def set_region2(self, data: bytes) -> None:
        """KVM_SET_USER_MEMORY_REGION2: the same, and memslots with a userfault bitmap where the kernel has them."""
        slot_id, flags, base, size, userspace_addr, bitmap = _REGION2.unpack(data)
        known = _FLAGS | (KVM_MEM_USERFAULT if self._userfault else 0)
        used = bitmap if flags & KVM_MEM_USERFAULT else 0
        self._set(Memslot(slot_id, flags, GuestPA(base), size, HostVA(userspace_addr), used), known)

    def _set(self, new: Memslot, known_flags: int) -> None:
        self._check_form(new, known_flags)
        old = self._slots.get(new.slot)
        if new.size == 0:
            self._delete(old)
            return
        if old == new:
            return
        if old is not None:
            self._check_change(old, new)
        if old is None or old.base != new.base:
            self._check_overlap(new)
        if new.end > self._ipa_size:
            fail(errno.EFAULT)
        self._slots[new.slot] = new
        self.generation += 1

    def _check_form(self, new: Memslot, known_flags: int) -> None:
        if new.flags & ~known_flags:
            fail(errno.EINVAL)
        if (new.size | new.base | new.userspace_addr) & (self.page_size - 1):
            fail(errno.EINVAL)
        if new.userspace_addr + new.size > _USER_SPACE_END:
            fail(errno.EINVAL)
        if new.slot >> _SLOT_ID_BITS or new.slot >= kvm.KVM_USER_MEM_SLOTS:
            fail(errno.EINVAL)
        if new.end >= 1 << 64 or new.size // self.page_size > kvm.KVM_MEM_MAX_NR_PAGES:
            fail(errno.EINVAL)

    def _delete(self, old: Memslot | None) -> None:
        if old is None:
            fail(errno.EINVAL)
        del self._slots[old.slot]
        self.generation += 1

    @staticmethod
    def _check_change(old: Memslot, new: Memslot) -> None:
        if (new.userspace_addr, new.size) != (old.userspace_addr, old.size) or new.readonly != old.readonly:
            fail(errno.EINVAL)

    def _check_overlap(self, new: Memslot) -> None:
        for slot in self._slots.values():
            if slot.slot != new.slot and slot.base < new.end and new.base < slot.end:
                fail(errno.EEXIST)
