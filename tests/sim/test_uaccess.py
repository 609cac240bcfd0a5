# SPDX-License-Identifier: GPL-2.0-only
"""copy_from_user and copy_to_user: the bytes, or EFAULT; never a crash."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from pytest_kvm_sea.sim.uaccess import copy_from_user, copy_to_user


def test_round_trip() -> None:
    buffer = ctypes.create_string_buffer(16)
    copy_to_user(ctypes.addressof(buffer) + 4, b"abc")
    assert buffer.raw == b"\0\0\0\0abc" + bytes(9)
    assert copy_from_user(ctypes.addressof(buffer) + 3, 5) == b"\0abc\0"


@pytest.mark.parametrize("address", [-8, 0, 1, 0x1000, (1 << 47) - 4, 1 << 47, (1 << 64) - 8, 1 << 70])
def test_bad_addresses(address: int) -> None:
    for call in (lambda: copy_from_user(address, 8), lambda: copy_to_user(address, bytes(8))):
        with pytest.raises(OSError, match="Bad address") as caught:
            call()
        assert caught.value.errno == errno.EFAULT


def test_the_end_of_a_mapping() -> None:
    """Bytes that are there before bytes that are not: all of it is EFAULT."""
    mapping = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    assert libc.munmap(start + mmap.PAGESIZE, mmap.PAGESIZE) == 0
    edge = start + mmap.PAGESIZE - 4
    assert copy_from_user(edge, 4) == bytes(4)
    with pytest.raises(OSError, match="Bad address"):
        copy_from_user(edge, 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="[fork] the system has no fork; nothing to get")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_sees_its_own_memory() -> None:
    buffer = ctypes.create_string_buffer(b"parent")
    copy_from_user(ctypes.addressof(buffer), 6)
    child = os.fork()
    if child == 0:
        buffer.value = b"child!"
        os._exit(0 if copy_from_user(ctypes.addressof(buffer), 6) == b"child!" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert buffer.value == b"parent"
