# SPDX-License-Identifier: GPL-2.0-only
"""Cases that write instructions, make them visible to the instruction fetch, and execute them (Arm ARM, B2.3.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_kvm_sea.arm64.operands import XZR, Cond, Label, Reg, W
from tests.oracle import layout as at
from tests.oracle import tables
from tests.oracle.instructions import Draft, instruction
from tests.oracle.sequences import Sequence, is_el0, mostly_at_el1

_SIMPLE: Final = (
    "ADDSUB_IMM",
    "LOGICAL_IMM",
    "MOVE_WIDE",
    "BITFIELD",
    "LOGICAL_SHIFTED",
    "ADDSUB_SHIFTED",
    "CSEL",
    "MADD",
    "ONE_SOURCE",
    "CCMP_REG",
)
"""Classes that change nothing but registers and flags."""


class _Patch(Sequence):
    """With registers for one word of the case, as it is executed and as it can be written to."""

    def __init__(self, draft: Draft, index: int) -> None:
        super().__init__(draft)
        self._rng = draft.rng
        self._el0 = is_el0(draft)
        env = draft.env
        if env.mmu:
            granule = env.granules[0]
            writable = granule.page(tables.CODE_WRITABLE + at.CODE_PAGES * self._el0) + at.CODE_AGAIN % granule.size
        else:
            writable = at.CODE_AGAIN
        self.writable = self.register(writable + draft.code_at - at.CODE + index * 4)
        self.executable = self.register(draft.pc + index * 4)

    def patch(self, word: Reg) -> None:
        """Store an instruction, and do what it takes to have it executed."""
        self.str(W[word.number], self.writable)
        clean = self._rng.choice(("dc cvau", "dc cvac", "dc civac"))
        self.system(clean, self._rng.choice((self.writable, self.executable)))
        self.dsb(self._rng.choice(("ish", "sy")))
        names = ("ic ivau",) * 3 + (() if self._el0 else ("ic iallu", "ic ialluis"))
        name = self._rng.choice(names)
        if name == "ic ivau":
            self.system(name, self.executable)
        else:
            self.system(name)
        self.dsb(self._rng.choice(("ish", "sy")))
        self.isb()


def _place(draft: Draft) -> None:
    """In an ordinary page, so that it can be executed; across the end of the first one in a quarter of the cases."""
    mostly_at_el1(draft)
    draft.pc = at.CODE + draft.code_at % at.PAGE & -4
    if draft.rng.randrange(4) == 0:
        draft.pc = at.CODE + at.PAGE - 4 * draft.rng.randrange(1, at.WORDS)
    draft.code_at = draft.pc


def _simple(draft: Draft, *kept: Reg) -> int:
    """An instruction that has nothing to do with the registers that are needed."""
    while True:
        word = instruction(draft, draft.rng.choice(_SIMPLE))
        if not {word >> shift & 31 for shift in (0, 5, 10, 16)} & {each.number for each in kept}:
            return word


def straight(draft: Draft) -> None:
    """A later instruction is replaced before it is executed."""
    _place(draft)
    rng = draft.rng
    index = rng.randrange(8, 12)
    code = _Patch(draft, index)
    word = code.register(_simple(draft))
    code.patch(word)
    while len(code) < 4 * at.WORDS - 4:
        code.word(_simple(draft))
    code.finish(forget=False)


def repeated(draft: Draft) -> None:
    """In a loop: what is executed is replaced in each round."""
    _place(draft)
    code = _Patch(draft, 0)
    rounds = code.register(draft.rng.randrange(2, 5))
    word, other = code.register(), code.register()
    kept = (code.writable, code.executable, rounds, word, other)
    first, second = _simple(draft, *kept), _simple(draft, *kept)
    draft.pin(word.number, second)
    draft.pin(other.number, first ^ second)
    code.label(again := Label("again"))
    code.word(first)
    for _ in range(draft.rng.randrange(3)):
        code.word(_simple(draft, *kept))
    code.patch(word)
    code.eor(word, word, other)
    code.subs(rounds, rounds, 1)
    code.b_cond(Cond.NE, again)
    code.finish(forget=False, compiled=True)


def nested(draft: Draft) -> None:
    """A loop within the loop, so that what is replaced has been executed several times, as a compiled region.

    It is in the block that the region begins with, or in another one, which has been executed once before.
    """
    _place(draft)
    ahead = draft.rng.randrange(2)
    code = _Patch(draft, 2 * ahead)
    rounds, inner = code.register(draft.rng.randrange(2, 4)), code.register(draft.rng.randrange(2, 5))
    word, other = code.register(), code.register()
    kept = (code.writable, code.executable, rounds, inner, word, other)
    first, second = _simple(draft, *kept), _simple(draft, *kept)
    draft.pin(word.number, second)
    draft.pin(other.number, first ^ second)
    again, following = Label("again"), Label("following")
    if ahead:
        code.b(following)
    code.label(again)
    if ahead:
        code.cbz(XZR, following)
    code.label(following)
    code.word(first)
    code.sub(inner, inner, 1)
    code.cbnz(inner, again)
    code.patch(word)
    code.eor(word, word, other)
    code.movz(inner, draft.rng.randrange(1, 5))
    code.sub(rounds, rounds, 1)
    code.cbnz(rounds, again)
    code.finish(forget=False, compiled=True)


CODE_MAKERS: Final[dict[str, Callable[[Draft], None]]] = {
    "code 0": straight,
    "code 1": straight,
    "code loop": repeated,
    "code loops": nested,
}
