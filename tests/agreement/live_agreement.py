# SPDX-License-Identifier: GPL-2.0-only
"""A live kernel against the record of its release: for an arm64 machine, with ``--kvm-sea-host=linux``.

Not collected by itself. The record has to lie beside this file or in the current directory; the machine that
`pytest_kvm_sea.emulated` boots gets both with ``--copy``. What the kernel did is written to live-agreement.yaml,
beside the JUnit file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.agreement import records
from pytest_kvm_sea.agreement.compare import compare
from pytest_kvm_sea.agreement.explained import unexplained
from pytest_kvm_sea.agreement.scenario import play_all
from pytest_kvm_sea.agreement.scenarios import all_scenarios
from pytest_kvm_sea.hosts.contract import Host


def record_of(release: str) -> Path:
    """The record of the running kernel's release: fixtures/agreement/linux-7.3.4.yaml."""
    name = f"linux-{release.partition('+')[0].partition('-')[0]}.yaml"
    places = [Path(name), Path(__file__).with_name(name), Path(__file__).parent / "../../fixtures/agreement" / name]
    for place in places:
        if place.exists():
            return place
    pytest.skip(f"[record] there is no record of Linux {release}; python -m pytest_kvm_sea.agreement record {name}")


@pytest.mark.kvm_sea_requires("kvm")
def test_this_kernel_does_what_its_release_did(kvm_sea_host: Host, pytestconfig: pytest.Config) -> None:
    if kvm_sea_host.name != "linux":
        pytest.skip("[linux] a simulated host is compared by test_agreement.py; --kvm-sea-host=linux")
    recorded = records.read(record_of(kvm_sea_host.release))
    seen = play_all(kvm_sea_host, all_scenarios())
    results = Path(pytestconfig.getoption("xmlpath") or "junit.xml").parent
    records.write(results / "live-agreement.yaml", records.Recorded(kvm_sea_host.release, recorded.revision, seen))
    found = unexplained(compare(recorded.observations, seen))
    assert not found, "\n".join(map(str, found))
