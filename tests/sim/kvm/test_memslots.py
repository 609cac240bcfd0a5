# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_USER_MEMORY_REGION: errno by errno, as kvm_set_memory_region and kvm_arch_prepare_memory_region give them."""

from __future__ import annotations

import errno
import struct

import pytest

from pytest_kvm_sea.sim.kvm.memslots import Memslots
from pytest_kvm_sea.uapi import kvm

PAGE = 0x1000
HVA = 0x7F00_0000_0000


def region(slot: int = 0, flags: int = 0, base: int = 0, size: int = 4 * PAGE, hva: int = HVA) -> bytes:
    return struct.pack("<IIQQQ", slot, flags, base, size, hva)


def make(*regions: bytes, page_size: int = PAGE) -> Memslots:
    slots = Memslots(page_size, 40)
    for data in regions:
        slots.set_region(data)
    return slots


REFUSED = {
    "unknown flag": (region(flags=1 << 7), errno.EINVAL),
    "guest_memfd flag": (region(flags=1 << 2), errno.EINVAL),
    "size not a page multiple": (region(size=PAGE + 8), errno.EINVAL),
    "base not a page multiple": (region(base=8), errno.EINVAL),
    "address not a page multiple": (region(hva=HVA + 1), errno.EINVAL),
    "address not in user space": (region(hva=0xFFFF_0000_0000_0000), errno.EINVAL),
    "second address space": (region(slot=1 << 16), errno.EINVAL),
    "slot number too high": (region(slot=kvm.KVM_USER_MEM_SLOTS), errno.EINVAL),
    "guest address wraps": (region(base=(1 << 64) - PAGE, size=2 * PAGE), errno.EINVAL),
    "delete of what is not there": (region(slot=5, size=0), errno.EINVAL),
    "beyond the VM's address space": (region(slot=1, base=(1 << 40) - PAGE, size=2 * PAGE), errno.EFAULT),
    "overlap": (region(slot=1, base=3 * PAGE), errno.EEXIST),
    "move onto another slot": (region(slot=0, base=0x20_0000), errno.EEXIST),
    "change of size": (region(slot=0, size=2 * PAGE), errno.EINVAL),
    "change of address": (region(slot=0, hva=HVA + PAGE), errno.EINVAL),
    "change to read-only": (region(slot=0, flags=kvm.KVM_MEM_READONLY), errno.EINVAL),
}


@pytest.mark.parametrize(("data", "number"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, number: int) -> None:
    slots = make(region(), region(slot=2, base=0x20_0000, hva=HVA + 0x100_0000))
    before = slots.generation
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked
        slots.set_region(data)
    assert caught.value.errno == number
    assert slots.generation == before
    found = slots.find(0)
    assert found is not None
    assert found.size == 4 * PAGE


def test_find_and_translate() -> None:
    slots = make(region(base=0x10_0000))
    found = slots.find(0x10_2008)
    assert found is not None
    assert found.hva(0x10_2008) == HVA + 0x2008
    assert slots.find(0x10_0000 - 1) is None
    assert slots.find(0x10_4000) is None


def test_the_end_of_the_address_space_can_be_used() -> None:
    assert make(region(base=(1 << 40) - 4 * PAGE)).find((1 << 40) - 1) is not None


def test_delete_and_create_again() -> None:
    slots = make(region(), region(size=0))
    assert slots.find(0) is None
    slots.set_region(region(size=8 * PAGE))
    assert slots.find(7 * PAGE) is not None


def test_a_slot_can_move_within_guest_memory() -> None:
    slots = make(region(), region(base=0x40_0000))
    assert slots.find(0) is None
    assert slots.find(0x40_0000) is not None


def test_the_same_again_changes_nothing() -> None:
    slots = make(region())
    before = slots.generation
    slots.set_region(region())
    assert slots.generation == before


def test_dirty_logging_can_be_switched_on() -> None:
    slots = make(region(), region(flags=kvm.KVM_MEM_LOG_DIRTY_PAGES))
    found = slots.find(0)
    assert found is not None
    assert found.flags == kvm.KVM_MEM_LOG_DIRTY_PAGES


def test_host_pages_of_64k_want_alignment_to_64k() -> None:
    with pytest.raises(OSError, match="Invalid") as caught:
        make(region(size=4 * PAGE), page_size=0x1_0000)
    assert caught.value.errno == errno.EINVAL
    make(region(size=0x1_0000), page_size=0x1_0000)
