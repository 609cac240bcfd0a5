# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of cases: one for every encoding class, sequences, loops, fetches, changes of tables and of code.

Each gets the same share of a run. A case is made from the seed and its index alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.cpu.features import Features
from tests.oracle import layout as at
from tests.oracle import surroundings
from tests.oracle.case import Case
from tests.oracle.code_changes import CODE_MAKERS
from tests.oracle.instructions import MEMORY, Draft, instruction, unpredictable
from tests.oracle.simd import SIMD_STRATA
from tests.oracle.surroundings import Environment
from tests.oracle.system_instructions import SYSTEM_MAKERS
from tests.oracle.table_changes import TABLE_MAKERS
from tests.oracle.translations import TRANSLATION_MAKERS

Make = Callable[[Draft], None]

RUN: Final = 32
"""So many cases one after the other have an environment in common."""
_LATER: Final = ("SB", "LDAPR_UNSCALED")
"""Not in the processor that most cases are compared with."""
_LOOP_REGISTER: Final = 28


class Processor(NamedTuple):
    """What is compared: a processor of QEMU, and the features that the simulated one has to have."""

    cpu: str
    features: Features


NEOVERSE: Final = Processor("neoverse-n1", Features(dit=False))
"""Of the processors that QEMU has this is nearest to the model."""
MAXIMUM: Final = Processor("max,sve=off,sme=off,pauth=off,lpa2=off", Features(physical_bits=52))
"""The rest of what the model has: FEAT_LRCPC2, FEAT_SB, FEAT_DIT."""


def _one(name: str) -> Make:
    def make(draft: Draft) -> None:
        draft.words.append(instruction(draft, name))

    return make


_PLAIN: Final = tuple(
    name for name in ENCODINGS if name not in MEMORY and name not in SYSTEM_MAKERS and name not in {*_LATER, "UDF"}
)
_ELSEWHERE: Final = frozenset({"B", "B_COND", "CBZ", "TBZ", "BR", "SVC", "HVC", "SMC", "BRK", "FP_SIMD", "SYSL"})
_STRAIGHT: Final = tuple(name for name in _PLAIN if name not in _ELSEWHERE)
_MEMORY: Final = tuple(sorted(MEMORY - {*_LATER}))


def _sequence(draft: Draft) -> None:
    """2 to 6 instructions, half of them loads and stores; what is written by one is read by the next."""
    for _ in range(draft.rng.randrange(2, 7)):
        name = draft.rng.choice(_STRAIGHT if draft.rng.randrange(2) else _MEMORY)
        draft.words.append(instruction(draft, name))


def _exclusives(draft: Draft) -> None:
    """A load that sets the monitor, something between, and a store that it lets through or not."""
    rng = draft.rng
    name = rng.choice(("EXCLUSIVE", "EXCLUSIVE_PAIR"))
    load = ENCODINGS[name].decode(instruction(draft, name))
    load["L"] = 1
    load["Rs"] = 31
    if name == "EXCLUSIVE_PAIR" and load["Rt"] == load["Rt2"]:
        load["Rt2"] = (load["Rt"] + 1) % 30
    others = [number for number in range(30) if number not in {load["Rn"], load["Rt"], load.get("Rt2")}]
    if load["Rn"] in {load["Rt"], load.get("Rt2")}:
        return _sequence(draft)
    store = dict(load, L=0, Rs=rng.choice(others))
    middle = rng.choice((None, None, "CLREX", "DMB", "ADDSUB_IMM", "LDST_UIMM"))
    words = [ENCODINGS[name].encode(**load)]
    if middle:
        words.append(instruction(draft, middle))
    draft.words += [*words, ENCODINGS[name].encode(**store)]
    return None


def _loop(draft: Draft) -> None:
    """A loop of three rounds, of which all but the first run as a compiled region."""
    rng = draft.rng
    for _ in range(rng.randrange(1, 6)):
        names = _STRAIGHT if rng.randrange(3) else _MEMORY
        while True:
            word = instruction(draft, rng.choice(names))
            if not _mentions(word, _LOOP_REGISTER):
                break
        draft.words.append(word)
    draft.x[_LOOP_REGISTER] = rng.randrange(2, 5)
    kind = rng.randrange(2)
    back = -len(draft.words) - 1 + kind
    if kind:
        # One instruction less: the counter is a bit that is shifted out
        draft.words[-1] = ENCODINGS["BITFIELD"].encode(sf=1, opc=2, N=1, immr=1, imms=63, Rn=28, Rd=28)
        draft.words.append(ENCODINGS["CBZ"].encode(sf=1, op=1, imm19=back, Rt=_LOOP_REGISTER))
    else:
        draft.words.append(ENCODINGS["ADDSUB_IMM"].encode(sf=1, op=1, S=1, sh=0, imm12=1, Rn=28, Rd=28))
        draft.words.append(ENCODINGS["B_COND"].encode(imm19=back, cond=1))
    draft.compiled = True


