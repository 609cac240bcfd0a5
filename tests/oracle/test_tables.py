# SPDX-License-Identifier: GPL-2.0-only
"""The tables that cases run with: walked by the simulated processor, they lead where the cases think they do."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu.bus import Access
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.mmu import Leaf
from pytest_kvm_sea.cpu.traps import Stage1Fault, WalkAborted
from tests.oracle import layout as at
from tests.oracle import stage2, surroundings, tables
from tests.oracle.granules import GRANULES, Granule, of
from tests.oracle.simulated import GuestBus
from tests.oracle.surroundings import Environment

NAMES = ("4k", "16k", "64k")


def _environments(granule: Granule) -> Iterator[Environment]:
    """One for each size, in both halves, with 48 bits of output."""
    made = surroundings.environment(random.Random(1))
    for size in granule.sizes:
        root = granule.root(granule.first_level(size))
        tcr = size | size << 16 | granule.tg0[0] << 14 | granule.tg1[0] << 30 | 5 << 32
        sctlr = made.sctlr | 1
        yield Environment(mmu=True, sctlr=sctlr, tcr=tcr, ttbr=(root,) * 2, granules=(granule,) * 2, sizes=(size,) * 2)


def _cpu(env: Environment) -> Cpu:
    cpu = Cpu(GuestBus(), Features())
    for name, value in surroundings.system(env, random.Random(1)).items():
        cpu.sysregs[sysreg(name)] = value
    return cpu


def _walk(cpu: Cpu, va: int) -> Leaf | int:
    try:
        return cpu.walk(va)
    except Stage1Fault as fault:
        return fault.fsc
    except WalkAborted:
        return -1


@pytest.mark.parametrize("granule", GRANULES, ids=NAMES)
def test_every_size_reaches_vectors_code_and_data(granule: Granule) -> None:
    for env in _environments(granule):
        cpu = _cpu(env)
        for va in (at.VECTORS, at.CODE, at.CODE + at.PAGE):
            assert cpu.stage1(va, Access.FETCH, el=1, pan=True) == va
            assert cpu.stage1(surroundings.upper(env, va), Access.FETCH, el=1, pan=True) == va
        for number in tables.GOOD_VIEWS:
            ipa = cpu.stage1(granule.page(tables.DATA_VIEW + number), Access.WRITE, el=1, pan=False)
            assert at.DATA <= stage2.PAGES[ipa].target < at.DATA_END


@pytest.mark.parametrize("granule", GRANULES, ids=NAMES)
def test_addresses_behind_contiguous_entries_are_data(granule: Granule) -> None:
    rng = random.Random(2)
    cpu = _cpu(next(_environments(granule)))
    levels = set()
    for _ in range(60):
        leaf = _walk(cpu, surroundings.contiguous(rng, granule))
        assert isinstance(leaf, Leaf)
        assert leaf.descriptor & tables.CONTIGUOUS
        assert at.DATA <= leaf.ipa < at.DATA_END
        levels.add(leaf.level)
    assert levels == set(range(granule.largest_block, 4))


@pytest.mark.parametrize("granule", GRANULES, ids=NAMES)
def test_blocks_of_levels_that_have_none_are_known(granule: Granule) -> None:
    for env in _environments(granule):
        cpu, size = _cpu(env), env.sizes[0]
        for level in (0, 1):
            found = [
                (va, _walk(cpu, va))
                for number in range(tables.LEVEL_ENTRIES[level])
                if not (va := at.DATA + (number << granule.shift(level))) >> 64 - size
            ]
            reserved = [va for va, _ in found if tables.reserved_block_level(granule, size, va) == level]
            assert all(fsc == 4 + level for va, fsc in found if va in reserved)
            there = granule.first_level(size) <= level < granule.largest_block
            assert bool(reserved) == (there and len(found) > 1)


def test_the_granule_of_an_address_is_that_of_its_half() -> None:
    for tcr in (1 << 14 | 1 << 30, 2 << 14 | 3 << 30, 3 << 14):
        shifts = [of(tcr, half).page_shift for half in (0, 1)]
        assert shifts == {1 << 14 | 1 << 30: [16, 14], 2 << 14 | 3 << 30: [14, 16], 3 << 14: [12, 12]}[tcr]


def test_every_kind_of_half_is_among_the_environments() -> None:
    made = [surroundings.environment(random.Random(number)) for number in range(400)]
    assert {(each.granules[0].page_shift, each.granules[1].page_shift) for each in made} == {
        (low, high) for low in (12, 14, 16) for high in (12, 14, 16)
    }
    levels = {(each.granules[0].page_shift, each.granules[0].first_level(each.sizes[0])) for each in made}
    assert levels == {(12, 0), (12, 1), (14, 0), (14, 1), (14, 2), (16, 1), (16, 2)}
    reserved = [each for each in made if each.tcr >> 14 & 3 == 3 or not each.tcr >> 30 & 3]
    assert 50 < len(reserved) < 350


def test_ordinary_accesses_change_neither_tables_nor_code() -> None:
    """Cases that do not put these back cannot write there, whatever the granules are and the entry is."""
    kept = {*at.CHANGING.values(), at.CODE_AGAIN, at.CODE_AGAIN + at.PAGE}
    rng = random.Random(3)
    reached = set()
    for _ in range(150):
        env = surroundings.environment(rng)
        cpu = _cpu(env._replace(mmu=True, sctlr=env.sctlr | 1))
        for _ in range(300):
            leaf = _walk(cpu, surroundings.data_address(rng, env._replace(mmu=True)))
            if isinstance(leaf, Leaf):
                reached.add(leaf.ipa & -at.PAGE)
    assert len(reached) > 50
    assert not reached & kept


def test_the_pc_has_no_tag() -> None:
    """What ended a case is told by the distance of ELR_EL1, which has none, from the PC."""
    rng = random.Random(4)
    for _ in range(300):
        env = surroundings.environment(rng)
        for _ in range(20):
            pc, _code = surroundings.place(rng, env, seldom=1)
            assert pc >> 56 in {0, 0xFF}
