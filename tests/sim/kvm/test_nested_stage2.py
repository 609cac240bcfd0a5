# SPDX-License-Identifier: GPL-2.0-only
"""The stage 2 of a guest hypervisor: descriptors as the architecture has them (Arm ARM, D8.3)."""

from __future__ import annotations

import struct

import pytest

from pytest_kvm_sea.cpu.bus import PAGE_SIZE, Access, Page, Stage2Fault
from pytest_kvm_sea.sim.kvm.nested_stage2 import NestedStage2

TABLES = 0x10_0000
AF, READ, WRITE, XN = 1 << 10, 1 << 6, 1 << 7, 1 << 54
TABLE, BLOCK, PAGE = 3, 1, 3
LEAF = AF | READ | WRITE
GIB, MIB2 = 1 << 30, 1 << 21
VTCR_39_BITS = 1 << 6 | 25
"""Three levels, from 1 on."""
VTCR_40_BITS = 1 << 6 | 24
"""The same, with two tables side by side."""
VTCR_34_BITS = 0 << 6 | 30
"""Two levels, from 2 on, with sixteen tables side by side."""
VTCR_48_BITS = 2 << 6 | 16
"""Four levels."""


class Memory:
    """The VM's own stage 2: memory from `TABLES` to 4 MiB and nothing else."""

    def __init__(self) -> None:
        self.data = bytearray(4 << 20)
        self.asked: list[tuple[int, Access]] = []

    def page(self, ipa: int, access: Access) -> Page:
        self.asked.append((ipa, access))
        base = ipa // PAGE_SIZE * PAGE_SIZE
        if not TABLES <= base < len(self.data):
            raise Stage2Fault(0x07)
        return Page(memoryview(self.data)[base : base + PAGE_SIZE], stable=True)

    def check(self, ipa: int, size: int, access: Access) -> None:
        self.asked.append((ipa, access))

    def put(self, table: int, index: int, descriptor: int) -> None:
        struct.pack_into("<Q", self.data, table + 8 * index, descriptor)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def stage2(memory: Memory, vtcr: int = VTCR_39_BITS) -> NestedStage2:
    made = NestedStage2(memory)
    made.load(TABLES, vtcr)
    return made


def fault(bus: NestedStage2, ipa: int, access: Access = Access.READ) -> int:
    with pytest.raises(Stage2Fault) as caught:
        bus.translate(ipa, access)
    return caught.value.fsc


def test_blocks_and_pages(memory: Memory) -> None:
    memory.put(TABLES, 1, 5 * GIB | LEAF | BLOCK)
    memory.put(TABLES, 2, TABLES + 0x1000 | TABLE)
    memory.put(TABLES + 0x1000, 3, 7 * MIB2 | LEAF | BLOCK)
    memory.put(TABLES + 0x1000, 4, TABLES + 0x2000 | TABLE)
    memory.put(TABLES + 0x2000, 9, 0xABC000 | LEAF | PAGE)
    bus = stage2(memory)
    assert bus.translate(GIB + 0x123_4567, Access.READ) == 5 * GIB + 0x123_4567
    assert bus.translate(2 * GIB + 3 * MIB2 + 0x1_2345, Access.WRITE) == 7 * MIB2 + 0x1_2345
    assert bus.translate(2 * GIB + 4 * MIB2 + 0x9678, Access.FETCH) == 0xABC678


@pytest.mark.parametrize(
    ("vtcr", "ipa", "index"),
    [
        pytest.param(VTCR_39_BITS, 511 * GIB, 511, id="39"),
        pytest.param(VTCR_40_BITS, 1023 * GIB, 1023, id="40"),
        pytest.param(VTCR_34_BITS, 16 * GIB - MIB2, 8191, id="34"),
    ],
)
def test_the_first_table_may_be_several(memory: Memory, vtcr: int, ipa: int, index: int) -> None:
    memory.put(TABLES, index, LEAF | BLOCK)
    bus = stage2(memory, vtcr)
    assert bus.translate(ipa + 0x42, Access.READ) == 0x42
    size = GIB if vtcr != VTCR_34_BITS else MIB2
    assert fault(bus, ipa + size) == 0x04, "beyond the size that VTCR_EL2 gives"


def test_four_levels(memory: Memory) -> None:
    memory.put(TABLES, 0x101, TABLES + 0x1000 | TABLE)
    memory.put(TABLES + 0x1000, 1, 3 * GIB | LEAF | BLOCK)
    memory.put(TABLES, 2, LEAF | BLOCK)
    bus = stage2(memory, VTCR_48_BITS)
    assert bus.translate((0x101 << 39) + GIB + 5, Access.READ) == 3 * GIB + 5
    assert fault(bus, 2 << 39) == 0x04, "there are no blocks at level 0"


@pytest.mark.parametrize(("level", "table"), [(1, TABLES), (2, TABLES + 0x1000), (3, TABLES + 0x2000)])
@pytest.mark.parametrize(
    ("descriptor", "access", "status"),
    [
        pytest.param(0, Access.READ, 0x04, id="invalid"),
        pytest.param(READ | WRITE | 1, Access.READ, 0x08, id="access-flag"),
        pytest.param(AF | WRITE | 1, Access.READ, 0x0C, id="not-readable"),
        pytest.param(AF | READ | 1, Access.WRITE, 0x0C, id="not-writable"),
        pytest.param(LEAF | XN | 1, Access.FETCH, 0x0C, id="not-executable"),
        pytest.param(AF | WRITE | 1, Access.WALK, 0x0C, id="walk-of-stage-1"),
    ],
)
def test_faults(memory: Memory, level: int, table: int, descriptor: int, access: Access, status: int) -> None:
    memory.put(TABLES, 0, TABLES + 0x1000 | TABLE)
    memory.put(TABLES + 0x1000, 0, TABLES + 0x2000 | TABLE)
    memory.put(table, 0, descriptor | (2 if descriptor and level == 3 else 0))
    assert fault(stage2(memory), 0x40, access) == status + level


def test_a_page_has_no_reserved_encoding(memory: Memory) -> None:
    memory.put(TABLES, 0, TABLES + 0x1000 | TABLE)
    memory.put(TABLES + 0x1000, 0, TABLES + 0x2000 | TABLE)
    memory.put(TABLES + 0x2000, 0, LEAF | BLOCK)
    assert fault(stage2(memory), 0) == 0x07


def test_a_table_that_is_not_in_memory(memory: Memory) -> None:
    memory.put(TABLES, 0, 0x8000_0000 | TABLE)
    assert fault(stage2(memory), 0) == 0x16, "an external abort on the walk, level 2"


def test_what_it_lets_through_goes_to_the_vms_own_stage_2(memory: Memory) -> None:
    memory.put(TABLES, 0, LEAF | BLOCK)
    bus = stage2(memory)
    memory.asked.clear()
    assert bus.page(TABLES + 0x5000, Access.WRITE).writable
    bus.check(TABLES + 0x5040, 8, Access.READ)
    asked = [ipa for ipa, _ in memory.asked]
    assert TABLES + 0x5000 in asked
    assert TABLES + 0x5040 in asked
    with pytest.raises(Stage2Fault) as caught:
        bus.page(0x4000, Access.READ)
    assert caught.value.fsc == 0x07


def test_a_page_that_may_only_be_read(memory: Memory) -> None:
    memory.put(TABLES, 0, AF | READ | BLOCK)
    assert not stage2(memory).page(TABLES + 0x5000, Access.READ).writable
