# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine as a VMM makes it: memory, page tables, a program, vCPUs. Over any host."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pytest_kvm_sea.addresses import GuestPA, GuestVA, HostVA
from pytest_kvm_sea.arm64 import descriptors
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE, TABLE_ENTRIES
from pytest_kvm_sea.guest.errors import GuestMemoryError
from pytest_kvm_sea.guest.layout import DEFAULT_UCALL_MMIO, LOW_MEMORY_SIZE, TABLES_BASE
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.hosts.contract import Backing, File, Host, Memory
from pytest_kvm_sea.reports.trace import NO_TRACE, Step, Trace
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.structures import EnableCap, UserspaceMemoryRegion
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError, VmmError
from pytest_kvm_sea.vmm.gic import add_gic
from pytest_kvm_sea.vmm.memory import GuestMemory, Region
from pytest_kvm_sea.vmm.paging import TABLE_SIZE, PageTables, TableAllocator
from pytest_kvm_sea.vmm.vcpu import Vcpu

DEFAULT_IPA_BITS = 40
_GLOBAL_SIZES = (1, 2, 4, 8)
_LARGE_TABLES_BASE = GuestPA(0x4000_0000)
_LARGE_TABLES_STEP = 0x20_0000
_LARGE_MAP_PAGES = 16 * TABLE_ENTRIES

_SCTLR_M_C_I = 1 << 0 | 1 << 2 | 1 << 12
_SCTLR_SPAN = 1 << 23
_CPACR_FPEN = 3 << 20
_HCR_TGE, _HCR_RW, _HCR_E2H = 1 << 27, 1 << 31, 1 << 34
_TCR_EL1 = 0x40_0080_3510
"""T0SZ 16, write-back walks, inner shareable, 4 KiB granule, no TTBR1, TBI1; IPS is added."""
_TCR_IPS_SHIFT = 32
_IPS_CODES = ((32, 0), (36, 1), (40, 2), (42, 3), (44, 4), (48, 5), (52, 6))


def _ips(ipa_bits: int) -> int:
    """TCR_EL1.IPS for an address size: the largest that fits."""
    return max(code for bits, code in _IPS_CODES if bits <= max(ipa_bits, 32))


