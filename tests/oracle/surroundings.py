# SPDX-License-Identifier: GPL-2.0-only
"""What a case is executed in: system registers, PSTATE, PC, and numbers that are worth having in registers."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64.descriptors import MAIR_EL1
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle import tables
from tests.oracle.granules import GRANULE_4K, GRANULES, LAST_LEVEL, Granule

M64: Final = (1 << 64) - 1
_UPPER_HALF: Final = 0xFFFF << 48
_SCTLR_RES1: Final = 0x3050_0800
"""Bits that read as one, or that a processor without AArch32 at EL1 does not have."""
_SCTLR_BITS: Final = (
    state.SCTLR_SA,
    state.SCTLR_SA0,
    state.SCTLR_UMA,
    state.SCTLR_DZE,
    state.SCTLR_UCT,
    state.SCTLR_NTWI,
    state.SCTLR_NTWE,
    state.SCTLR_SPAN,
    state.SCTLR_UCI,
    state.SCTLR_DSSBS,
)
"""Set in every other environment."""
_SCTLR_SELDOM: Final = (state.SCTLR_A, state.SCTLR_WXN)
"""Set in one environment of six: they make many cases fault."""
_TCR_IPS: Final = (0, 1, 2, 2, 3, 4, 5)
"""32 to 48 bits; only with the last `tables.TOO_HIGH` is an address."""
_EPD1, _A1, _AS, _TBI0, _TBI1 = (1 << bit for bit in (23, 22, 36, 37, 38))
_TCR_BITS: Final = ((_TBI0, 2), (_TBI1, 2), (_EPD1, 8), (_A1, 2), (_AS, 2))
"""With how seldom they are set: in one of so many environments."""
_INTERESTING: Final = (0, 1, 2, 0x7F, 0x80, 0xFFFF, (1 << 31) - 1, 1 << 31, M64 >> 32, 1 << 63, M64 >> 1, M64)
_CODE_ROOM: Final = at.CODE_PAGES * at.PAGE // 4 - at.WORDS
_NO_CODE: Final = (7, 0x21, 0x22, 0x23)
"""Pages that cannot be fetched from, but for data that is executable."""


class Environment(NamedTuple):
    """What some cases have in common, for a change of it costs both processors their TLB."""

    mmu: bool
    sctlr: int
    tcr: int
    ttbr: tuple[int, int]
    granules: tuple[Granule, Granule]
    sizes: tuple[int, int]
    """T0SZ, T1SZ."""


def environment(rng: random.Random) -> Environment:
    mmu = rng.randrange(5) > 0
    sctlr = _SCTLR_RES1 | (state.SCTLR_M if mmu else 0)
    for bit in _SCTLR_BITS:
        sctlr |= bit * rng.randrange(2)
    for bit in _SCTLR_SELDOM:
        sctlr |= bit * (rng.randrange(6) == 0)
    halves = [rng.choice((GRANULE_4K, *GRANULES)) for _ in range(2)]
    sizes = [rng.choice(granule.sizes) for granule in halves]
    roots = [
        granule.root(granule.first_level(size), read_only=rng.randrange(8) == 0)
        for granule, size in zip(halves, sizes, strict=True)
    ]
    if rng.randrange(10) == 0:
        # The vectors are in the other half
        roots[1] = rng.choice((at.NO_TABLE, at.BROKEN_TABLE, tables.TOO_HIGH | roots[1]))
    tcr = sizes[0] | sizes[1] << 16 | rng.choice(halves[0].tg0) << 14 | rng.choice(halves[1].tg1) << 30
    tcr |= rng.choice(_TCR_IPS) << 32
    for bit, one_in in _TCR_BITS:
        tcr |= bit * (rng.randrange(one_in) == 0)
    ttbr = (roots[0] | rng.getrandbits(8) << 48, roots[1] | rng.getrandbits(8) << 48)
    return Environment(mmu, sctlr, tcr, ttbr, (halves[0], halves[1]), (sizes[0], sizes[1]))


def system(env: Environment, rng: random.Random) -> dict[str, int]:
    """All of `layout.SYSTEM`."""
    return {
        "sctlr_el1": env.sctlr,
        "tcr_el1": env.tcr,
        "ttbr0_el1": env.ttbr[0],
        "ttbr1_el1": env.ttbr[1],
        "mair_el1": MAIR_EL1,
        "vbar_el1": at.VECTORS,
        # FPEN 0 or 2: the model has no floating point, so that nothing can be compared where it is not trapped
        "cpacr_el1": rng.choice((0, 2 << 20)),
        "cntkctl_el1": rng.randrange(4),
        "esr_el1": rng.getrandbits(32),
        "far_el1": rng.getrandbits(64),
        "elr_el1": at.CODE + 4 * rng.randrange(_CODE_ROOM),
        "spsr_el1": rng.choice(tuple(pstate.MODES)) | rng.randrange(16) << 28 | pstate.DAIF,
        "par_el1": 1 << 11,
        "contextidr_el1": rng.getrandbits(32),
        "tpidr_el0": rng.getrandbits(64),
        "tpidrro_el0": rng.getrandbits(64),
        "tpidr_el1": rng.getrandbits(64),
        "disr_el1": 0,
    }


def operand(rng: random.Random) -> int:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_INTERESTING)
    return rng.getrandbits(64 if kind == 1 else rng.randrange(1, 65))


def processor_state(rng: random.Random, *, dit: bool) -> int:
    """PSTATE: any of the three modes, any flags; PAN and UAO in a quarter each, IL in one of 300."""
    value = rng.choice((pstate.EL0T, pstate.EL0T, pstate.EL1T, pstate.EL1H, pstate.EL1H)) | rng.randrange(16) << 28
    value |= rng.randrange(16) << 6
    value |= pstate.PAN * (rng.randrange(4) == 0)
    value |= pstate.UAO * (rng.randrange(4) == 0)
    value |= pstate.SSBS * rng.randrange(2)
    value |= pstate.DIT * (dit and rng.randrange(2))
    return value | pstate.IL * (rng.randrange(300) == 0)


def data_address(rng: random.Random, env: Environment) -> int:
    """Where a load or store may want to go: half of the time to a page that works, else anywhere near an edge."""
    kind = rng.randrange(16)
    if not env.mmu:
        page = at.DATA + at.PAGE * (rng.randrange(at.DATA_PAGES) if kind < 10 else rng.randrange(-1, 8))
        return page + _offset(rng, at.PAGE) & M64
    half = kind == 14
    granule = env.granules[half]
    offset = _offset(rng, granule.size)
    if kind < 8:
        address = granule.page(tables.DATA_VIEW + rng.choice(tables.GOOD_VIEWS)) + offset
    elif kind == 13 and rng.randrange(2):
        address = contiguous(rng, granule)
    else:
        address = granule.page(tables.DATA_VIEW + rng.randrange(tables.DATA_VIEWS)) + offset
    if half:
        address = upper(env, address)
    elif kind == 15:
        address = _elsewhere(rng, granule, address)
    return address & M64


def _offset(rng: random.Random, size: int) -> int:
    place = rng.randrange(4)
    if place == 0:
        return rng.randrange(-20, 20)
    return rng.randrange(size) if place == 1 else rng.randrange(0, size, 16)


def contiguous(rng: random.Random, granule: Granule) -> int:
    """Data by way of entries with the contiguous bit, at any level."""
    level = rng.randrange(LAST_LEVEL + 1 - len(granule.contiguous), LAST_LEVEL + 1)
    data = rng.randrange(at.DATA, at.DATA_END)
    if level < LAST_LEVEL:
        return data + (granule.contiguous[LAST_LEVEL - level] << granule.shift(level))
    # The group begins with the page of data for 4 KiB, else with that of all there is
    return data + granule.page(tables.contiguous_page(granule)) - max(at.GUEST, at.DATA & -granule.contiguous_size())


def _elsewhere(rng: random.Random, granule: Granule, address: int) -> int:
    kind = rng.randrange(5)
    if kind == 0:
        return address | rng.getrandbits(8) << 56
    if kind == 1:
        return address ^ 1 << rng.randrange(64)
    if kind == 2:
        return operand(rng)
    start = rng.choice((address, address, at.DATA, at.CODE, granule.base))
    return _by_entry(rng, granule, start + rng.randrange(at.PAGE))


def _by_entry(rng: random.Random, granule: Granule, address: int) -> int:
    """The address that is the same in the tables or blocks below another entry."""
    # Not at a level that the granule does not have: the PC would have a tag, and ELR_EL1 does not
    level = max(rng.choice((2, 2, 1, 1, 0)), granule.first_level(min(granule.sizes)))
    return address + (rng.randrange(tables.LEVEL_ENTRIES[level]) << granule.shift(level))


def upper(env: Environment, address: int) -> int:
    """The same page in the half of TTBR1_EL1."""
    return address | M64 & -(1 << 64 - env.sizes[1])


def place(rng: random.Random, env: Environment, *, seldom: int = 40) -> tuple[int, int]:
    """PC, and the physical address of it: nearly always an ordinary page."""
    offset = 4 * rng.randrange(_CODE_ROOM)
    if rng.randrange(seldom):
        return at.CODE + offset, at.CODE + offset
    granule = env.granules[0]
    kind = rng.randrange(5)
    if kind == 0:
        # The last instructions before a page with other permissions
        offset = at.CODE_PAGES * at.PAGE - 4 * at.WORDS
        return at.CODE + offset + 4 * rng.randrange(at.WORDS), at.CODE + offset
    if kind == 1:
        return at.CODE + offset + rng.randrange(1, 4), at.CODE + offset
    if not env.mmu or kind == 2:
        return upper(env, at.CODE + offset), at.CODE + offset
    if kind == 3:
        offset %= at.PAGE - 4 * at.WORDS
        page = granule.page(rng.choice((*tables.CODE_VIEWS, *_NO_CODE)))
        return page + at.CODE % granule.size + offset, at.CODE + offset
    return _by_entry(rng, granule, at.CODE + offset), at.CODE + offset
