# SPDX-License-Identifier: GPL-2.0-only
"""Cases that change the registers of translation, and cases that ask AT."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.oracle import surroundings, tables
from tests.oracle.granules import GRANULE_4K, GRANULES
from tests.oracle.instructions import Draft
from tests.oracle.sequences import Sequence, mostly_at_el1, ordinary_place, with_mmu
from tests.oracle.surroundings import M64, Environment
from tests.oracle.table_changes import AT


def _aim(rng: random.Random, env: Environment, like: Environment, *, upper: bool = False) -> int:
    """An address for AT, as `surroundings.data_address` gives them for another environment.

    Not that of a block that its level does not have: QEMU 7.2 translates that, and PAR_EL1 goes into a register where
    `rules_translation` does not look.
    """
    while True:
        address = surroundings.data_address(rng, like) & M64
        if upper:
            address = surroundings.upper(env, address)
        half = address >> 55 & 1
        if tables.reserved_block_level(env.granules[half], env.sizes[half], address) is None:
            return address


def change_registers(draft: Draft) -> None:
    """TTBR0_EL1, or TTBR1_EL1 and TCR_EL1, become others; then the TLB is invalidated."""
    rng, env = draft.rng, draft.env
    with_mmu(draft)
    mostly_at_el1(draft)
    ordinary_place(draft)
    code = Sequence(draft)
    if rng.randrange(3) == 0:
        address = _aim(rng, env, env)
        level = env.granules[0].first_level(env.sizes[0])
        root = env.granules[0].root(level, read_only=rng.randrange(2) == 0)
        code.msr("ttbr0_el1", code.register(root | rng.getrandbits(8) << 48))
    else:
        env = _other_half(rng, env)
        address = _aim(rng, env, env._replace(granules=env.granules[::-1]), upper=True)
        code.msr("ttbr1_el1", code.register(env.ttbr[1]))
        code.msr("tcr_el1", code.register(env.tcr))
    where = code.register(address)
    code.isb()
    code.system(rng.choice(("tlbi vmalle1", "tlbi vmalle1is")))
    code.dsb(rng.choice(("sy", "ish")))
    code.isb()
    code.probe(rng.choice(AT), where)
    if rng.randrange(2):
        code.ldr(code.register(), where)
    else:
        code.str(code.register(), where)
    code.finish(forget=True)


def _other_half(rng: random.Random, env: Environment) -> Environment:
    """The same with another upper half, and other TBI and IPS."""
    granule = rng.choice((GRANULE_4K, *GRANULES))
    size = rng.choice(granule.sizes)
    fields = 0x3F << 16 | 3 << 30 | 1 << 23 | 1 << 38 | 7 << 32
    tcr = env.tcr & ~fields | size << 16 | rng.choice(granule.tg1) << 30
    tcr |= rng.randrange(2) << 38 | rng.randrange(6) << 32 | (rng.randrange(4) == 0) << 23
    root = granule.root(granule.first_level(size)) | rng.getrandbits(8) << 48
    return env._replace(
        tcr=tcr, ttbr=(env.ttbr[0], root), granules=(env.granules[0], granule), sizes=(env.sizes[0], size)
    )


def translate(draft: Draft) -> None:
    """What AT says of four addresses."""
    with_mmu(draft)
    mostly_at_el1(draft)
    code = Sequence(draft)
    for _ in range(4):
        code.probe(draft.rng.choice(AT), code.register(_aim(draft.rng, draft.env, draft.env)))
    code.finish(forget=False)


TRANSLATION_MAKERS: Final[dict[str, Callable[[Draft], None]]] = {
    "tables registers": change_registers,
    "translations 0": translate,
    "translations 1": translate,
}
