# SPDX-License-Identifier: GPL-2.0-only
"""The programs in fixtures/guests/checksums: compiled, run as processes of Linux, and run as guests.

    python -m tests.guest.c_programs        records the checksums, and builds the executables of the plain tests

Each file is compiled once for a compiler and a level of optimisation. The same objects are linked into two executables
that have all programs: a guest, which computes the checksum of one that the VMM chooses, and a static process of Linux
without a libc, which writes the checksums of all of them. What differs, differs in who executes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_kvm_sea.guest.cc import compile_flags, compile_guest, compilers, include_dir
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vm import Vm
from tests.guest import qemu_user

SOURCES = Path(__file__).parents[2] / "fixtures/guests/checksums"
GLUE = SOURCES / "glue"
RECORDED = SOURCES / "checksums.json"
BUILT = Path(__file__).parents[2] / "fixtures/elf/checksums"
PREBUILT = {"gcc-O2": ("gcc", "-O2"), "zig-Os": ("zig", "-Os")}
"""Executables for machines without a compiler: compiler and level of each."""
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
STRICT = ("-Wall", "-Wextra", "-Werror")
LSE = {"gcc": "-march=armv8.1-a", "zig": "-mcpu=generic+lse-neon-fp_armv8"}
AGAIN_WITH_LSE = ("free_lists", "spinlocks")
"""Programs that are there a second time, with the atomic instructions of Armv8.1."""
STACK = "-DKVM_SEA_STACK_SIZE=0x10000"
SEED = 0x2545F4914F6CDD1D


def names() -> list[str]:
    """The programs, in the order in which executables have them."""
    found = [path.stem for path in SOURCES.glob("*.c")]
    return sorted([*found, *(f"{name}_lse" for name in AGAIN_WITH_LSE)])


def recorded() -> dict[str, int]:
    """The checksums that qemu-aarch64 has computed."""
    return {name: int(checksum, 16) for name, checksum in json.loads(RECORDED.read_text()).items()}


def build(kind: str, level: str, directory: Path) -> tuple[Path, Path]:
    """Compile all programs: the guest, and the executable for Linux."""
    compiler = [*compilers()[kind], level, *STRICT, f"-I{SOURCES}"]
    flags = ["-c", *compile_flags()]
    (directory / "table.c").write_text(_table(names()))
    sources = [*(str(path) for path in sorted(SOURCES.glob("*.c"))), "table.c", str(GLUE / "linux.c")]
    # Of several files with -c zig compiles the first, and says nothing about the others.
    for batch in [sources] if kind == "gcc" else [[source] for source in sources]:
        _run([*compiler, *flags, *batch], directory)
    for name in AGAIN_WITH_LSE:
        renamed = f"{name}_lse"
        again = [LSE[kind], f"-D{name}={renamed}", str(SOURCES / f"{name}.c"), "-o", f"{renamed}.o"]
        _run([*compiler, *flags, *again], directory)
    objects = [str(directory / f"{name}.o") for name in [*names(), "table"]]
    guest = compile_guest([GLUE / "guest.c", *objects], directory / "guest.elf", options=(STACK,), compiler=compiler)
    return guest, _link_for_linux(compiler, ["linux", *names(), "table"], directory / "linux.elf")


def build_timed(kind: str, level: str, program: str, directory: Path) -> Path:
    """An executable for Linux that writes how many nanoseconds a program takes, of objects that `build` has made."""
    compiler = [*compilers()[kind], level]
    (directory / "timed_table.c").write_text(_table([program]))
    for source, made in (("timed_table.c", "timed_table.o"), (str(GLUE / "linux.c"), "timed_linux.o")):
        _run([*compiler, "-DTIMED", "-c", *compile_flags(), source, "-o", made], directory)
    return _link_for_linux(compiler, ["timed_linux", *names(), "timed_table"], directory / "timed.elf")


def _link_for_linux(compiler: Sequence[str], objects: Sequence[str], executable: Path) -> Path:
    """Names of objects in the directory of the executable."""
    parts = [str(include_dir() / "kvm_sea_runtime.S"), *(f"{name}.o" for name in objects)]
    _run([*compiler, "-nostdlib", "-static", "-no-pie", *parts, "-o", executable.name], executable.parent)
    return executable


def emulated(executable: Path) -> dict[str, int]:
    """What the executable for Linux writes in qemu-aarch64."""
    emulator = qemu_user.find()
    assert emulator, "no qemu-aarch64: apt install qemu-user"
    done = subprocess.run([emulator, str(executable)], capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.split()
    assert done.returncode == 0, f"{emulator}: {done.returncode} after {len(lines)} programs\n{done.stderr}"
    return {name: int(line, 16) for name, line in zip(names(), lines, strict=True)}


def simulated(program: GuestProgram, name: str) -> int:
    """The checksum that a simulated vCPU computes."""
    host = SimHost(load_platform("ampereone"))
    try:
        with Vm(host) as vm:
            vm.load(program)
            vm.set_global("chosen", names().index(name))
            vm.add_vcpu().expect_done()
            return vm.get_global("checksum")
    finally:
        host.close()


def digests() -> dict[str, str]:
    """What the executables are made from."""
    sources = [*SOURCES.glob("*.[ch]"), GLUE / "guest.c", *include_dir().iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(sources)}


def _table(programs: Sequence[str]) -> str:
    return (
        "#include <stdint.h>\n"
        f"volatile uint64_t seed = UINT64_C({SEED:#x});\n"
        f"uint64_t {', '.join(f'{name}(void)' for name in programs)};\n"
        f"uint64_t (*const programs[])(void) = {{ {', '.join([*programs, '0'])} }};\n"
    )


def _run(command: Sequence[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def main() -> int:
    if missing := sorted({"gcc", "zig"} - compilers().keys()):
        print(f"no {' and no '.join(missing)} for AArch64 here", file=sys.stderr)  # noqa: T201 - a program
        return 1
    BUILT.mkdir(exist_ok=True)
    for executable, (kind, level) in PREBUILT.items():
        with tempfile.TemporaryDirectory() as directory:
            guest, linux = build(kind, level, Path(directory))
            found = emulated(linux)
            # What debuggers want has paths of this machine in it.
            subprocess.run(["aarch64-linux-gnu-strip", "--strip-debug", str(guest)], check=True)
            shutil.copyfile(guest, BUILT / f"{executable}.elf")
    (BUILT / "built.json").write_text(json.dumps(digests(), indent=2) + "\n")
    RECORDED.write_text(json.dumps({name: f"{checksum:016x}" for name, checksum in found.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
