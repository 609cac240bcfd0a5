# SPDX-License-Identifier: GPL-2.0-only
"""The machine: what an arm64 server for KVM and its memory errors is in terms of QEMU's command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvm_sea.emulated.errors import EmulationError

RAM_BASE = 0x4000_0000
"""Where the RAM of QEMU's `virt` begins (hw/arm/virt.c)."""
_MIB = 1 << 20
_HUGE_2M = 64
_SMALLEST_FOR_2M = 1024
_SMALLEST_FOR_1G = 3072


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """One machine. Sizes are in MiB; paths are of the machine that QEMU runs on."""

    kernel: Path
    """An arm64 Image, Image.gz, or (QEMU 8 and later) vmlinuz.efi; with an EFI stub for `efi`."""
    initrds: tuple[Path | bytes, ...]
    """Archives (cpio, newc, not compressed) for the initramfs, in this order."""
    extra_initrd: tuple[Path | bytes, ...] = ()
    """Archives before all others: tables that replace the firmware's (kernel/firmware/acpi/*.aml) must come first."""
    cpu: str = "max,pauth-impdef=on"
    """QEMU's own, faster algorithm for pointer authentication; else half of the time is spent in QARMA."""
    smp: int = 2
    memory: int = 4096
    append: tuple[str, ...] = ()
    """More arguments for the kernel; they come last, so they win."""
    ram_file: Path | None = None
    """The machine's RAM as a shared file, made by QEMU; physical address = RAM_BASE + offset."""
    firmware: Path | None = None
    """UEFI firmware for `efi`."""
    efi: bool = False
    acpi: bool = False
    """Boot with ACPI instead of a device tree. Linux on arm64 takes ACPI tables from UEFI only."""
    ras: bool = False
    """GHESv2 error sources in a HEST; needs `acpi`."""
    nvdimm_file: Path | None = None
    """Persistent memory as a shared file, behind the RAM: see `nvdimm_base`. Not in the EFI memory map."""
    nvdimm_size: int = 256
    qemu_args: tuple[str, ...] = ()
    """More arguments for QEMU; they come last, so they win."""
    hugepages: bool = True
    """Reserve huge pages of 2 MiB, and one of 1 GiB, where the memory is enough."""

    def __post_init__(self) -> None:
        if self.acpi and not self.efi:
            raise EmulationError("acpi needs efi: Linux on arm64 takes ACPI tables from UEFI only")
        if self.ras and not self.acpi:
            raise EmulationError("ras needs acpi: the error sources are described by a table, HEST")
        if self.efi and self.firmware is None:
            raise EmulationError("efi needs firmware: the path of QEMU_EFI.fd")

    @property
    def nvdimm_base(self) -> int:
        """The physical address of the NVDIMM: the first GiB boundary behind the RAM (hw/arm/virt.c, device memory)."""
        end = RAM_BASE + self.memory * _MIB
        return -(-end // (1 << 30)) << 30

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        """The kernel's command line."""
        return (
            "console=ttyAMA0",
            "quiet",
            "panic=-1",  # reboot at once, which -no-reboot makes an end
            "rdinit=/init",
            *(("acpi=force",) if self.acpi else ()),
            *self._huge(),
            *self.append,
        )

    def _huge(self) -> Iterator[str]:
        if self.hugepages and self.memory >= _SMALLEST_FOR_1G:
            yield from ("hugepagesz=1G", "hugepages=1")
        if self.hugepages and self.memory >= _SMALLEST_FOR_2M:
            yield from ("hugepagesz=2M", f"hugepages={_HUGE_2M}")

    def command(self, qemu: Sequence[str], *, initrd: Path, console: Path | None, results: Path) -> list[str]:
        """QEMU's command line.

        ``initrd`` is the file that all archives were joined in. What the guest's command says comes out of QEMU's
        standard output; the kernel's console and the results (a tar) go to files. Without a file for it the console
        is QEMU's standard input and output, with QEMU's monitor behind Ctrl-A.
        """
        return [
            *qemu,
            *("-machine", ",".join(self._machine())),
            *("-accel", "tcg,thread=multi"),
            *("-cpu", self.cpu),
            *("-smp", str(self.smp)),
            *("-m", self._memory()),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *self._backends(),
            *(("-bios", str(self.firmware)) if self.efi else ()),
            *self._console(console),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=talk,name=kvm-sea.talk"),
            *("-chardev", f"file,id=results,path={_escaped(results)}"),
            *("-device", "virtserialport,chardev=results,name=kvm-sea.results"),
            *("-kernel", str(self.kernel)),
            *("-initrd", str(initrd)),
            *("-append", " ".join(self.kernel_arguments)),
            *self.qemu_args,
        ]

    def _machine(self) -> Iterator[str]:
        yield from ("virt", "virtualization=on", "gic-version=3")
        if self.ram_file is not None:
            yield "memory-backend=ram0"
        if self.nvdimm_file is not None:
            yield "nvdimm=on"
        if self.ras:
            yield "ras=on"
        if not self.acpi:
            yield "acpi=off"

    def _memory(self) -> str:
        if self.nvdimm_file is None:
            return f"{self.memory}M"
        # Room for the NVDIMM, and for the GiB that it is aligned up to.
        return f"{self.memory}M,slots=2,maxmem={self.memory + self.nvdimm_size + 4096}M"

    @staticmethod
    def _console(console: Path | None) -> tuple[str, ...]:
        if console is None:
            return ("-serial", "mon:stdio", "-chardev", "null,id=talk")
        file = f"file,id=console,path={_escaped(console)}"
        return ("-chardev", file, "-serial", "chardev:console", "-chardev", "stdio,id=talk,signal=off")

    def _backends(self) -> Iterator[str]:
        for name, size, path in (("ram0", self.memory, self.ram_file), ("nv0", self.nvdimm_size, self.nvdimm_file)):
            if path is not None:
                yield "-object"
                yield f"memory-backend-file,id={name},size={size}M,mem-path={_escaped(path)},share=on"
        if self.nvdimm_file is not None:
            yield from ("-device", "nvdimm,id=nvdimm0,memdev=nv0")


def kernel_image(path: Path) -> Path:
    """A kernel that QEMU can boot, as an absolute path. EmulationError for what is none."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise EmulationError(f"{path}: {error.strerror}; build a kernel: make ARCH=arm64 Image") from error
    # Documentation/arch/arm64/booting.rst; a gzip; an EFI zboot image (drivers/firmware/efi/libstub/zboot-header.S)
    if head[56:60] == b"ARM\x64" or head.startswith(b"\x1f\x8b") or head[4:8] == b"zimg":
        return path.absolute()
    kind = "an ELF file (vmlinux?)" if head.startswith(b"\x7fELF") else "something else"
    raise EmulationError(f"{path} is {kind}, not an arm64 kernel; give arch/arm64/boot/Image")


def _escaped(path: Path) -> str:
    """A path inside of an option: a comma is doubled (qemu(1), -drive)."""
    return str(path).replace(",", ",,")
