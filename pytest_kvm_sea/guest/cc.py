# SPDX-License-Identifier: GPL-2.0-only
"""How a guest in C is compiled: `python -m pytest_kvm_sea.guest.cc` prints what a compiler for AArch64 is told."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pytest_kvm_sea.guest.errors import GuestBuildError

_COMPILE = (
    # No libc below it, and no dynamic linker
    "-ffreestanding",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    # The simulated processor has no FP and SIMD registers, and handlers would have to save them
    "-mgeneral-regs-only",
    # LSE by -march, and not by a look at the processor that libgcc takes with the help of libc
    "-mno-outline-atomics",
)
_LINK = (
    # Nothing that runs before _start
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--build-id=none",
)
ZIG = ("-m", "ziglang", "cc", "-target", "aarch64-freestanding-none", "-mcpu=generic-neon-fp_armv8")
"""zig knows no -mgeneral-regs-only. Without -g its -Os would leave out the symbols, too."""
ZIG_OPTIONS = ("-fno-sanitize=undefined", "-g")
_GCC = "aarch64-linux-gnu-gcc"


def include_dir() -> Path:
    """The directory with kvm_sea_guest.h, the linker script, and what a guest begins with."""
    return Path(__file__).with_name("include")


def build_flags() -> list[str]:
    """Arguments for gcc or clang, besides the guest's own files and ``-o``."""
    directory = include_dir()
    parts = [str(directory / name) for name in ("kvm_sea_guest.ld", "kvm_sea_guest.S", "kvm_sea_runtime.S")]
    return [*compile_flags(), *_LINK, "-T", *parts]


def compile_flags() -> list[str]:
    """Those of `build_flags` that a file compiled alone (``-c``) needs."""
    return [*_COMPILE, f"-I{include_dir()}"]


def compilers() -> dict[str, list[str]]:
    """The C compilers for AArch64 that are here, by kind (gcc, zig), the preferred one first: how each is called."""
    found: dict[str, list[str]] = {}
    gcc = shutil.which(_GCC) or (shutil.which("gcc") if platform.machine() == "aarch64" else None)
    if gcc:
        found["gcc"] = [gcc]
    if importlib.util.find_spec("ziglang"):
        found["zig"] = [sys.executable, *ZIG, *ZIG_OPTIONS]
    return found


def compile_guest(
    sources: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    options: Iterable[str] = ("-O2", "-Wall", "-Wextra"),
    compiler: Iterable[str] | None = None,
) -> Path:
    """Compile and link a guest; the path of the executable, for `GuestProgram.from_elf`.

    compiler: how it is called, or the first of `compilers()`.

    Raises GuestBuildError with what the compiler said, or where there is no compiler.
    """
    command = list(compiler) if compiler is not None else next(iter(compilers().values()), [])
    if not command:
        raise GuestBuildError(
            f"no C compiler for AArch64 here: apt install gcc-aarch64-linux-gnu (for {_GCC}), or pip install ziglang"
        )
    arguments = [
        *command,
        *options,
        *(os.fspath(source) for source in sources),
        *build_flags(),
        "-o",
        os.fspath(output),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode:
        raise GuestBuildError(f"{shlex.join(arguments)}\nended with status {done.returncode}\n{done.stderr}")
    return Path(output)


if __name__ == "__main__":
    print(shlex.join(build_flags()))  # noqa: T201
