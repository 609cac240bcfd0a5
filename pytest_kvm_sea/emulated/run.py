# SPDX-License-Identifier: GPL-2.0-only
"""One run of tests in the machine: archives in, results out."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import BinaryIO, TypeAlias

from pytest_kvm_sea.emulated.cpio import Cpio
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.machine import MachineConfig
from pytest_kvm_sea.emulated.native import GUEST_PYTHON
from pytest_kvm_sea.emulated.process import Qemu

HOSTNAME = "emulated"
"""The name of the machine, by which an injection is allowed there."""
OUTPUT = "/output"
"""The guest's directory whose files are brought back; its tests find it in the environment."""
OUTPUT_VARIABLE = "KVM_SEA_OUTPUT"
WORK = "/tests"
"""Where the guest's command starts, with the files of the user."""
CONSOLE, TALK, RESULTS = "console.log", "pytest.log", "results.tar"
EXIT_CODE, TIMED_OUT, DMESG, JUNIT = "exit-code", "timed-out", "dmesg.log", "junit.xml"
"""What a run leaves in the directory for its results, beside the files of the tests."""
BOOT_TIMEOUT = 120.0
_LONGER = 20.0
"""Seconds between the time-out of the command in the guest and the one of the machine."""

Beside: TypeAlias = Callable[[MachineConfig], AbstractContextManager[object]]
"""What plays beside the machine, from before its start until after its end: its firmware."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the guest is to do."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    copies: tuple[Path, ...] = ()
    """Files and directories of this machine for the guest's working directory, under their own names."""
    timeout: float = 600.0
    """Seconds, for all of it."""
    interactive: bool = False
    """The command is for a person at this terminal: it gets the machine's console, and there is no time-out."""


def run(
    machine: MachineConfig,
    job: Job,
    *,
    qemu: Sequence[str],
    output: Path,
    hear: Callable[[bytes], None],
    beside: Beside | None = None,
) -> int:
    """Boot the machine, let it do the job, bring back what it left in `OUTPUT`. The exit code of the command.

    ``hear`` gets what the command says, as it comes; it is kept too. EmulationError where there is no exit code to
    give, or where the command had to be interrupted.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in (CONSOLE, TALK, RESULTS, EXIT_CODE, TIMED_OUT, DMESG, JUNIT):
        (output / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="kvm-sea-") as temporary, (output / TALK).open("wb") as talk:
        initrd = Path(temporary, "initrd")
        join(machine, job, initrd)
        command = machine.command(
            qemu, initrd=initrd, console=None if job.interactive else output / CONSOLE, results=output / RESULTS
        )

        def said(data: bytes) -> None:
            talk.write(data)
            hear(data)

        firmware = beside(machine) if beside else nullcontext()
        with firmware, Qemu(command, output / CONSOLE, said, terminal=job.interactive) as running:
            running.start()
            if job.interactive:
                running.wait_for_a_person()
                return 0  # who powers off by hand sends nothing
            running.wait(boot_timeout=BOOT_TIMEOUT, timeout=job.timeout)
    return collect(output)


def join(machine: MachineConfig, job: Job, target: Path) -> None:
    """All archives of the initramfs in one file, the job last."""
    with target.open("wb") as out:
        for archive in (*machine.extra_initrd, *machine.initrds):
            _append(out, archive)
        out.write(job_archive(job))


def _append(out: BinaryIO, archive: Path | bytes) -> None:
    if isinstance(archive, bytes):
        out.write(archive)
    else:
        with archive.open("rb") as source:
            shutil.copyfileobj(source, out, 1 << 20)
    out.write(b"\0" * (-out.tell() % 4))  # the next one starts aligned (init/initramfs.c)


def job_archive(job: Job) -> bytes:
    """The initramfs that says what to do."""
    buffer = io.BytesIO()
    archive = Cpio(buffer)
    archive.file("init", resources.files(__package__).joinpath("init.sh").read_bytes(), executable=True)
    archive.directory("kvm-sea")
    archive.file("kvm-sea/settings", settings(time.time(), interactive=job.interactive).encode())
    archive.file("kvm-sea/command", script(job).encode())
    archive.directory(WORK.removeprefix("/"))
    for path in job.copies:
        name = f"{WORK.removeprefix('/')}/{path.resolve().name}"
        if path.is_dir():
            archive.directory(name)
            archive.tree(path, name)
        elif path.is_file():
            archive.file(name, path.read_bytes(), executable=os.access(path, os.X_OK))
        else:
            raise EmulationError(f"{path}: no such file or directory to copy into the machine")
    archive.close()
    return buffer.getvalue()


def settings(now: float, *, interactive: bool = False) -> str:
    """What init.sh reads."""
    return f"KVM_SEA_NOW={now:.0f}\nKVM_SEA_HOSTNAME={HOSTNAME}\nKVM_SEA_INTERACTIVE={'1' if interactive else ''}\n"


def script(job: Job) -> str:
    """The command as a script for the guest's shell, ended a little before the machine itself would be."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.environment.items())]
    lines.append(f"export {OUTPUT_VARIABLE}={OUTPUT}")
    command = shlex.join(job.command)
    if job.interactive:
        return "\n".join([*lines, f"exec {command}"]) + "\n"
    limit = max(job.timeout - _LONGER, job.timeout / 2)
    lines += [
        "now() { cut -d. -f1 /proc/uptime; }",
        "begin=$(now)",
        # An interrupt lets pytest write its report; what does not listen is killed.
        f"timeout -s INT -k 10 {limit:.0f} {command}",
        "code=$?",
        f"[ $(($(now) - begin)) -lt {limit:.0f} ] || echo {limit:.0f} >{OUTPUT}/{TIMED_OUT}",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def pytest_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """pytest in the guest, with a report to bring back."""
    named = any(argument.partition("=")[0] in {"--junit-xml", "--junitxml"} for argument in arguments)
    report = () if named else (f"--junit-xml={OUTPUT}/{JUNIT}",)
    return (f"python{GUEST_PYTHON}", "-m", "pytest", "-p", "no:cacheprovider", *report, *arguments)


def shell_command() -> tuple[str, ...]:
    """A shell for a person."""
    return ("sh", "-l")


def collect(output: Path) -> int:
    """Unpack what the machine has sent to a directory, there. The exit code in it."""
    results = output / RESULTS
    try:
        with tarfile.open(results, "r:") as archive:
            for member in archive:
                _take(archive, member, output)
    except (tarfile.TarError, FileNotFoundError) as error:
        raise EmulationError(f"the results of the machine cannot be read: {error}") from error
    results.unlink()
    if (output / TIMED_OUT).exists():
        raise EmulationError("the tests were not done in time and were interrupted; --timeout gives them more")
    try:
        return int((output / EXIT_CODE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        raise EmulationError("the machine sent no exit code") from None


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, output: Path) -> None:
    """Files and directories only, inside of the directory only: the guest is not trusted."""
    target = output / member.name
    if ".." in Path(member.name).parts or Path(member.name).is_absolute():
        raise EmulationError(f"the machine sent a file named {member.name!r}, outside of its results")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif member.isfile() and (data := archive.extractfile(member)) is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(data, file)