class Vm:
    """One VM. Use it as a context manager, or call `close`."""

    def __init__(self, host: Host, *, ipa_bits: int | None = None, trace: Trace = NO_TRACE) -> None:
        """Create a VM with slot 0 and empty page tables; 40 address bits, or as many as the host has.

        ``trace`` is told what is done with the VM and its vCPUs.

        Raises OSError with the kernel's errno, VmmError if /dev/kvm speaks another API.
        """
        self.host = host
        self.revision = host.revision
        self.trace = trace
        self.who = trace.next_vm()
        self.console: list[str] = []
        """What the guest printed."""
        self.program: GuestProgram | None = None
        self.memory = GuestMemory()
        self.vcpus: list[Vcpu] = []
        self.closed = False
        self._gic: File | None = None
        self.ucall_address = GuestPA(DEFAULT_UCALL_MMIO)
        self._allocator = TableAllocator()
        self._next_large_tables = _LARGE_TABLES_BASE
        with ExitStack() as undo:
            device = host.open("/dev/kvm", os.O_RDWR)
            undo.callback(device.close)
            self.file = self._create(device, ipa_bits)
            undo.callback(self.file.close)
            undo.callback(self._close_memory)
            self.add_memory(GuestPA(0), LOW_MEMORY_SIZE)
            self._resources = undo.pop_all()
        self._allocator.add(TABLES_BASE, LOW_MEMORY_SIZE - TABLES_BASE)
        self.page_tables = PageTables(self.memory, self._allocator)

    def _create(self, device: File, ipa_bits: int | None) -> File:
        """KVM_CREATE_VM with as many address bits as are wanted, or can be had."""
        version = device.ioctl(kvm.KVM_GET_API_VERSION)
        if version != kvm.KVM_API_VERSION:
            raise VmmError(f"/dev/kvm speaks API version {version}, this VMM version {kvm.KVM_API_VERSION}")
        limit = device.ioctl(kvm.KVM_CHECK_EXTENSION, kvm.KVM_CAP_ARM_VM_IPA_SIZE)
        self.ipa_bits = ipa_bits or min(DEFAULT_IPA_BITS, limit or DEFAULT_IPA_BITS)
        vm_type = 0 if self.ipa_bits == DEFAULT_IPA_BITS else self.ipa_bits
        self._mmap_size = device.ioctl(kvm.KVM_GET_VCPU_MMAP_SIZE)
        file = self.host.adopt(device.ioctl(kvm.KVM_CREATE_VM, vm_type))
        self.trace.add(Step.VM, self.who, self.ipa_bits, self.revision.name)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back, the vCPUs first, which are gone then. Allowed twice."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.closed = True
        # They know the VM: without them it goes at once, and not when the garbage collector comes by.
        self.vcpus.clear()
        if self._gic is not None:
            self._gic.close()
        self._resources.close()

    def _close_memory(self) -> None:
        for region in self.memory.regions:
            region.memory.close()

    @property
    def reader(self) -> _Reader:
        """Guest memory as the ucall parser wants it."""
        return _Reader(self)

    # Capabilities

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION on the VM."""
        return self.file.ioctl(kvm.KVM_CHECK_EXTENSION, capability)

    def enable_cap(self, capability: int, *, flags: int = 0, args: tuple[int, ...] = ()) -> None:
        """KVM_ENABLE_CAP on the VM. Raises OSError."""
        request = EnableCap(cap=capability, flags=flags)
        for position, value in enumerate(args):
            request.args[position] = value
        self.file.ioctl(kvm.KVM_ENABLE_CAP, request)
        self.trace.add(Step.CAPABILITY, self.who, capability, flags, capability == self.revision.cap_sea_to_user)

    def enable_sea_to_user(self) -> None:
        """Ask for KVM_EXIT_ARM_SEA."""
        self.enable_cap(self.revision.cap_sea_to_user)

    # Memory

    @property
    def max_gpa(self) -> int:
        """One past the last guest physical address."""
        return 1 << self.ipa_bits

    def add_memory(
        self,
        gpa: GuestPA,
        size: int,
        *,
        backing: Backing = Backing.ANONYMOUS,
        readonly: bool = False,
        alignment: int = 0,
    ) -> Region:
        """Map memory into the VMM and make it a memslot. Raises OSError."""
        memory = self.host.map_memory(size, backing=backing, alignment=alignment)
        try:
            return self.place_region(gpa, memory, readonly=readonly, backing=backing)
        except OSError:
            memory.close()
            raise

    def place_region(
        self, gpa: GuestPA, memory: Memory, *, readonly: bool = False, backing: Backing = Backing.ANONYMOUS
    ) -> Region:
        """Make a memslot of memory that the VMM has mapped; it is unmapped with the VM. Raises OSError."""
        slot = max((region.slot for region in self.memory.regions), default=-1) + 1
        region = Region(slot, gpa, memory, readonly, backing)
        self._set_region(region, memory.size)
        self.memory.regions.append(region)
        self.trace.add(Step.MEMSLOT, self.who, slot, gpa, memory.size, memory.address, readonly, backing)
        return region

    def drop_region(self, region: Region) -> None:
        """Delete a memslot; its memory stays mapped, and is the caller's to place again. Raises OSError."""
        self._set_region(region, 0)
        self.memory.regions.remove(region)

    def _set_region(self, region: Region, size: int) -> None:
        flags = kvm.KVM_MEM_READONLY if region.readonly else 0
        self.file.ioctl(
            kvm.KVM_SET_USER_MEMORY_REGION,
            UserspaceMemoryRegion(region.slot, flags, region.base, size, region.memory.address),
        )

    def map(
        self,
        gva: GuestVA,
        gpa: GuestPA,
        pages: int,
        *,
        user: bool = False,
        writable: bool = True,
        executable: bool = True,
        device: bool = False,
    ) -> None:
        """Map guest virtual to guest physical addresses, 4 KiB pages, in the guest's stage 1."""
        if pages >= _LARGE_MAP_PAGES:
            self._add_large_tables(pages)
        self.page_tables.map(
            gva,
            gpa,
            pages,
            user=user,
            writable=writable,
            executable=executable,
            attribute=descriptors.DEVICE_NGNRNE if device else descriptors.NORMAL_WRITE_BACK,
        )

    def _add_large_tables(self, pages: int) -> None:
        """A memslot of its own for the tables of a large mapping: 2 MiB tables per GiB want huge pages."""
        size = -(-(pages // TABLE_ENTRIES * TABLE_SIZE) // _LARGE_TABLES_STEP) * _LARGE_TABLES_STEP
        base = self._next_large_tables
        self.add_memory(base, size, backing=Backing.THP, alignment=_LARGE_TABLES_STEP)
        self._allocator.add(base, size)
        self._next_large_tables = GuestPA(base + size)

    def gva_to_gpa(self, gva: GuestVA) -> GuestPA:
        """Through the guest's page tables. Raises GuestMemoryAccessError."""
        gpa = self.page_tables.translate(gva)
        self.trace.place(gva=gva, ipa=gpa)
        return gpa

    def gva_to_hva(self, gva: GuestVA) -> HostVA:
        """Through the guest's page tables and the memslots. Raises GuestMemoryAccessError."""
        gpa = self.page_tables.translate(gva)
        hva = self.memory.hva(gpa)
        self.trace.place(gva=gva, ipa=gpa, hva=hva)
        return hva

    def poison_page(self, hva: HostVA) -> None:
        """MADV_HWPOISON: the kernel takes a page of the VM's memory out of service. Raises OSError."""
        self.host.poison_page(hva)
        self.trace.broke(hva=hva)
        self.trace.add(Step.POISONED, self.who, hva)

    def read(self, gva: GuestVA, size: int) -> bytes:
        """Guest memory by virtual address, page by page. Raises GuestMemoryAccessError."""
        parts = bytearray()
        while len(parts) < size:
            address = GuestVA(gva + len(parts))
            length = min(size - len(parts), PAGE_SIZE - address % PAGE_SIZE)
            parts += self.memory.view(self.page_tables.translate(address), length)
        return bytes(parts)

    def write(self, gva: GuestVA, data: bytes) -> None:
        """Guest memory by virtual address, page by page. Raises GuestMemoryAccessError."""
        done = 0
        while done < len(data):
            address = GuestVA(gva + done)
            length = min(len(data) - done, PAGE_SIZE - address % PAGE_SIZE)
            self.memory.view(self.page_tables.translate(address), length)[:] = data[done : done + length]
            done += length

    def read_u64(self, gva: GuestVA) -> int:
        return int.from_bytes(self.read(gva, 8), "little")

    def write_u64(self, gva: GuestVA, value: int) -> None:
        self.write(gva, value.to_bytes(8, "little"))

    # Program

    def load(self, program: GuestProgram) -> None:
        """Copy a program into slot 0, map it at its addresses, and map the page of the ucalls."""
        self._listen(GuestPA(program.ucall_mmio))
        for segment in program.segments:
            if segment.gva + segment.size > TABLES_BASE:
                raise VmmError(
                    f"the program's segment [{segment.gva:#x}, {segment.gva + segment.size:#x}) does not fit below the"
                    f" page tables at {TABLES_BASE:#x}"
                )
            self._load_segment(segment.gva, segment.data, segment.size)
            self.map(
                segment.gva,
                GuestPA(segment.gva),
                -(-segment.size // PAGE_SIZE),
                user=segment.user,
                writable=segment.writable,
                executable=segment.executable,
            )
        self.program = program
        self.trace.add(Step.PROGRAM, self.who, program.entry, program.vectors)

    def _listen(self, address: GuestPA) -> None:
        """Take stores to this address for ucalls. Its virtual address is the same, and EL0 may call, too."""
        if any(region.base <= address < region.end for region in self.memory.regions):
            raise VmmError(f"the program's ucall address {address:#x} is memory; a ucall has to be MMIO")
        self.ucall_address = address
        self.map(GuestVA(address), address, 1, user=True, executable=False, device=True)

    def _load_segment(self, gva: GuestVA, data: bytes, size: int) -> None:
        self.memory.region(GuestPA(gva), size)
        self.memory.view(GuestPA(gva), len(data))[:] = data

    def symbol(self, name: str) -> GuestVA:
        """The address of a symbol of the program. Raises VmmError with the names that there are."""
        if self.program is None:
            raise VmmError("no program is loaded")
        try:
            return self.program.symbols[name]
        except KeyError:
            known = ", ".join(sorted(self.program.symbols))
            raise VmmError(f"the program has no symbol {name!r}; it has {known}") from None

    def get_global(self, name: str) -> int:
        """The value of a global of the program, without a sign. Raises VmmError where it is not a number."""
        address, size = self._global(name)
        return int.from_bytes(self.read(address, size), "little")

    def set_global(self, name: str, value: int) -> None:
        """Write a global of the program, as sync_global_to_guest does. Raises VmmError where it does not fit."""
        address, size = self._global(name)
        if not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
            raise VmmError(f"global {name!r} has {size} bytes; {value:#x} does not fit")
        self.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _global(self, name: str) -> tuple[GuestVA, int]:
        address = self.symbol(name)
        size = self.program.size_of(name) if self.program else 0
        if size not in _GLOBAL_SIZES:
            raise VmmError(
                f"{name!r} has {size} bytes, and a number has 1, 2, 4 or 8; use vm.read(vm.symbol({name!r}), {size})"
            )
        return address, size

    def locate(self, pc: GuestVA) -> str:
        """An address in terms of the program, for messages."""
        return f"{pc:#x}" if self.program is None else self.program.locate(pc)

    # vCPUs

    def add_vcpu(self, *, el2: bool = False) -> Vcpu:
        """Create a vCPU that will start the loaded program at its entry.

        ``el2``: at a virtual EL2, with HCR_EL2.TGE set as a hypervisor's own user space wants it. The program cannot
        tell but by CurrentEL: at EL2 with HCR_EL2.E2H the names of EL1's registers are those of EL2's. OSError EINVAL
        where KVM offers no EL2.
        """
        number = len(self.vcpus)
        file = self.host.adopt(self.file.ioctl(kvm.KVM_CREATE_VCPU, number))
        try:
            vcpu = Vcpu(self, number, file, self._mmap_size, el2=el2)
        except BaseException:
            file.close()
            raise
        self.vcpus.append(vcpu)
        own = "el2" if el2 else "el1"
        if el2:
            vcpu.set_reg("hcr_el2", _HCR_RW | _HCR_TGE | _HCR_E2H)
        cpacr = "cptr_el2" if el2 else "cpacr_el1"
        vcpu.set_reg(cpacr, vcpu.get_reg(cpacr) | _CPACR_FPEN)
        # SCTLR_EL2.SPAN is 0 after reset, unlike SCTLR_EL1's: without it every exception would set PSTATE.PAN.
        vcpu.set_reg(f"sctlr_{own}", vcpu.get_reg(f"sctlr_{own}") | _SCTLR_M_C_I | _SCTLR_SPAN)
        vcpu.set_reg(f"tcr_{own}", _TCR_EL1 | _ips(self.ipa_bits) << _TCR_IPS_SHIFT)
        vcpu.set_reg(f"mair_{own}", descriptors.MAIR_EL1)
        vcpu.set_reg(f"ttbr0_{own}", self.page_tables.root)
        vcpu.set_reg("tpidr_el1", number)
        if self.program is not None:
            vcpu.set_reg(f"vbar_{own}", self.program.vectors)
            vcpu.set_reg(f"sp_{own}", self.program.stack_top)
            vcpu.set_reg("pc", self.program.entry)
        self.trace.add(Step.VCPU, vcpu.who, None if self.program is None else self.program.entry)
        return vcpu

    def complete_for_el2(self) -> None:
        """What KVM wants before the first KVM_RUN of a vCPU with a virtual EL2; no vCPU can be added after that."""
        if self._gic is None:
            self._gic = add_gic(self)


class _Reader:
    """Guest memory as the ucall parser wants it."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def read(self, gva: int, size: int, /) -> bytes:
        try:
            return self._vm.read(GuestVA(gva), size)
        except GuestMemoryAccessError as error:
            raise GuestMemoryError(str(error)) from None
