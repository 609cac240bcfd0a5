# SPDX-License-Identifier: GPL-2.0-only
"""Programs in C compute on a simulated vCPU what the same machine code computes in qemu-aarch64 (qemu-user).

Ordinarily executables built beforehand against recorded checksums, and a sample by the first compiler that is here;
with KVM_SEA_TEST_C_GUESTS=all every program by every compiler at every level of optimisation (tox run -e cguests).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pytest_kvm_sea.guest.cc import compilers
from pytest_kvm_sea.guest.program import GuestProgram
from tests.guest import c_programs, qemu_user
from tests.guest.c_programs import BUILT, LEVELS, PREBUILT, build, emulated, names, recorded, simulated

FOUND = compilers()
ALL = os.environ.get("KVM_SEA_TEST_C_GUESTS") == "all"
SAMPLE = ("hashing", "jumps", "sorting")


def builds() -> Iterator[tuple[str, str]]:
    """Compiler, level."""
    for kind in FOUND if ALL else [*FOUND, "none"][:1]:
        yield from ((kind, level) for level in (LEVELS if ALL else ("-O1",)))


@dataclass(frozen=True)
class Compiled:
    """All programs, by one compiler at one level."""

    guest: GuestProgram
    linux: Path
    expected: dict[str, int]
    """What qemu-aarch64 computes; without it, what it has computed when the checksums were recorded."""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Compiled]:
    """Compiled once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @cache
    def make(kind: str, level: str) -> Compiled:
        directory = shared / f"c-programs-{kind}{level}"
        directory.mkdir(exist_ok=True)
        expected = directory / "expected.json"
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not expected.exists():
                _guest, linux = build(kind, level, directory)
                expected.write_text(json.dumps(emulated(linux) if qemu_user.find() else recorded()))
        guest = GuestProgram.from_elf(directory / "guest.elf")
        return Compiled(guest, directory / "linux.elf", json.loads(expected.read_text()))

    return make


needs_compiler = pytest.mark.skipif(
    not FOUND,
    reason="[c-compiler] no C compiler for AArch64: apt install gcc-aarch64-linux-gnu, or pip install ziglang",
)
needs_qemu = pytest.mark.skipif(
    not qemu_user.find(),
    reason="[qemu-user] no qemu-aarch64, what the programs are compared with; python -m tests.guest.qemu_user",
)


@needs_compiler
@pytest.mark.parametrize("name", names() if ALL else SAMPLE)
@pytest.mark.parametrize(("kind", "level"), list(builds()), ids="".join)
def test_compiled(compiled: Callable[[str, str], Compiled], kind: str, level: str, name: str) -> None:
    made = compiled(kind, level)
    assert f"{simulated(made.guest, name):016x}" == f"{made.expected[name]:016x}"


@needs_compiler
@needs_qemu
@pytest.mark.parametrize(("kind", "level"), list(builds()), ids="".join)
def test_recorded(compiled: Callable[[str, str], Compiled], kind: str, level: str) -> None:
    """The programs are proper C: no compiler and no level makes a difference."""
    assert emulated(compiled(kind, level).linux) == recorded()


@cache
def prebuilt(executable: str) -> GuestProgram:
    return GuestProgram.from_elf(BUILT / f"{executable}.elf")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("executable", PREBUILT)
def test_prebuilt(executable: str, name: str) -> None:
    assert f"{simulated(prebuilt(executable), name):016x}" == f"{recorded()[name]:016x}"


def test_the_executables_are_built_from_these_sources() -> None:
    built = json.loads((BUILT / "built.json").read_text())
    assert built == c_programs.digests(), "stale: run python -m tests.guest.c_programs"
    assert {path.stem for path in BUILT.glob("*.elf")} == PREBUILT.keys()
    assert list(recorded()) == names()
    assert min(recorded().values()) > 1 << 32, "a small number says where a program found its own result to be wrong"
