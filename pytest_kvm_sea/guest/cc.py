# SPDX-License-Identifier: GPL-2.0-only
"""How a guest in C is compiled: `python -m pytest_kvm_sea.guest.cc` prints what a compiler for AArch64 is told."""

from __future__ import annotations

import shlex
from pathlib import Path

_TARGET = (
    # No libc below it, no dynamic linker, nothing that runs before _start
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-fno-pie",
    "-no-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    # The simulated processor has no FP and SIMD registers, and handlers would have to save them
    "-mgeneral-regs-only",
    # LSE by -march, and not by a look at the processor that libgcc takes with the help of libc
    "-mno-outline-atomics",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--build-id=none",
)


def include_dir() -> Path:
    """The directory with kvm_sea_guest.h, kvm_sea_guest.S and kvm_sea_guest.ld."""
    return Path(__file__).with_name("include")


def build_flags() -> list[str]:
    """Arguments for gcc or clang, besides the guest's own files and ``-o``; kvm_sea_guest.S is among them."""
    directory = include_dir()
    return [*_TARGET, f"-I{directory}", "-T", str(directory / "kvm_sea_guest.ld"), str(directory / "kvm_sea_guest.S")]


if __name__ == "__main__":
    print(shlex.join(build_flags()))  # noqa: T201
