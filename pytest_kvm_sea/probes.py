# SPDX-License-Identifier: GPL-2.0-only
"""How to find out what a host has. A probe returns None, or what is missing and how to get it.

Each asks for the thing that the test will use, in the way it will use it, and leaves the host as it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeAlias

from pytest_kvm_sea.hosts.contract import Backing, File, Host
from pytest_kvm_sea.ras.einj_files import DIRECTORY
from pytest_kvm_sea.ras.einj_status import MEMORY_UER, TABLE, exists
from pytest_kvm_sea.ras.firmware import Firmware, FirmwareError
from pytest_kvm_sea.ras.pagemap import ENTRY_SIZE, PagemapEntry
from pytest_kvm_sea.ras.pagemap import PATH as PAGEMAP
from pytest_kvm_sea.uapi import kvm as uapi
from pytest_kvm_sea.uapi.registers import register_id
from pytest_kvm_sea.uapi.structures import EnableCap, OneReg, VcpuInit
from pytest_kvm_sea.uapi.userfault import KVM_MEM_USERFAULT, KVM_SET_USER_MEMORY_REGION2, UserspaceMemoryRegion2

Finding: TypeAlias = tuple[str, str] | None
"""What is missing, and how to get it; None where nothing is."""

DEBUGFS = "/sys/kernel/debug"
MOUNTS = "/proc/self/mounts"
MEMORY = "/sys/devices/system/memory"

_DF2_SHIFT = 56


def arm64(host: Host) -> Finding:
    if host.machine == "aarch64":
        return None
    return f"the machine is {host.machine}", "an arm64 host, or --kvm-sea-host sim"


def kvm(host: Host) -> Finding:
    try:
        with _open_kvm(host) as device:
            version = device.ioctl(uapi.KVM_GET_API_VERSION)
    except FileNotFoundError:
        return "there is no /dev/kvm", "a kernel with CONFIG_KVM that was booted at EL2"
    except PermissionError:
        return "/dev/kvm may not be opened", "sudo usermod -aG kvm $USER, or the owner's leave"
    except OSError as error:
        return f"/dev/kvm cannot be used: {_text(error)}", "the kernel log says why"
    if version != uapi.KVM_API_VERSION:
        return f"KVM speaks version {version} of its API", f"a kernel with version {uapi.KVM_API_VERSION}"
    return None


def ras(host: Host) -> Finding:
    if _extension(host, uapi.KVM_CAP_ARM_INJECT_SERROR_ESR):
        return None
    return "the CPU has no FEAT_RAS, which routes the SEAs of a guest to KVM", "a host with FEAT_RAS (Armv8.2)"


def serror_esr(host: Host) -> Finding:
    return _capability(host, "KVM_CAP_ARM_INJECT_SERROR_ESR", uapi.KVM_CAP_ARM_INJECT_SERROR_ESR)


def double_fault2(host: Host) -> Finding:
    """Asked of a vCPU: the CPU must have it, and KVM must show it."""
    value = ctypes.c_uint64()
    with _vm(host) as vm, closing(host.adopt(vm.ioctl(uapi.KVM_CREATE_VCPU, 0))) as vcpu:
        init = VcpuInit()
        vm.ioctl(uapi.KVM_ARM_PREFERRED_TARGET, init)
        vcpu.ioctl(uapi.KVM_ARM_VCPU_INIT, init)
        vcpu.ioctl(uapi.KVM_GET_ONE_REG, OneReg(register_id("id_aa64pfr1_el1"), ctypes.addressof(value)))
    if value.value >> _DF2_SHIFT & 0xF:
        return None
    return (
        "a guest has no FEAT_DoubleFault2 (ID_AA64PFR1_EL1.DF2 is 0), so no SCTLR2_EL1.EASE",
        "a host with FEAT_DoubleFault2 and a kernel whose KVM shows it",
    )


def virtual_el2(host: Host) -> Finding:
    """Asked of a vCPU, and not by KVM_CAP_ARM_EL2: its number was that of another capability in the series."""
    try:
        with _vm(host) as vm, closing(host.adopt(vm.ioctl(uapi.KVM_CREATE_VCPU, 0))) as vcpu:
            init = VcpuInit()
            vm.ioctl(uapi.KVM_ARM_PREFERRED_TARGET, init)
            init.features[0] |= 1 << uapi.KVM_ARM_VCPU_PSCI_0_2 | 1 << uapi.KVM_ARM_VCPU_HAS_EL2
            vcpu.ioctl(uapi.KVM_ARM_VCPU_INIT, init)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return (
            "KVM gives a vCPU no virtual EL2 (KVM_ARM_VCPU_HAS_EL2)",
            "a host with FEAT_NV2 and Linux 6.16 or later, booted with kvm-arm.mode=nested",
        )
    return None


def inject_ext_dabt(host: Host) -> Finding:
    return _capability(host, "KVM_CAP_ARM_INJECT_EXT_DABT", uapi.KVM_CAP_ARM_INJECT_EXT_DABT)


def nisv_to_user(host: Host) -> Finding:
    return _capability(host, "KVM_CAP_ARM_NISV_TO_USER", uapi.KVM_CAP_ARM_NISV_TO_USER)


def sea_to_user(host: Host) -> Finding:
    """Enabled, not only asked for: the number of one revision means something else in a kernel of another."""
    name, number = "KVM_CAP_ARM_SEA_TO_USER", host.revision.cap_sea_to_user
    if not _extension(host, number):
        return (
            f"the kernel has no {name} (capability {number} of the revision {host.revision.name})",
            "Linux 6.19 or later, or --kvm-sea-uapi with the revision that the kernel speaks",
        )
    try:
        with _vm(host) as vm:
            vm.ioctl(uapi.KVM_ENABLE_CAP, EnableCap(cap=number))
    except OSError as error:
        return (
            f"the kernel cannot enable capability {number} ({_text(error)}), which is not its {name}",
            f"the kernel does not speak the revision {host.revision.name}: choose another with --kvm-sea-uapi",
        )
    return None


def abort_esr(host: Host) -> Finding:
    if host.revision.injects_with_esr:
        return None
    return (
        f"in the revision {host.revision.name} a VMM cannot give the syndrome of an abort to KVM_SET_VCPU_EVENTS",
        "a kernel with the follow-up of the series, and --kvm-sea-uapi follow-up",
    )


def userfault(host: Host) -> Finding:
    """Used, not asked for: the number of its capability was given to something else."""
    try:
        with _vm(host) as vm, closing(host.map_memory(0x1_0000)) as memory:
            vm.ioctl(
                KVM_SET_USER_MEMORY_REGION2,
                UserspaceMemoryRegion2(
                    flags=KVM_MEM_USERFAULT,
                    memory_size=memory.size,
                    userspace_addr=memory.address,
                    userfault_bitmap=memory.address,
                ),
            )
    except OSError as error:
        return (
            f"the kernel has no KVM userfault ({_text(error)}), a proposal that is in no released kernel",
            "--kvm-sea-host sim and --kvm-sea-platform userfault",
        )
    return None


def inject_ext_iabt(host: Host) -> Finding:
    number = host.revision.cap_inject_ext_iabt
    if number is None:
        return (
            f"the revision {host.revision.name} cannot inject an instruction abort by KVM_SET_VCPU_EVENTS",
            "a kernel with the series, and --kvm-sea-uapi series-v1",
        )
    # Number 241 answers on kernels that do not know the series, too: what can be enabled proves the revision.
    return sea_to_user(host) or _capability(host, "KVM_CAP_ARM_INJECT_EXT_IABT", number)


def root(host: Host) -> Finding:
    """CAP_SYS_ADMIN in the first user namespace, by the kernel's own test for it: who lacks it sees PFN 0."""
    try:
        entry = _pagemap_entry(host)
    except OSError:
        return None  # says nothing about privilege; pagemap-pfn reports it
    if entry.pfn:
        return None
    return "the VMM lacks CAP_SYS_ADMIN", "run as root, outside of user namespaces"


