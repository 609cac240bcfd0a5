# SPDX-License-Identifier: GPL-2.0-only
"""A scenario: how the VM starts, and the steps; playing it gives the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm_sea.agreement.machine import Code, Machine
from pytest_kvm_sea.agreement.steps import Observation, Step

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

TIMEOUT = 0.5
"""Seconds after which a guest counts as running for ever; an emulated host is slow."""


def nothing(_asm: object) -> None:
    """Code that only stays where it is."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that KVM may do."""

    name: str
    steps: tuple[Step, ...]
    code: Code = nothing
    registers: Mapping[str, int] = field(default_factory=dict)

    def play(self, host: Host, *, timeout: float = TIMEOUT) -> list[Observation]:
        """What was seen, step by step; steps that show nothing leave nothing."""
        machine = Machine(host, self.code, self.registers, timeout=timeout)
        try:
            seen = [step.do(machine) for step in self.steps]
        finally:
            machine.close()
        return [observation for observation in seen if observation]


def play_all(host: Host, scenarios: Iterable[Scenario], *, timeout: float = TIMEOUT) -> dict[str, list[Observation]]:
    """Name to observations."""
    return {scenario.name: scenario.play(host, timeout=timeout) for scenario in scenarios}
