# SPDX-License-Identifier: GPL-2.0-only
"""The prebuilt guests in C on simulated hosts, and that they are built from what is here."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from pytest_kvm_sea.guest.cc import compile_guest, compilers

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


@pytest.mark.skipif(
    not compilers(), reason="[c-compiler] no C compiler for AArch64: apt install gcc-aarch64-linux-gnu, or ziglang"
)
def test_built_anew(pytester: pytest.Pytester) -> None:
    """What is in the sources now, by all compilers that are here."""
    shutil.copy(HERE / "live_c_guests.py", pytester.path / "test_live.py")
    (pytester.path / "elf").mkdir()
    first, *others = compilers().values()
    for name in ("sea_to_user", "inject_iabt", "exceptions"):
        compile_guest([FIXTURES / f"guests/{name}.c"], pytester.path / f"elf/{name}.elf", compiler=first)
    last = [*others, first][0]
    compile_guest([FIXTURES / "guests/exceptions.c"], pytester.path / "elf/exceptions-zig.elf", compiler=last)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-platform=series-v1")
    result.assert_outcomes(passed=7)


def test_the_executables_are_built_from_these_sources() -> None:
    spec = importlib.util.spec_from_file_location("guests_build", FIXTURES / "guests/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    built = json.loads((FIXTURES / "elf/built.json").read_text())
    assert built["sources"] == build.digests(), "stale: run python fixtures/guests/build.py"
    assert {path.stem for path in (FIXTURES / "elf").glob("*.elf")} == set(build.GUESTS)
