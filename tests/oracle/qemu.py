# SPDX-License-Identifier: GPL-2.0-only
"""Runs batches of cases in QEMU: one boot each, records and results in a file that is the machine's RAM."""

from __future__ import annotations

import contextlib
import mmap
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.emulated import native
from pytest_kvm_sea.emulated.cache import Cache, Log, default_directory
from tests.oracle import harness, stage2, tables
from tests.oracle import layout as at
from tests.oracle.case import Case, Result, broken

PROGRAM: Final = native.QEMU
TIMEOUT: Final = 20.0
"""Seconds for a batch; 10,000 cases take less than one."""
_OUTPUT: Final = struct.Struct(f"<{at.RECORD_OUT}Q")
_ABORTS: Final = {esr.EC.IABT_LOWER, esr.EC.DABT_LOWER}
_SYSTEM_END: Final = at.SYSTEM_OUT + len(at.SYSTEM)


class QemuError(Exception):
    """QEMU did not run, or the harness did not end as it should."""


def command(log_to_stderr: Log) -> list[str]:
    """The start of QEMU's command line: what is on PATH, else fetched by apt. Raises EmulationError."""
    return native.qemu(Cache(default_directory()), log_to_stderr)


@cache
def _image() -> tuple[tuple[int, bytes], ...]:
    """What every batch has in memory: address and contents."""
    guest = tables.guest_memory()
    return (
        (at.HARNESS, harness.build()),
        (at.STAGE2, stage2.image()),
        (at.PRISTINE, tables.pristine(guest)),
        (at.GUEST, guest),
    )


class Qemu:
    """A processor model of QEMU."""

    def __init__(self, qemu: Sequence[str], cpu: str) -> None:
        self._qemu = list(qemu)
        self._cpu = cpu

    def run(self, cases: Sequence[Case]) -> list[Result]:
        """The results of a batch. A case that never ends has a trouble; those after it run in another boot."""
        results: list[Result] = []
        while len(results) < len(cases):
            rest = cases[len(results) :]
            results += self._boot(rest)
            if len(results) < len(cases):
                results.append(broken("it does not stop"))
        return results

    def _boot(self, cases: Sequence[Case]) -> list[Result]:
        size = at.ram_size(len(cases))
        with tempfile.NamedTemporaryFile(prefix="kvm-sea-oracle-", dir=_directory()) as file:
            file.truncate(size)
            with mmap.mmap(file.fileno(), size) as ram:
                self._fill(ram, cases)
                # Then the results end before the case that does not
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._execute(Path(file.name), size)
                left: int = struct.unpack_from("<Q", ram, at.STATE - at.RAM + 16)[0]
                done = len(cases) - left
                base = at.output(len(cases)) - at.RAM
                return [_result(ram, base + number * at.RECORD_OUT * 8) for number in range(done)]

    def _fill(self, ram: mmap.mmap, cases: Sequence[Case]) -> None:
        for address, contents in _image():
            ram[address - at.RAM : address - at.RAM + len(contents)] = contents
        struct.pack_into("<3Q", ram, at.STATE - at.RAM, at.INPUT, at.output(len(cases)), len(cases))
        offset = at.INPUT - at.RAM
        records = b"".join(case.record() for case in cases)
        ram[offset : offset + len(records)] = records

    def _execute(self, path: Path, size: int) -> None:
        """One boot, until the harness powers the machine off."""
        memory = f"memory-backend-file,id=ram,size={size},mem-path={path},share=on"
        done = subprocess.run(
            [
                *self._qemu,
                *("-machine", "virt,virtualization=on,memory-backend=ram", "-cpu", self._cpu, "-m", f"{size >> 20}M"),
                # One thread: an atomic access to a page without RAM is then an ordinary one, which aborts
                *("-accel", "tcg,thread=single", "-object", memory),
                *("-device", f"loader,addr={at.HARNESS:#x},cpu-num=0"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "none", "-monitor", "none"),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise QemuError(f"{self._qemu[0]} ended with {done.returncode}: {done.stderr.strip()}")


def _directory() -> str | None:
    """Where a file is memory, if there is such a place."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


def _result(ram: mmap.mmap, offset: int) -> Result:
    values = _OUTPUT.unpack_from(ram, offset)
    if values[at.ENTRY] != 8:  # Synchronous, from a lower level that is AArch64
        return broken(f"EL2's vector {values[at.ENTRY]} was taken, at {values[at.PC]:#x}, ESR {values[at.ESR_EL2]:#x}")
    syndrome = values[at.ESR_EL2]
    aborted = esr.ec(syndrome) in _ABORTS
    count = values[at.CHANGES]
    listed = values[at.CHANGE_LIST : at.CHANGE_LIST + 2 * min(count, at.CHANGES_KEPT)]
    return Result(
        values[:31],
        values[at.SP_EL0],
        values[at.SP_EL1],
        values[at.PSTATE],
        values[at.PC],
        syndrome,
        values[at.FAR_EL2] if aborted else 0,
        values[at.HPFAR_EL2] if aborted else 0,
        values[at.SYSTEM_OUT : _SYSTEM_END],
        tuple(zip(listed[::2], listed[1::2], strict=True)),
        "" if count <= at.CHANGES_KEPT else f"{count} doublewords have changed",
    )
