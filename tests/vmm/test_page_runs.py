# SPDX-License-Identifier: GPL-2.0-only
"""Runs of descriptors against counting them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.vmm.page_runs import consecutive_pages

_ATTRIBUTES = (
    descriptors.page(0, user=False, writable=True, executable=True),
    descriptors.page(0, user=True, writable=False, executable=False, attribute=descriptors.DEVICE_NGNRNE),
)


def _counted(first: int, count: int) -> bytes:
    return struct.pack(f"<{count}Q", *range(first, first + count * PAGE_SIZE, PAGE_SIZE))


@given(st.integers(0, (1 << 36) - 5000), st.integers(1, 5000), st.sampled_from(_ATTRIBUTES))
def test_every_descriptor_is_a_page_after_the_last(page: int, count: int, attributes: int) -> None:
    first = page * PAGE_SIZE | attributes
    assert consecutive_pages(first, count) == _counted(first, count)


@pytest.mark.parametrize("bits", [4, 12, 20, 28])
def test_a_carry_reaches_each_byte(bits: int) -> None:
    first = ((1 << bits) - 1) * PAGE_SIZE | _ATTRIBUTES[0]
    assert consecutive_pages(first, 1026) == _counted(first, 1026)


def test_the_tables_of_a_gib() -> None:
    first = (1 << 36) - (1 << 30) | _ATTRIBUTES[0]
    assert consecutive_pages(first, 1 << 18) == _counted(first, 1 << 18)
