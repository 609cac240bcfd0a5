# SPDX-License-Identifier: GPL-2.0-only
"""Makes a case that differs as small as it gets: zeros in registers, NOPs for instructions, the usual environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Final

from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate
from tests.oracle import layout as at
from tests.oracle.case import Case
from tests.oracle.compare import Mismatch, Pair

_NOP: Final = encode("HINT", CRm=0, op2=0)
_ROUNDS: Final = 20
_KEPT: Final = frozenset({"vbar_el1", "mair_el1", "ttbr0_el1", "ttbr1_el1", "tcr_el1"})
"""Without these there would be no place to go to."""
_PSTATE_BITS: Final = (0xF << 28, pstate.PAN, pstate.SSBS, pstate.DIT, pstate.IL, pstate.DAIF, 1)
_SCTLR_BITS: Final = tuple(1 << bit for bit in (0, 1, 3, 4, 9, 14, 15, 16, 18, 19, 23, 26, 44))

Change = Callable[[Case], None]


def shrink(pair: Pair, mismatch: Mismatch) -> Mismatch:
    """The smallest case found that differs still. One boot of QEMU per round."""
    for _ in range(_ROUNDS):
        changes = list(_changes(mismatch.case))
        alone = [_changed(mismatch.case, [change]) for change in changes]
        useful = [change for change, found in zip(changes, _differing(pair, alone), strict=True) if found]
        if not useful:
            break
        # All of them together, or at least the first
        together = [_changed(mismatch.case, useful[:number]) for number in _halves(len(useful))]
        found = next(filter(None, _differing(pair, together)), None)
        if found is None:
            break
        mismatch = found
    return mismatch


def _halves(number: int) -> Iterator[int]:
    while number:
        yield number
        number //= 2


def _differing(pair: Pair, cases: list[Case]) -> list[Mismatch | None]:
    return [
        Mismatch(case, theirs, ours) if theirs != ours and pair.explain(case, theirs, ours) is None else None
        for case, (theirs, ours) in zip(cases, pair.results(cases), strict=True)
    ]


def _changed(case: Case, changes: list[Change]) -> Case:
    case = copy.deepcopy(case)
    for change in changes:
        change(case)
    return case


def _changes(case: Case) -> Iterator[Change]:
    """What would make it smaller, the greatest first."""
    if not case.whole:
        yield from _smaller_code(case)
    for bits in _PSTATE_BITS:
        if case.pstate & bits:
            yield lambda c, b=bits: setattr(c, "pstate", c.pstate & ~b)  # type: ignore[misc]
    for bits in _SCTLR_BITS:
        if case.system["sctlr_el1"] & bits:
            yield lambda c, b=bits: c.system.update(sctlr_el1=c.system["sctlr_el1"] & ~b)  # type: ignore[misc]
    for name in at.SYSTEM:
        if name not in _KEPT and name != "sctlr_el1" and case.system[name]:
            yield lambda c, n=name: c.system.update({n: 0})  # type: ignore[misc]
    if case.compiled:
        yield lambda c: setattr(c, "compiled", False)


def _smaller_code(case: Case) -> Iterator[Change]:
    """Fewer instructions, and registers without a value."""
    for number, word in enumerate(case.words):
        if word != _NOP:
            yield lambda c, n=number: c.words.__setitem__(n, _NOP)  # type: ignore[misc]
    if len(case.words) > 1 and case.words[-1] == _NOP:
        yield lambda c: c.words.__delitem__(-1)
    for number, value in enumerate(case.x):
        if value:
            yield lambda c, n=number: c.x.__setitem__(n, 0)  # type: ignore[misc]
            if value >> 32:
                yield lambda c, n=number, v=value: c.x.__setitem__(n, v & 0xFFFF_FFFF)  # type: ignore[misc]
