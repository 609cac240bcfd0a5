# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line for each kind of machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.machine import MachineConfig, kernel_image

PLAIN = MachineConfig(kernel=Path("/k"), initrds=(), firmware=Path("/QEMU_EFI.fd"))


def words(machine: MachineConfig, console: Path | None = Path("/c")) -> list[str]:
    return machine.command(["qemu", "-L", "/share"], initrd=Path("/i"), console=console, results=Path("/r"))


def option(machine: MachineConfig, name: str) -> list[str]:
    """All values of an option."""
    command = words(machine)
    return [command[at + 1] for at, word in enumerate(command) if word == name]


def changed(**changes: Any) -> MachineConfig:
    return dataclasses.replace(PLAIN, **changes)


EFI: dict[str, Any] = {"efi": True, "acpi": True}


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "-machine", "virt,virtualization=on,gic-version=3,acpi=off"),
        ({}, "-cpu", "max,pauth-impdef=on"),
        ({"cpu": "neoverse-n2"}, "-cpu", "neoverse-n2"),
        ({"smp": 4}, "-smp", "4"),
        ({"memory": 1024}, "-m", "1024M"),
        ({}, "-kernel", "/k"),
        ({}, "-initrd", "/i"),
        ({"efi": True}, "-bios", "/QEMU_EFI.fd"),
        ({"efi": True}, "-machine", "virt,virtualization=on,gic-version=3,acpi=off"),
        (EFI, "-machine", "virt,virtualization=on,gic-version=3"),
        (EFI | {"ras": True}, "-machine", "virt,virtualization=on,gic-version=3,ras=on"),
        ({"ram_file": Path("/ram")}, "-machine", "virt,virtualization=on,gic-version=3,memory-backend=ram0,acpi=off"),
        (
            {"ram_file": Path("/a,b"), "memory": 1024},
            "-object",
            "memory-backend-file,id=ram0,size=1024M,mem-path=/a,,b,share=on",
        ),
        (
            {"nvdimm_file": Path("/nv"), "nvdimm_size": 128},
            "-object",
            "memory-backend-file,id=nv0,size=128M,mem-path=/nv,share=on",
        ),
        ({"nvdimm_file": Path("/nv")}, "-device", "nvdimm,id=nvdimm0,memdev=nv0"),
        ({"nvdimm_file": Path("/nv"), "memory": 1024}, "-m", "1024M,slots=2,maxmem=5376M"),
    ],
)
def test_options(changes: dict[str, Any], name: str, value: str) -> None:
    assert value in option(changed(**changes), name)


def test_no_more_than_asked() -> None:
    command = words(PLAIN)
    assert command[:3] == ["qemu", "-L", "/share"]
    assert not {"-bios", "-object"} & set(command)
    assert not [word for word in command if "nvdimm" in word or "ras=" in word]


def test_what_the_user_adds_comes_last() -> None:
    machine = changed(qemu_args=("-s", "-S"), append=("loglevel=8", "hugepages=0"))
    assert words(machine)[-2:] == ["-s", "-S"]
    (kernel_arguments,) = option(machine, "-append")
    assert kernel_arguments.endswith(" loglevel=8 hugepages=0")
    assert "acpi=force" not in kernel_arguments
    assert " acpi=force " in option(changed(**EFI), "-append")[0]


def test_a_terminal_gets_the_console() -> None:
    command = words(PLAIN, console=None)
    assert "mon:stdio" in command
    assert not [word for word in command if "path=/c" in word]
    assert "stdio,id=talk,signal=off" not in command


@pytest.mark.parametrize(
    ("memory", "reserved"),
    [
        (512, ()),
        (1024, ("hugepagesz=2M", "hugepages=64")),
        (4096, ("hugepagesz=1G", "hugepages=1", "hugepagesz=2M", "hugepages=64")),
    ],
)
def test_huge_pages(memory: int, reserved: tuple[str, ...]) -> None:
    arguments = changed(memory=memory).kernel_arguments
    assert tuple(word for word in arguments if word.startswith("hugepage")) == reserved
    assert not [word for word in changed(memory=memory, hugepages=False).kernel_arguments if "huge" in word]


@pytest.mark.parametrize(("memory", "base"), [(1024, 0x8000_0000), (1536, 0xC000_0000), (4096, 0x1_4000_0000)])
def test_where_the_nvdimm_is(memory: int, base: int) -> None:
    """As seen in /proc/iomem of such machines: the first GiB boundary behind the RAM."""
    assert changed(memory=memory).nvdimm_base == base


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"acpi": True}, "acpi needs efi"),
        ({"efi": True, "ras": True}, "ras needs acpi"),
        ({"efi": True, "firmware": None}, "efi needs firmware"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(EmulationError, match=problem):
        changed(**changes)


IMAGE = b"MZ".ljust(56, b"\0") + b"ARM\x64"


@pytest.mark.parametrize("head", [IMAGE, b"\x1f\x8b\x08", b"MZ\0\0zimg"])
def test_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    (tmp_path / "Image").write_bytes(head)
    monkeypatch.chdir(tmp_path)
    assert kernel_image(Path("Image")) == tmp_path / "Image"


@pytest.mark.parametrize(
    ("head", "problem"),
    [(b"\x7fELF", r"an ELF file \(vmlinux\?\), not an arm64 kernel"), (b"MZ", "something else"), (b"", "something el")],
)
def test_no_kernels(tmp_path: Path, head: bytes, problem: str) -> None:
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(EmulationError, match=problem):
        kernel_image(tmp_path / "x")
    with pytest.raises(EmulationError, match="No such file or directory; build a kernel: make ARCH=arm64 Image"):
        kernel_image(tmp_path / "missing")
