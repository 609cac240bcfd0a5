# SPDX-License-Identifier: GPL-2.0-only
"""How fast compiled C runs: ``python tests/benchmarks/bench_c_programs.py``. Medians.

Programs of fixtures/guests/checksums, built by aarch64-linux-gnu-gcc -O2. A run is one VM with one vCPU, from its first
instruction to the ucall at its end: the first one in this process, and warm ones after ten others. Beside it the same
objects in qemu-aarch64, without the start of the process, and in Unicorn, where they are installed; both translate anew
each time.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pytest_kvm_sea.guest.cc import compilers
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vm import Vm
from tests.guest import qemu_user
from tests.guest.c_programs import build, build_timed, names, recorded

_REPEATS = 5
_WARM_UP = 10
_LOOPS = ("chacha", "life", "memory")
_CALLS = ("structures", "lisp", "sudoku")
_MEMORY = 0x20_0000
_END = 0x1000
"""Where a program returns to in Unicorn; nothing is there."""


def simulated(program: GuestProgram, name: str) -> tuple[float, int]:
    """Seconds of one run, and how many instructions it had."""
    host = SimHost(load_platform("ampereone"))
    try:
        with Vm(host) as vm:
            vm.load(program)
            vm.set_global("chosen", names().index(name))
            vcpu = vm.add_vcpu()
            start = time.perf_counter()
            vcpu.expect_done()
            took = time.perf_counter() - start
            assert vm.get_global("checksum") == recorded()[name]
            (machine,) = host._machine.vms
            (processor,) = machine.vcpus.values()
            return took, processor.cpu.instructions
    finally:
        host.close()


def in_qemu(directory: Path, name: str) -> str:
    """Milliseconds."""
    emulator = qemu_user.find()
    if not emulator:
        return "not installed"
    timed = str(build_timed("gcc", "-O2", name, directory))

    def run() -> float:
        return int(subprocess.run([emulator, timed], check=True, capture_output=True).stdout, 16) / 1e9

    return f"{median(run) * 1e3:.1f} ms"


def in_unicorn(program: GuestProgram, name: str) -> str:
    """Milliseconds."""
    if not importlib.util.find_spec("unicorn"):
        return "not installed"
    # It may not be there, and it has no types.
    unicorn: Any = importlib.import_module("unicorn")
    names_of: Any = importlib.import_module("unicorn.arm64_const")

    def run() -> float:
        emulator = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        emulator.mem_map(0, _MEMORY)
        for segment in program.segments:
            emulator.mem_write(segment.gva, segment.data)
        emulator.reg_write(names_of.UC_ARM64_REG_SP, program.stack_top)
        emulator.reg_write(names_of.UC_ARM64_REG_LR, _END)
        start = time.perf_counter()
        emulator.emu_start(program.symbols[name], _END)
        took = time.perf_counter() - start
        assert emulator.reg_read(names_of.UC_ARM64_REG_X0) == recorded()[name]
        return took

    return f"{median(run) * 1e3:.1f} ms"


def median(run: Callable[[], float]) -> float:
    return statistics.median(run() for _ in range(_REPEATS))


def main() -> int:
    if "gcc" not in compilers():
        print("no gcc for AArch64 here: apt install gcc-aarch64-linux-gnu", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        program = GuestProgram.from_elf(build("gcc", "-O2", directory)[0])
        for name in (*_LOOPS, *_CALLS):
            first, count = simulated(program, name)
            # Counts of how hot a block is are kept from VM to VM: for some runs more and more gets compiled.
            for _ in range(_WARM_UP):
                simulated(program, name)
            warm = median(lambda name=name: simulated(program, name)[0])  # type: ignore[misc]
            print(
                f"{name:14} {count:7} instructions: {count / warm / 1e6:5.1f} MIPS, {warm * 1e3:.1f} ms"
                f" (first run {count / first / 1e6:.1f}, {first * 1e3:.0f} ms)"
                f" · qemu-aarch64 {in_qemu(directory, name)} · Unicorn {in_unicorn(program, name)}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
