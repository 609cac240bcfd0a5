# SPDX-License-Identifier: GPL-2.0-only
"""Both processors on the same cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_kvm_sea.arm64 import esr
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.difference import Difference, normal, reached_el1
from tests.oracle.known import Explanation, known
from tests.oracle.listing import UNDEFINED, Listed, did, listed
from tests.oracle.qemu import Qemu
from tests.oracle.simulated import Simulated
from tests.oracle.strata import WORDS, Processor

TO_EL2: Final = 0x100
TROUBLE: Final = -1
_ESR: Final = at.SYSTEM.index("esr_el1")


@dataclass(slots=True)
class Mismatch:
    """A case on which the two do not agree, and nothing is known that explains it."""

    case: Case
    qemu: Result
    simulated: Result
    kind: str = ""
    """Of `strata.KINDS`."""

    def sort(self) -> tuple[str, tuple[str, ...]]:
        """Stratum, and the names of what differs."""
        pairs = zip(Result._fields, self.qemu, self.simulated, strict=True)
        return self.case.stratum, tuple(name for name, theirs, ours in pairs if theirs != ours)


@dataclass(slots=True)
class Tally:
    """What came of some cases."""

    cases: Counter[str] = field(default_factory=Counter)
    """By stratum."""
    differing: Counter[str] = field(default_factory=Counter)
    explained: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By `Known.name` and `Explanation.detail`."""
    endings: Counter[int] = field(default_factory=Counter)
    """How the cases ended in QEMU: exception classes of EL1; of EL2 with `TO_EL2`; or `TROUBLE`."""
    undefined: Counter[str] = field(default_factory=Counter)
    """By stratum: UNDEFINED in both."""
    mismatches: list[Mismatch] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)
    """Random words that differ for a known reason."""

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.differing += other.differing
        self.explained += other.explained
        self.endings += other.endings
        self.undefined += other.undefined
        self.mismatches += other.mismatches
        self.listed += other.listed


class Pair:
    """A processor of QEMU and the simulated one with the same features."""

    def __init__(self, qemu: Sequence[str], processor: Processor) -> None:
        self._qemu = Qemu(qemu, processor.cpu)
        self._simulated = Simulated(processor.features)

    def results(self, cases: Sequence[Case]) -> list[tuple[Result, Result]]:
        """QEMU's result and the simulated one for each case."""
        expected = self._qemu.run(cases)
        return [(normal(theirs), self.simulate(case)) for case, theirs in zip(cases, expected, strict=True)]

    def simulate(self, case: Case) -> Result:
        """The simulated result."""
        return normal(self._simulated.run(case))

    def explain(self, case: Case, qemu: Result, simulated: Result) -> Explanation | None:
        """Why the two results, which differ, do so; None if it is not known."""
        return known(Difference(case, qemu, simulated, self.simulate))

    def compare(self, cases: Sequence[Case], *, kind: str = "", keep: int = 40) -> Tally:
        """Run cases; at most ``keep`` mismatches are kept, the others only counted."""
        tally = Tally()
        for case, (theirs, ours) in zip(cases, self.results(cases), strict=True):
            tally.cases[case.stratum] += 1
            tally.endings[_ending(theirs)] += 1
            if theirs == ours:
                tally.undefined[case.stratum] += did(case, ours) == UNDEFINED
                continue
            explanation = self.explain(case, theirs, ours)
            if explanation is not None:
                tally.explained[explanation.known.name, explanation.detail] += 1
                if kind == WORDS:
                    tally.listed.append(listed(case, explanation.known.name, explanation.detail, theirs, ours))
                continue
            tally.differing[case.stratum] += 1
            if len(tally.mismatches) < keep:
                tally.mismatches.append(Mismatch(case, theirs, ours, kind))
        return tally


def _ending(result: Result) -> int:
    if result.trouble:
        return TROUBLE
    if reached_el1(result):
        return esr.ec(result.system[_ESR])
    return esr.ec(result.esr_el2) | TO_EL2