def _mentions(word: int, number: int) -> bool:
    return any(word >> shift & 31 == number for shift in (0, 5, 10, 16)) or word >> 16 & 31 == number - 1


def _fetch(draft: Draft) -> None:
    """Where the code lies is what matters."""
    draft.pc, draft.code_at = surroundings.place(draft.rng, draft.env, seldom=1)
    draft.words += [instruction(draft, draft.rng.choice(_STRAIGHT)) for _ in range(draft.rng.randrange(1, 7))]


def _strata() -> dict[str, Make]:
    names = [name for name in ENCODINGS if name not in _LATER]
    table: dict[str, Make] = {name: SYSTEM_MAKERS.get(name) or _one(name) for name in names}
    table |= {f"sequence {number}": _sequence for number in range(6)}
    table |= {f"loop {number}": _loop for number in range(4)}
    return table | {"exclusives": _exclusives, "fetch": _fetch} | TABLE_MAKERS | TRANSLATION_MAKERS | CODE_MAKERS


STRATA: Final = _strata()
LATER_STRATA: Final[dict[str, Make]] = {
    **{name: _one(name) for name in _LATER},
    "MSR_IMM": SYSTEM_MAKERS["MSR_IMM"],
    "MRS": SYSTEM_MAKERS["MRS"],
    "MSR": SYSTEM_MAKERS["MSR"],
}


def _word(draft: Draft) -> None:
    """Any 32 bits."""
    draft.words.append(draft.rng.getrandbits(32))


class Kind(NamedTuple):
    """A row of cases, counted from 0."""

    processor: Processor
    strata: dict[str, Make]


WORDS: Final = "words"
KINDS: Final = {
    "cases": Kind(NEOVERSE, STRATA),
    "later": Kind(MAXIMUM, LATER_STRATA),
    "simd": Kind(NEOVERSE, SIMD_STRATA),
    WORDS: Kind(NEOVERSE, {WORDS: _word}),
}


def make(kind: str, seed: int, index: int) -> Case:
    """The case of this index. Of the strata, `words` alone has what is CONSTRAINED UNPREDICTABLE."""
    processor, strata = KINDS[kind]
    env = _environment(f"{seed}/{kind}/{index // RUN}")
    names = tuple(strata)
    stratum = names[index % len(names)]
    rng = random.Random(f"{seed}/{kind}/case {index}")
    while True:
        draft = _draft(rng, env, processor)
        draft.index = index
        strata[stratum](draft)
        if kind == WORDS or not any(map(unpredictable, draft.words)):
            return _finish(draft, stratum.partition(" ")[0], index)


@lru_cache(maxsize=1)
def _environment(name: str) -> Environment:
    """The one that these cases have in common."""
    return surroundings.environment(random.Random(name))


def _draft(rng: random.Random, env: Environment, processor: Processor) -> Draft:
    """Everything but the instructions."""
    pc, code_at = surroundings.place(rng, env)
    return Draft(
        rng=rng,
        env=env,
        pc=pc,
        code_at=code_at,
        x=[surroundings.operand(rng) for _ in range(31)],
        sp=[surroundings.data_address(rng, env) & -16 | (rng.randrange(16) if rng.randrange(8) == 0 else 0)] * 2,
        pstate=surroundings.processor_state(rng, dit=processor.features.dit),
        system=surroundings.system(env, rng),
    )


def _finish(draft: Draft, stratum: str, index: int) -> Case:
    assert 0 < len(draft.words) < at.WORDS, stratum
    return Case(
        stratum,
        draft.words,
        draft.x,
        draft.sp[0],
        draft.sp[1],
        draft.pstate,
        draft.pc,
        draft.code_at,
        draft.system,
        index,
        draft.compiled,
        draft.forget,
        draft.whole,
    )
