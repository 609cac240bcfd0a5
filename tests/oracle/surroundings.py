# SPDX-License-Identifier: GPL-2.0-only
"""What a case is executed in: system registers, PSTATE, PC, and numbers that are worth having in registers."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64.descriptors import MAIR_EL1
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle import tables

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
_TCR_GRANULES: Final = 2 << 30
_TCR_IPS_40: Final = 2 << 32
_TBI0, _TBI1, _EPD1 = (1 << bit for bit in (37, 38, 23))
_INTERESTING: Final = (0, 1, 2, 0x7F, 0x80, 0xFFFF, (1 << 31) - 1, 1 << 31, M64 >> 32, 1 << 63, M64 >> 1, M64)
_CODE_ROOM: Final = at.CODE_PAGES * at.PAGE // 4 - at.WORDS
_CODE_ALIASES: Final = (3, 4, 5, 6)
"""Pages of the level-3 table that have the first code page with other permissions."""
_CODE_BY_LEVEL2: Final = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)


class Environment(NamedTuple):
    """What some cases have in common, for a change of it costs both processors their TLB."""

    mmu: bool
    sctlr: int
    tcr: int
    ttbr: int


def environment(rng: random.Random) -> Environment:
    mmu = rng.randrange(5) > 0
    sctlr = _SCTLR_RES1 | (state.SCTLR_M if mmu else 0)
    for bit in _SCTLR_BITS:
        sctlr |= bit * rng.randrange(2)
    for bit in _SCTLR_SELDOM:
        sctlr |= bit * (rng.randrange(6) == 0)
    # 48 bits with tables from level 0, 39 and 36 bits from level 1
    size, ttbr = rng.choice(((16, tables.TTBR), (16, tables.TTBR), (25, tables.LEVEL1), (28, tables.LEVEL1)))
    tcr = size | size << 16 | _TCR_GRANULES | _TCR_IPS_40
    for bit, one_in in ((_TBI0, 2), (_TBI1, 2), (_EPD1, 8)):
        tcr |= bit * (rng.randrange(one_in) == 0)
    return Environment(mmu, sctlr, tcr, ttbr)


def system(env: Environment, rng: random.Random) -> dict[str, int]:
    """All of `layout.SYSTEM`."""
    return {
        "sctlr_el1": env.sctlr,
        "tcr_el1": env.tcr,
        "ttbr0_el1": env.ttbr,
        "ttbr1_el1": env.ttbr,
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
    elif kind < 8:
        page = at.GUEST + (tables.DATA_VIEW + rng.choice((1, 2, 2, 2, 3, 6, 12))) * at.PAGE
    else:
        page = at.GUEST + (tables.DATA_VIEW + rng.randrange(tables.DATA_VIEWS)) * at.PAGE
    place = rng.randrange(4)
    if place == 0:
        offset = rng.randrange(-20, 20)
    elif place == 1:
        offset = rng.randrange(at.PAGE)
    else:
        offset = rng.randrange(0, at.PAGE, 16)
    address = page + offset
    if kind == 15:
        address = _elsewhere(rng, address)
    elif kind == 14:
        address = upper(env, address)
    return address & M64


def _elsewhere(rng: random.Random, address: int) -> int:
    kind = rng.randrange(5)
    if kind == 0:
        return address | rng.getrandbits(8) << 56
    if kind == 1:
        return address ^ 1 << rng.randrange(64)
    if kind == 2:
        return address + rng.randrange(1, tables.LEVEL2_ENTRIES + 1) * at.GUEST_SIZE
    if kind == 3:
        # In the mappings of a level-2 table, and at level 1
        pages = (at.DATA - at.GUEST, at.CODE - at.GUEST, at.STAGE1 - at.GUEST)
        return at.GUEST * rng.randrange(1, 4) + rng.choice(pages) + rng.randrange(at.PAGE)
    return operand(rng)


def upper(env: Environment, address: int) -> int:
    """The same page in the half of TTBR1_EL1."""
    bits = 64 - (env.tcr & 0x3F)
    return address | M64 & ~((1 << bits) - 1)


def place(rng: random.Random, env: Environment, *, seldom: int = 40) -> tuple[int, int]:
    """PC, and the physical address of it: nearly always an ordinary page."""
    offset = 4 * rng.randrange(_CODE_ROOM)
    if rng.randrange(seldom):
        return at.CODE + offset, at.CODE + offset
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
        return at.GUEST + rng.choice((*_CODE_ALIASES, 7, 0x21, 0x22, 0x23)) * at.PAGE + offset, at.CODE + offset
    return at.CODE + offset + rng.choice(_CODE_BY_LEVEL2) * at.GUEST_SIZE, at.CODE + offset
