# SPDX-License-Identifier: GPL-2.0-only
"""Give a machine our firmware: what it needs on its command line, and the process that plays beside it."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_kvm_sea.emulated.cpio import Cpio
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.machine import MachineConfig
from pytest_kvm_sea.emulated.run import Beside
from pytest_kvm_sea.firmware import port
from pytest_kvm_sea.firmware.einj_table import einj_table

MEMORY = 1536
"""MiB that suffice for the selftests. All of it is searched for tables, so more takes longer."""
TABLE_ID = b"EMULATED"
TABLE_FILE = "kernel/firmware/acpi/EINJ.aml"
"""Where the kernel looks for tables in an initramfs (Documentation/admin-guide/acpi/initrd_table_override.rst)."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
_MIB = 1 << 20
_START_TIMEOUT = 20.0
_POLL = 0.02
_GRACE = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Equipment:
    """The files that a machine and its firmware share, in a directory of their own."""

    directory: Path

    @property
    def ram(self) -> Path:
        return self.directory / "ram"

    @property
    def registers(self) -> Path:
        return self.directory / "nvdimm"

    @property
    def socket(self) -> Path:
        return self.directory / "port"

    def fit(self, machine: MachineConfig) -> MachineConfig:
        """The machine with RAM and NVDIMM in shared files, ACPI, an EINJ table in front, and the port.

        init_on_free: a table that KVM has freed is cleared, and not found in place of the one that is in use.
        """
        with_nvdimm = dataclasses.replace(machine, nvdimm_file=self.registers)
        path = str(self.socket).replace(",", ",,")
        return dataclasses.replace(
            with_nvdimm,
            efi=True,
            acpi=True,
            ras=True,
            ram_file=self.ram,
            extra_initrd=(table_archive(with_nvdimm.nvdimm_base), *machine.extra_initrd),
            append=("init_on_free=1", *machine.append),
            qemu_args=(
                *("-chardev", f"socket,id=firmware,path={path}"),
                *("-device", f"virtserialport,chardev=firmware,name={port.NAME}"),
                *machine.qemu_args,
            ),
        )

    @contextmanager
    def beside(self, machine: MachineConfig) -> Iterator[None]:
        """The firmware process, from before the machine starts until it has ended. EmulationError if it fails."""
        for path, size in ((self.ram, machine.memory), (self.registers, machine.nvdimm_size)):
            with path.open("wb") as file:
                file.truncate(size * _MIB)
        command = [sys.executable, "-m", str(__package__), "--ram", str(self.ram), "--registers", str(self.registers)]
        with (self.directory / "errors").open("w+") as errors:
            process = subprocess.Popen([*command, "--port", str(self.socket)], stderr=errors)  # noqa: S603 - no shell
            try:
                self._wait(process)
                if process.poll() is None:
                    yield
                    _end(process)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                errors.seek(0)
                raise EmulationError(f"the firmware process ended with {process.returncode}", errors.read())

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.socket.exists() and process.poll() is None:
            if time.monotonic() > deadline:
                raise EmulationError(f"the firmware process did not start within {_START_TIMEOUT:g} s")
            time.sleep(_POLL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends by itself when the machine has gone."""
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise EmulationError(f"the firmware process did not end within {_GRACE:g} s of the machine's end") from None


@contextmanager
def equipment(memory: int) -> Iterator[Equipment]:
    """A directory for one machine with so many MiB of RAM; in memory, where there is room for that."""
    directory = tempfile.mkdtemp(prefix="kvm-sea-", dir=_place((memory + 512) * _MIB))
    try:
        yield Equipment(Path(directory))
    finally:
        shutil.rmtree(directory)


@contextmanager
def equipped(machine: MachineConfig, *, firmware: bool) -> Iterator[tuple[MachineConfig, Beside | None]]:
    """The machine as it is to be booted, and what plays beside it; without ``firmware`` as given, and nothing."""
    if not firmware:
        yield machine, None
        return
    with equipment(machine.memory) as shared:
        yield shared.fit(machine), shared.beside


def _place(size: int) -> Path | None:
    usable = os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > size
    return _SHARED_MEMORY if usable else None


def table_archive(registers: int) -> bytes:
    """An initramfs with the EINJ table alone; to be put before all others."""
    buffer = io.BytesIO()
    archive = Cpio(buffer)
    archive.parents(TABLE_FILE)
    archive.file(TABLE_FILE, einj_table(registers, table_id=TABLE_ID))
    archive.close()
    return buffer.getvalue()
