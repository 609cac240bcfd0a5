# SPDX-License-Identifier: GPL-2.0-only
"""Two records side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_kvm_sea.agreement.steps import Observation
from pytest_kvm_sea.arm64 import esr as syndromes

Record = Mapping[str, Sequence[Observation]]
_SYNDROMES = {"esr", "esr_el1", "iss"}
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same."""

    scenario: str
    step: int
    name: str
    left: str
    right: str

    def __str__(self) -> str:
        text = f"{self.scenario}, observation {self.step}: {self.name}: {self.left} | {self.right}"
        if self.name in _SYNDROMES:
            text += f"  ({decoded(self.left)} | {decoded(self.right)})"
        return text


def decoded(text: str) -> str:
    """A syndrome in words, as far as they are short."""
    try:
        esr = int(text, 16)
    except ValueError:
        return text
    names = {member.value: member.name for member in syndromes.EC}
    number = syndromes.ec(esr)
    il = "IL " if esr & syndromes.IL else ""
    return f"{names.get(number, hex(number))} {il}iss={esr & syndromes.ISS_MASK:#x}"


def compare(left: Record, right: Record) -> list[Difference]:
    """Everything that is not equal, missing scenarios included."""
    found: list[Difference] = []
    for name in [*left, *(name for name in right if name not in left)]:
        found += _compare_one(name, left.get(name), right.get(name))
    return found


def _compare_one(
    scenario: str, left: Sequence[Observation] | None, right: Sequence[Observation] | None
) -> list[Difference]:
    if left is None or right is None:
        present, absent = "recorded", "not recorded"
        return [
            Difference(
                scenario, 0, "scenario", absent if left is None else present, absent if right is None else present
            )
        ]
    found = []
    for step in range(max(len(left), len(right))):
        one = left[step] if step < len(left) else {}
        other = right[step] if step < len(right) else {}
        for name in [*one, *(name for name in other if name not in one)]:
            values = one.get(name, _ABSENT), other.get(name, _ABSENT)
            if values[0] != values[1]:
                found.append(Difference(scenario, step + 1, name, *values))
    return found
