# SPDX-License-Identifier: GPL-2.0-only
"""Finding and breaking stage-2 tables in a file of memory that holds what a machine's memory holds besides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.emulated.firmware import stage2
from pytest_kvm_sea.emulated.firmware.ram import BASE, Ram

SIZE = 8 << 20
PAGE = HostPA(BASE + 0x5_6000)
LEAF_TABLE, LEVEL_2, OTHER_TABLE = HostPA(BASE + 0x10_0000), HostPA(BASE + 0x20_0000), HostPA(BASE + 0x30_0000)
S2_FWB, S2_MEMATTR, S2_LPA2 = 0x7DB, 0x7FF, 0x4DB
"""Low attributes of a level-3 descriptor, read-write: with FEAT_S2FWB, without, and with FEAT_LPA2 (no SH field)."""
USER, KERNEL = 0x00E8_0000_0000_0F43, 0x0068_0000_0000_0703
"""A page of a process, and of the linear map, in stage 1 (asm/pgtable-prot.h)."""


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Ram]:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(SIZE)
    opened = Ram(path)
    yield opened
    opened.close()


def map_page(ram: Ram, table: HostPA = LEAF_TABLE, pointer: HostPA = LEVEL_2, attributes: int = S2_FWB) -> None:
    """What KVM writes for one page."""
    ram.write_u64(HostPA(table + 7 * 8), PAGE | attributes)
    ram.write_u64(HostPA(pointer + 3 * 8), table | 3)


@pytest.mark.parametrize("attributes", [S2_FWB, S2_MEMATTR, S2_LPA2, 0x75B, 0x3DB, 1 << 53 | S2_FWB])
def test_the_entry_is_found_among_what_looks_like_it(ram: Ram, attributes: int) -> None:
    map_page(ram, attributes=attributes)
    decoys = [USER | PAGE, KERNEL | PAGE, PAGE, PAGE | 1, PAGE + 0x1000 | S2_FWB, PAGE - 0x1000 | S2_FWB]
    for number, value in enumerate(decoys):
        ram.write_u64(HostPA(OTHER_TABLE + 8 * number), value)
    ram.write(HostPA(OTHER_TABLE + 0x1003), (PAGE | S2_FWB).to_bytes(8, "little"))  # not aligned
    entry = stage2.find_entry(ram, PAGE)
    assert entry == stage2.Entry(HostPA(LEVEL_2 + 3 * 8), LEAF_TABLE | 3, 3)


@pytest.mark.parametrize("beside", [0xFFFF_8000_1234_5678, 0x1234, USER | 0x4567_8000])
@pytest.mark.parametrize("original", [LEVEL_2 + 3 * 8, LEAF_TABLE + 7 * 8])
def test_copies_on_a_stack_are_no_descriptors(ram: Ram, original: int, beside: int) -> None:
    """KVM has the descriptors that it is about in local variables, and they stay there."""
    map_page(ram)
    ram.write_u64(HostPA(OTHER_TABLE + 0x8B8), ram.read_u64(HostPA(original)))
    ram.write_u64(HostPA(OTHER_TABLE + 0x8C0), beside)
    assert stage2.find_entry(ram, PAGE).address == LEVEL_2 + 3 * 8


def test_an_entry_that_is_about_to_be_written_is_none(ram: Ram) -> None:
    map_page(ram)
    ram.write_u64(HostPA(LEAF_TABLE + 8), 1 << 10)
    assert stage2.find_entry(ram, PAGE).address == LEVEL_2 + 3 * 8


def test_a_huge_page_is_found_by_its_block(ram: Ram) -> None:
    block = HostPA(BASE + (4 << 20))
    ram.write_u64(HostPA(OTHER_TABLE + 8), block | S2_FWB)  # a page of 4 KiB that begins there, too, of another address
    ram.write_u64(HostPA(LEAF_TABLE + 7 * 8), block | S2_FWB & ~2)
    ram.write_u64(HostPA(LEVEL_2 + 3 * 8), LEAF_TABLE | 3)
    entry = stage2.find_entry(ram, HostPA(block + 0x12_3000))
    assert entry == stage2.Entry(HostPA(LEVEL_2 + 3 * 8), LEAF_TABLE | 3, 2)


def test_break_and_repair_change_one_word(ram: Ram) -> None:
    map_page(ram)
    before = ram.read(BASE, SIZE)
    entry = stage2.find_entry(ram, PAGE)
    stage2.break_entry(ram, entry)
    assert ram.read_u64(entry.address) == 0x0B00_0003
    after = ram.read(BASE, SIZE)
    offset = entry.address - BASE
    assert (after[:offset], after[offset + 8 :]) == (before[:offset], before[offset + 8 :])
    with pytest.raises(stage2.NotFound, match="must touch that page first"):
        stage2.find_entry(ram, PAGE)
    stage2.repair_entry(ram, entry)
    assert ram.read(BASE, SIZE) == before


@pytest.mark.parametrize(
    ("table", "pointer"),
    [
        pytest.param(OTHER_TABLE, HostPA(LEVEL_2 + 0x1000), id="two-tables"),
        pytest.param(LEAF_TABLE, HostPA(LEVEL_2 + 0x1000), id="two-pointers"),
    ],
)
def test_what_is_ambiguous_is_refused_and_left_alone(ram: Ram, table: HostPA, pointer: HostPA) -> None:
    map_page(ram)
    map_page(ram, table, pointer)
    before = ram.read(BASE, SIZE)
    with pytest.raises(stage2.NotFound, match="more than one") as caught:
        stage2.find_entry(ram, PAGE)
    assert caught.value.transient
    assert ram.read(BASE, SIZE) == before


def test_a_table_that_nothing_points_to_is_the_rest_of_another_vm(ram: Ram) -> None:
    map_page(ram)
    ram.write_u64(HostPA(OTHER_TABLE + 8), PAGE | S2_FWB)
    assert stage2.find_entry(ram, PAGE).address == LEVEL_2 + 3 * 8


def test_what_somebody_else_has_written_since_is_left_alone(ram: Ram) -> None:
    map_page(ram)
    entry = stage2.find_entry(ram, PAGE)
    stage2.break_entry(ram, entry)
    ram.write_u64(entry.address, 0)
    with pytest.raises(stage2.NotFound, match="is 0x0 now"):
        stage2.repair_entry(ram, entry)
    assert ram.read_u64(entry.address) == 0


@pytest.mark.parametrize("address", [BASE - 0x1000, BASE + SIZE, 0, 1 << 47])
def test_addresses_outside_of_ram(ram: Ram, address: int) -> None:
    with pytest.raises(stage2.NotFound, match="not in the machine's RAM"):
        stage2.find_entry(ram, HostPA(address))
    with pytest.raises(IndexError, match="not in the machine's RAM"):
        ram.read_u64(HostPA(address))


@pytest.mark.parametrize("offset", [0, 8, 0xFF8, 0x1000, SIZE - 8, (4 << 20) - 8, 4 << 20])
def test_words_are_found_wherever_they_are(ram: Ram, offset: int) -> None:
    """At both ends, and on both sides of the borders of pages and of what is read at once."""
    ram.write_u64(HostPA(BASE + offset), 0x1122_3344_5566_7788)
    found = list(ram.words(bytes.fromhex("44332211"), 4))
    assert found == [BASE + offset]
    assert list(ram.words(bytes.fromhex("44332211"), 3)) == []
