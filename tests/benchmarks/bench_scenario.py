# SPDX-License-Identifier: GPL-2.0-only
"""What one sea_to_user scenario costs: 1 GiB mapped by 4 KiB pages, injection, exit, replay, done.

    python tests/benchmarks/bench_scenario.py [RUNS]

Prints the first run of the process; cold runs, which have to make the guest program, its page tables and its code as
Python anew; warm ones, where the time goes in them, and the resident memory that a VM with 1 GiB adds.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pytest_kvm_sea.cpu import blocks, closures
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.selftests.scenario import EINJ_GVA, GIB, add_memory, break_memory, replay, run_to_sea
from pytest_kvm_sea.sim import copy_on_write
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.vm import Vm

PLATFORM = load_platform("ampereone")
Steps = dict[str, float]
_COLD_RUNS = 20


def scenario(*, keep: list[tuple[SimHost, Vm]] | None = None) -> Steps:
    """Milliseconds for each step."""
    steps: Steps = {}
    started = time.perf_counter()

    def step(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        steps[name] = (now - started) * 1e3
        started = now

    host = SimHost(PLATFORM)
    step("host")
    vm = Vm(host)
    vm.load(guests.consumer(ACCESSES["ldr-x"], EINJ_GVA, check_fnv=True))
    vcpu = vm.add_vcpu()
    step("VM and vCPU")
    add_memory(vm, size=GIB)
    step("1 GiB of memory")
    vm.enable_sea_to_user()
    broken = break_memory(vm, Einj(host), EINJ_GVA)
    step("injection")
    sea = run_to_sea(vcpu, broken)
    step("run to the exit")
    replay(vcpu, sea, "events")
    vcpu.expect_done()
    step("replay to the end")
    if keep is not None:
        keep.append((host, vm))
        return steps
    vm.close()
    host.close()
    step("close")
    return steps


def forget() -> None:
    """All that one run leaves for the next."""
    guests.consumer.cache_clear()
    copy_on_write._template.cache_clear()
    blocks._BLOCKS.clear()
    closures._OPERATIONS.clear()
    closures._FACTORIES.clear()


def cold() -> float:
    forget()
    return sum(scenario().values())


def resident() -> int:
    """Resident memory of this process, bytes."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def memory_of_a_vm(make: Callable[[list[tuple[SimHost, Vm]]], object]) -> int:
    kept: list[tuple[SimHost, Vm]] = []
    gc.collect()
    before = resident()
    make(kept)
    return resident() - before


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"first   {sum(scenario().values()):8.2f} ms")
    times = [cold() for _ in range(_COLD_RUNS)]
    print(f"cold    {statistics.median(times):8.2f} ms, median of {_COLD_RUNS} (least {min(times):.2f})")
    scenario()
    found = [scenario() for _ in range(runs)]
    totals = [sum(steps.values()) for steps in found]
    spread = f"least {min(totals):.2f}, most {max(totals):.2f}"
    print(f"warm    {statistics.median(totals):8.2f} ms, median of {runs} ({spread})")
    for name in found[0]:
        print(f"        {statistics.median(steps[name] for steps in found):8.2f} ms  {name}")
    grown = memory_of_a_vm(lambda kept: scenario(keep=kept))
    print(f"memory  {grown / (1 << 20):8.2f} MiB resident for a VM with 1 GiB")


if __name__ == "__main__":
    main()
