# SPDX-License-Identifier: GPL-2.0-only
"""Memslots: which guest physical addresses are which of the VMM (virt/kvm/kvm_main.c kvm_set_memory_region)."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from pytest_kvm_sea.addresses import GuestPA, HostVA
from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.uapi import kvm

_REGION = struct.Struct("<IIQQQ")
REGION_SIZE = _REGION.size
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

    @property
    def end(self) -> int:
        return self.base + self.size

    @property
    def readonly(self) -> bool:
        return bool(self.flags & kvm.KVM_MEM_READONLY)

    def hva(self, ipa: int) -> HostVA:
        """The VMM's address of a guest physical address in this slot."""
        return HostVA(self.userspace_addr + ipa - self.base)

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

    def __init__(self, page_size: int, ipa_bits: int) -> None:
        self._page_size = page_size
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
        self._check_form(slot_id, flags, base, size, userspace_addr)
        old = self._slots.get(slot_id)
        if size == 0:
            self._delete(old)
            return
        new = Memslot(slot_id, flags, GuestPA(base), size, HostVA(userspace_addr))
        if old == new:
            return
        if old is not None:
            self._check_change(old, new)
        if old is None or old.base != new.base:
            self._check_overlap(new)
        if new.end > self._ipa_size:
            fail(errno.EFAULT)
        self._slots[slot_id] = new
        self.generation += 1

    def _check_form(self, slot_id: int, flags: int, base: int, size: int, userspace_addr: int) -> None:
        if flags & ~(kvm.KVM_MEM_LOG_DIRTY_PAGES | kvm.KVM_MEM_READONLY):
            fail(errno.EINVAL)
        if (size | base | userspace_addr) & (self._page_size - 1):
            fail(errno.EINVAL)
        if userspace_addr + size > _USER_SPACE_END:
            fail(errno.EINVAL)
        if slot_id >> _SLOT_ID_BITS or slot_id >= kvm.KVM_USER_MEM_SLOTS:
            fail(errno.EINVAL)
        if base + size >= 1 << 64 or size // self._page_size > kvm.KVM_MEM_MAX_NR_PAGES:
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