def pagemap_pfn(host: Host) -> Finding:
    try:
        entry = _pagemap_entry(host)
    except OSError as error:
        return f"{PAGEMAP} cannot be read: {_text(error)}", "a kernel with CONFIG_PROC_PAGE_MONITOR"
    if entry.pfn:
        return None
    return f"{PAGEMAP} hides page frame numbers", "run as root, outside of user namespaces"


def debugfs(host: Host) -> Finding:
    try:
        host.listdir(DEBUGFS)
    except OSError as error:
        return f"{DEBUGFS} cannot be entered: {_text(error)}", "run as root on a kernel with CONFIG_DEBUG_FS"
    try:
        mounts = _read(host, MOUNTS)
    except OSError:
        return None  # no list of mounts, no verdict: what is looked for below debugfs says the rest
    if any(line.split()[1:3] == [DEBUGFS, "debugfs"] for line in mounts.splitlines()):
        return None
    return f"nothing is mounted at {DEBUGFS}", f"mount -t debugfs none {DEBUGFS}"


def firmware_stage2(host: Host) -> Finding:
    try:
        operations = Firmware(host).ask("about")["operations"]
    except FirmwareError as error:
        return str(error), "the emulated host (python -m pytest_kvm_sea.emulated), or --kvm-sea-host sim"
    if "break" in operations:
        return None
    return "the firmware cannot break stage-2 tables", "another firmware"


def firmware_ghes(host: Host) -> Finding:
    if "record" in Firmware(host).ask("about")["operations"]:
        return None
    return "the firmware that can be asked has no error records for APEI", "the emulated host with --firmware"


def firmware_scrub(host: Host) -> Finding:
    if "scrub" in Firmware(host).ask("about")["operations"]:
        return None
    return "the firmware that can be asked reports no errors that nobody has consumed", "--kvm-sea-host sim"


def soft_offline(host: Host) -> Finding:
    return _offline_page(host, "soft_offline_page")


def hard_offline(host: Host) -> Finding:
    return _offline_page(host, "hard_offline_page")


