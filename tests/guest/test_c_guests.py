# SPDX-License-Identifier: GPL-2.0-only
"""The prebuilt guests in C on simulated hosts, and that they are built from what is here."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FIXTURES = HERE.parents[1] / "fixtures"


@pytest.mark.parametrize(
    ("platform", "passed", "skipped", "xfailed"),
    [
        ("ampereone", 6, 1, 0),
        ("series-v1", 7, 0, 0),
        ("series-v1-neoverse-v2", 7, 0, 0),
        ("neoverse-v2", 5, 1, 1),
        ("no-ras", 5, 2, 0),
    ],
)
def test_on_simulated_hosts(pytester: pytest.Pytester, platform: str, passed: int, skipped: int, xfailed: int) -> None:
    shutil.copy(HERE / "live_c_guests.py", pytester.path / "test_live.py")
    shutil.copytree(FIXTURES / "elf", pytester.path / "elf")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", f"--kvm-sea-platform={platform}")
    result.assert_outcomes(passed=passed, skipped=skipped, xfailed=xfailed)


def test_the_executables_are_built_from_these_sources() -> None:
    spec = importlib.util.spec_from_file_location("guests_build", FIXTURES / "guests/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    built = json.loads((FIXTURES / "elf/built.json").read_text())
    assert built["sources"] == build.digests(), "stale: run python fixtures/guests/build.py"
    assert {path.stem for path in (FIXTURES / "elf").glob("*.elf")} == set(build.GUESTS)
