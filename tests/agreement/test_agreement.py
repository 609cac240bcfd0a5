# SPDX-License-Identifier: GPL-2.0-only
"""The simulated KVM against what a real one did in every scenario, value for value."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.agreement import records
from pytest_kvm_sea.agreement.compare import Difference, compare
from pytest_kvm_sea.agreement.explained import EXPLANATIONS, unexplained
from pytest_kvm_sea.agreement.scenarios import all_scenarios
from pytest_kvm_sea.agreement.steps import Observation
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "fixtures/agreement/linux-7.3.4.yaml"
SOON = 0.02
"""Seconds after which a simulated guest that goes on for ever has done so long enough."""


def play(platform: str = "ampereone") -> dict[str, list[Observation]]:
    played = {}
    for scenario in all_scenarios():
        host = SimHost(load_platform(platform))
        played[scenario.name] = scenario.play(host, timeout=SOON)
        host.close()
    return played


@pytest.fixture(scope="module")
def differences() -> list[Difference]:
    return compare(records.read(RECORD).observations, play())


def test_the_model_does_what_the_kernel_did(differences: list[Difference]) -> None:
    found = unexplained(differences)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda explanation: explanation.scenarios)
def test_every_explanation_is_needed_and_documented(differences: list[Difference], explanation: object) -> None:
    (known,) = (each for each in EXPLANATIONS if each is explanation)
    assert any(known.covers(difference) for difference in differences)
    page = " ".join((ROOT / "docs/agreement.md").read_text().split())
    assert known.reason in page


def test_the_record_is_of_the_scenarios_that_there_are() -> None:
    recorded = records.read(RECORD)
    assert recorded.release.startswith("7.3.4")
    assert list(recorded.observations) == [scenario.name for scenario in all_scenarios()]


def test_another_kernel_would_be_noticed() -> None:
    """The comparison has teeth: a release before 7.2 differs in the IL bit and in nothing that has to do with MMIO."""
    found = unexplained(compare(records.read(RECORD).observations, play("mainline-6.19")))
    assert {difference.name for difference in found} == {"esr_el1"}
    assert any(difference.scenario == "abort, never run, EL1h" for difference in found)
    assert not any(difference.scenario.startswith("mmio") for difference in found)
