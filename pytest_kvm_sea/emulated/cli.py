# SPDX-License-Identifier: GPL-2.0-only
"""The command line of the emulated host."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pytest_kvm_sea.emulated import cache, native, project, run
from pytest_kvm_sea.emulated.apt import MIRROR_VARIABLE
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.firmware.equipment import MEMORY as FIRMWARE_MEMORY
from pytest_kvm_sea.emulated.firmware.equipment import equipped
from pytest_kvm_sea.emulated.image import KERNEL_SERIES, Image, Recipe, image
from pytest_kvm_sea.emulated.machine import MachineConfig, kernel_image

KERNEL_VARIABLE = "KVM_SEA_KERNEL"
DEFAULT_ARGUMENTS = ("--pyargs", "pytest_kvm_sea.selftests", "--kvm-sea-host=linux")
MEMORY = 4096
FAILED = 125
"""The exit code where the machine itself failed; pytest has 0 to 5."""
INTERRUPTED = 130
ABOUT = "about.json"
"""Beside the results: what gave them."""
_INHERITED = ("COLUMNS", "TERM")
"""Variables that the guest's pytest has from here."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = "; arguments for pytest come after --" if message.startswith("unrecognized arguments") else ""
        super().error(f"{message}{hint}")


def parser() -> argparse.ArgumentParser:
    """All options; what follows ``--`` is pytest's."""
    new = _Parser(
        prog="python -m pytest_kvm_sea.emulated",
        usage="%(prog)s [OPTIONS] [-- PYTEST ARGUMENTS]",
        description="Boot a real arm64 Linux with KVM under QEMU, run pytest in it, bring back what it says.",
        epilog=f"Without arguments for pytest: {shlex.join(DEFAULT_ARGUMENTS)}. Exit code: pytest's, or {FAILED}.",
    )
    add = new.add_argument
    add("--kernel", type=Path, metavar="IMAGE", help=f"your own kernel (arch/arm64/boot/Image), or {KERNEL_VARIABLE}")
    add("--kernel-series", default=KERNEL_SERIES, metavar="X.Y", help=f"Debian's kernel (default: {KERNEL_SERIES})")
    add("--append", action="append", default=[], metavar="ARGUMENT", help="argument for the kernel; repeatable")
    add("--cpu", default="max,pauth-impdef=on", help="QEMU's -cpu (default: %(default)s)")
    add("--memory", type=int, metavar="MIB", help=f"(default: {MEMORY}; with --firmware {FIRMWARE_MEMORY})")
    add("--smp", type=int, default=2, metavar="CPUS", help="(default: %(default)s)")
    add("--firmware", action="store_true", help="a firmware that breaks memory on demand, behind EINJ; with ACPI")
    add("--acpi", action="store_true", help="boot with UEFI and ACPI instead of a device tree")
    add("--qemu-arg", action="append", default=[], metavar="ARGUMENT", help="argument for QEMU; repeatable")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="for the whole run (default: %(default)g)")
    add("--wheel", type=Path, help=f"the project's wheel (default: {project.WHEEL_VARIABLE}, or the package as it is)")
    add("--copy", type=Path, action="append", default=[], metavar="PATH", help="file or directory for pytest's cwd")
    add("--output", type=Path, default=Path("emulated-output"), metavar="DIR", help="results (default: %(default)s)")
    add("--cache-dir", type=Path, metavar="DIR", help=f"downloads and images, or {cache.CACHE_VARIABLE}")
    add("--mirror", metavar="URI", help=f"Debian mirror (default: the one in apt's sources), or {MIRROR_VARIABLE}")
    add("--refresh", action="store_true", help="build the image anew, from the newest packages")
    add("--print-command", action="store_true", help="print QEMU's command line and stop")
    add("--shell", action="store_true", help="a shell on the machine's console instead of pytest")
    return new


def main(arguments: Sequence[str]) -> int:
    """Parse, build, boot, report. The exit code."""
    given = list(arguments)
    at = given.index("--") if "--" in given else len(given)
    options = parser().parse_args(given[:at])
    _on_signals()
    try:
        return _main(options, given[at + 1 :] or _default_arguments(firmware=options.firmware))
    except EmulationError as error:
        log(f"error: {error}")
        sys.stderr.write("".join(f"    {line}\n" for line in error.details.splitlines()))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _on_signals() -> None:
    """What ends this process ends it like Ctrl-C: with all that it has started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _default_arguments(*, firmware: bool) -> tuple[str, ...]:
    """The machine's memory may be destroyed, but even here nothing is unless it is named."""
    return (*DEFAULT_ARGUMENTS, f"--kvm-sea-einj-host={run.HOSTNAME}") if firmware else DEFAULT_ARGUMENTS


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def log(message: str) -> None:
    """Progress, apart from what pytest says."""
    sys.stderr.write(f"kvm-sea: {message}\n")
    sys.stderr.flush()


def _main(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    begin = time.monotonic()
    kept = cache.Cache((options.cache_dir or cache.default_directory()).absolute(), options.mirror)
    contents = project.files(project.wheel(options.wheel))
    recipe = Recipe(project.requirements(contents), options.kernel_series)
    built = image(recipe, kept, log, refresh=options.refresh)
    machine = _machine(options, built, project.overlay(contents, kept, log))
    qemu = native.qemu(kept, log)
    if options.print_command:
        places = {name: options.output / name for name in ("initrd", "console", "results")}
        sys.stdout.write(shlex.join(machine.command(qemu, **places)) + "\n")
        return 0
    command = run.shell_command() if options.shell else run.pytest_command(pytest_arguments)
    job = run.Job(
        command=command,
        environment=_environment(),
        copies=tuple(options.copy),
        timeout=options.timeout,
        interactive=options.shell,
    )
    about = _about(machine, built, qemu)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    spent = time.monotonic() - begin
    log(f"{about['kernel']}, pytest {about['pytest']}, QEMU {about['QEMU']}; ready to boot after {spent:.1f} s")
    with equipped(machine, firmware=options.firmware) as (fitted, beside):
        code = run.run(fitted, job, qemu=qemu, output=options.output, hear=_say, beside=beside)
    log(f"exit code {code}, {time.monotonic() - begin:.1f} s in all; results in {options.output}")
    return code


def _machine(options: argparse.Namespace, built: Image, overlay: Path) -> MachineConfig:
    chosen = options.kernel or os.environ.get(KERNEL_VARIABLE)
    kernel = kernel_image(Path(chosen)) if chosen else built.kernel
    # Modules fit only the kernel that they were built with.
    modules = () if chosen else (built.modules,)
    return MachineConfig(
        kernel=kernel,
        initrds=(built.root, *modules, overlay),
        cpu=options.cpu,
        smp=options.smp,
        memory=options.memory or (FIRMWARE_MEMORY if options.firmware else MEMORY),
        append=tuple(options.append),
        firmware=built.firmware,
        efi=options.acpi,
        acpi=options.acpi,
        qemu_args=tuple(options.qemu_arg),
    )


def _environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if sys.stdout.isatty():
        environment["FORCE_COLOR"] = "1"
        environment.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
    return environment


def _about(machine: MachineConfig, built: Image, qemu: Sequence[str]) -> dict[str, str]:
    """What the machine is made of, by name and version: packages, wheels, the kernel that is booted, QEMU."""
    kernel = f"Linux {built.versions['linux']}" if machine.kernel == built.kernel else str(machine.kernel)
    emulator = ".".join(map(str, native.version(*qemu)))
    return built.versions | {"kernel": kernel, "QEMU": emulator, "cpu": machine.cpu}


def _say(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
