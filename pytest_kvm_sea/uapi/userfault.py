# SPDX-License-Identifier: GPL-2.0-only
"""KVM userfault, as proposed and referred to by the series: pages that a VMM takes out of stage 2 by a bitmap.

In no released kernel. The numbers are those of the proposal of January 2025 (J. Houghton, "KVM: Introduce KVM
Userfault"); that of its capability means something else in mainline by now, so it is not asked for: whether a kernel
has it is found out by using it. KVM_SET_USER_MEMORY_REGION2 itself is mainline's (since 6.8).
"""

from __future__ import annotations

import ctypes

from pytest_kvm_sea.uapi.ioctls import iow
from pytest_kvm_sea.uapi.structures import UserspaceMemoryRegion

KVM_SET_USER_MEMORY_REGION2 = iow(0x49, 160)
KVM_MEM_USERFAULT = 1 << 3
"""Flag of a memslot: `userfault_bitmap` is looked at. Setting it takes everything of the slot out of stage 2."""
KVM_MEMORY_EXIT_FLAG_USERFAULT = 1 << 4
"""kvm_run.memory_fault.flags: the page's bit is set in the bitmap."""


class UserspaceMemoryRegion2(UserspaceMemoryRegion):
    """struct kvm_userspace_memory_region2, 160 bytes; the proposal takes the first word of its padding."""

    _fields_ = (
        ("guest_memfd_offset", ctypes.c_uint64),
        ("guest_memfd", ctypes.c_uint32),
        ("pad1", ctypes.c_uint32),
        ("userfault_bitmap", ctypes.c_uint64),
        ("pad2", ctypes.c_uint64 * 13),
    )
    guest_memfd_offset: int
    guest_memfd: int
    userfault_bitmap: int
