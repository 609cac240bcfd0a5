# SPDX-License-Identifier: GPL-2.0-only
"""Runs of descriptors against counting them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.hosts.contract import write
from pytest_kvm_sea.vmm.page_runs import PageRun

_ATTRIBUTES = (
    descriptors.page(0, user=False, writable=True, executable=True),
    descriptors.page(0, user=True, writable=False, executable=False, attribute=descriptors.DEVICE_NGNRNE),
)


def _counted(first: int, count: int) -> bytes:
    return struct.pack(f"<{count}Q", *range(first, first + count * PAGE_SIZE, PAGE_SIZE))


def _written(first: int, count: int) -> bytes:
    run = PageRun(first, count)
    memory = bytearray(b"\xa5" * (run.size + 8))
    write(run, memoryview(memory)[:-8])
    assert memory[-8:] == b"\xa5" * 8
    return bytes(memory[:-8])


@given(st.integers(0, (1 << 36) - 13_000), st.integers(1, 13_000), st.sampled_from(_ATTRIBUTES))
def test_every_descriptor_is_a_page_after_the_last(page: int, count: int, attributes: int) -> None:
    first = page * PAGE_SIZE | attributes
    assert _written(first, count) == _counted(first, count)


@pytest.mark.parametrize("bits", [4, 12, 20, 28])
def test_a_carry_reaches_each_byte(bits: int) -> None:
    first = ((1 << bits) - 1) * PAGE_SIZE | _ATTRIBUTES[0]
    assert _written(first, 1026) == _counted(first, 1026)


def test_the_tables_of_a_gib() -> None:
    first = (1 << 36) - (1 << 30) | _ATTRIBUTES[0]
    assert _written(first, 1 << 18) == _counted(first, 1 << 18)
