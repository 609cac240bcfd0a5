# SPDX-License-Identifier: GPL-2.0-only
"""Differences between the model and a recorded host that are understood; everything else is a finding."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from pytest_kvm_sea.agreement.compare import Difference


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why values may differ."""

    scenarios: str
    """A pattern as for file names."""
    names: frozenset[str]
    """Of the values; empty: all."""
    reason: str

    def covers(self, difference: Difference) -> bool:
        return fnmatchcase(difference.scenario, self.scenarios) and (not self.names or difference.name in self.names)


EXPLANATIONS = (
    Explanation(
        "branch without memory",
        frozenset({"spsr_el1"}),
        "FEAT_BTI: a branch by register leaves its kind in PSTATE.BTYPE, which the modelled processor does not have",
    ),
    Explanation(
        "pc misaligned, *",
        frozenset({"spsr_el1"}),
        "FEAT_BTI: a branch by register leaves its kind in PSTATE.BTYPE, which the modelled processor does not have",
    ),
    Explanation("sp misaligned, *", frozenset(), "QEMU does not check the alignment of SP; the model does"),
    Explanation(
        "daifset at EL0, EL0",
        frozenset({"esr_el1"}),
        "QEMU swaps op1 and op2 in the syndrome of a trapped MSR (immediate)",
    ),
    Explanation(
        "pstate AArch32 user",
        frozenset({"result", "value"}),
        "the recorded host has AArch32 at EL0, the modelled ones do not",
    ),
)


def unexplained(differences: list[Difference]) -> list[Difference]:
    """What nobody has an explanation for."""
    return [found for found in differences if not any(known.covers(found) for known in EXPLANATIONS)]