def _offline_page(host: Host, name: str) -> Finding:
    path = f"{MEMORY}/{name}"
    try:
        host.open(path, os.O_WRONLY).close()
    except OSError as error:
        return f"{path} cannot be written: {_text(error)}", "CONFIG_MEMORY_FAILURE and CONFIG_MEMORY_HOTPLUG"
    return None


def firmware_einj(host: Host) -> Finding:
    if "einj-outcome" in Firmware(host).ask("about")["operations"]:
        return None
    return "the firmware that can be asked is not the one behind EINJ", "the emulated host with --firmware"


def einj_table(host: Host) -> Finding:
    if exists(host, TABLE):
        return None
    return "the firmware has no EINJ table", "enable error injection in the firmware's set-up, or another host"


def einj_module(host: Host) -> Finding:
    if exists(host, DIRECTORY):
        return None
    return "the EINJ module is not loaded", "modprobe einj"


def lockdown(host: Host) -> Finding:
    try:
        host.open(f"{DIRECTORY}/error_type", os.O_RDWR).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            return "the kernel is locked down and refuses EINJ", "boot with lockdown=none and without Secure Boot"
        return f"EINJ cannot be opened: {_text(error)}", "run as root"
    return None


def einj_parameters(host: Host) -> Finding:
    if exists(host, f"{DIRECTORY}/param1") and exists(host, f"{DIRECTORY}/flags"):
        return None
    return "EINJ takes no address", "firmware with SET_ERROR_TYPE_WITH_ADDRESS (ACPI 5.0)"


def einj_notrigger(host: Host) -> Finding:
    if exists(host, f"{DIRECTORY}/notrigger"):
        return None
    return "EINJ has no notrigger, so the kernel takes the page offline at once", "a kernel and firmware with notrigger"


def einj_memory_uer(host: Host) -> Finding:
    text = _read(host, f"{DIRECTORY}/available_error_type")
    # One type per line, the number first; EINJv2's have the prefix V2_ and count on their own.
    numbers = [line.split()[0] for line in text.splitlines() if line.startswith("0x")]
    if any(int(number, 16) == MEMORY_UER for number in numbers):
        return None
    return (
        f"EINJ offers no uncorrectable non-fatal memory error ({MEMORY_UER:#x}): {', '.join(numbers) or 'no type'}",
        "firmware that offers it",
    )


def hugetlb_2m(host: Host) -> Finding:
    return _hugetlb(host, Backing.HUGETLB_2M, 2 << 20, "2 MiB")


def hugetlb_1g(host: Host) -> Finding:
    return _hugetlb(host, Backing.HUGETLB_1G, 1 << 30, "1 GiB")


def _hugetlb(host: Host, backing: Backing, size: int, words: str) -> Finding:
    try:
        host.map_memory(size, backing=backing).close()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            directory = f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB"
            return f"no hugetlb page of {words} is free", f"echo 1 > {directory}/nr_hugepages, as root, after boot"
        return (
            f"this kernel has no hugetlb pages of {words} ({_text(error)}; its pages are {host.page_size >> 10} KiB)",
            "a kernel with 4 KiB pages and CONFIG_HUGETLBFS",
        )
    return None


def _pagemap_entry(host: Host) -> PagemapEntry:
    """The entry of a page that is certainly present. Raises OSError, also where the file ends early."""
    with closing(host.map_memory(host.page_size)) as memory:
        memory.view[0] = 1
        with closing(host.open(PAGEMAP, os.O_RDONLY)) as pagemap:
            data = pagemap.pread(ENTRY_SIZE, memory.address // host.page_size * ENTRY_SIZE)
    if len(data) != ENTRY_SIZE:
        raise OSError(errno.EIO, "short read")
    return PagemapEntry(int.from_bytes(data, "little"))


def _capability(host: Host, name: str, number: int) -> Finding:
    if _extension(host, number):
        return None
    return f"KVM has no {name} ({number})", "a newer kernel"


def _extension(host: Host, number: int) -> int:
    with _open_kvm(host) as device:
        return device.ioctl(uapi.KVM_CHECK_EXTENSION, number)


@contextmanager
def _open_kvm(host: Host) -> Iterator[File]:
    with closing(host.open("/dev/kvm", os.O_RDWR)) as device:
        yield device


@contextmanager
def _vm(host: Host) -> Iterator[File]:
    with _open_kvm(host) as device:
        # Type 0 asks for 40 bits of IPA, which small hosts do not have; the type otherwise is the number of bits.
        limit = device.ioctl(uapi.KVM_CHECK_EXTENSION, uapi.KVM_CAP_ARM_VM_IPA_SIZE)
        bits = limit if 0 < limit < 40 else 0
        with closing(host.adopt(device.ioctl(uapi.KVM_CREATE_VM, bits))) as vm:
            yield vm


def _read(host: Host, path: str) -> str:
    with closing(host.open(path, os.O_RDONLY)) as stream:
        return stream.read().decode("ascii", "replace")


def _text(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{name}, {error.strerror}"
