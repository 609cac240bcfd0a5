# SPDX-License-Identifier: GPL-2.0-only
"""The bare VM of the scenarios: code, vectors and registers by hand, MMU off.

Every vector tells the VMM which one it is by a store of one byte to an address without memory, so that no scenario has
to wait for a time-out to know that an exception was taken.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from pytest_kvm_sea.addresses import GuestPA
from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import Offset, W, X
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.vmm.vm import Vm

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host, Memory
    from pytest_kvm_sea.uapi.structures import UserspaceMemoryRegion

Code: TypeAlias = Callable[[Assembler], None]

CODE, VECTORS, DATA = 0x1_0000, 0x2_0000, 0x3_0000
"""Guest physical addresses in slot 0."""
VECTOR_MMIO = 0x1100_0000
"""A store of a byte here, at an offset of the vector's number, says that the vector was taken."""
SPARE_SIZE = 0x2_0000
MMU_OFF = 0xC5_0078
_VECTOR_SIZE = 0x80
_VECTOR_COUNT = 16


def _vectors() -> bytes:
    image = bytearray()
    for number in range(_VECTOR_COUNT):
        asm = Assembler()
        asm.strb(W[27], Offset(X[28], number))
        asm.b(asm_self(asm))
        image += asm.assemble(VECTORS + number * _VECTOR_SIZE).ljust(_VECTOR_SIZE, b"\0")
    return bytes(image)


def asm_self(asm: Assembler) -> str:
    """A label at the next instruction, for a branch to itself."""
    asm.label("stay")
    return "stay"


class Machine:
    """One VM with one vCPU, for one scenario."""

    def __init__(self, host: Host, code: Code, registers: Mapping[str, int], *, timeout: float) -> None:
        self.vm = Vm(host)
        self.spare: Memory = host.map_memory(SPARE_SIZE)
        self.spare.view[:] = bytes(range(256)) * (SPARE_SIZE // 256)
        asm = Assembler()
        code(asm)
        asm.b(asm_self(asm))
        for address, data in ((CODE, asm.assemble(CODE)), (VECTORS, _vectors())):
            self.vm.memory.view(GuestPA(address), len(data))[:] = data
        self.vcpu = self.vm.add_vcpu()
        self.vcpu.timeout = timeout
        start = {"sctlr_el1": MMU_OFF, "vbar_el1": VECTORS, "pc": CODE, "x28": VECTOR_MMIO, "sp_el1": DATA + 0x1000}
        for name, value in (start | dict(registers)).items():
            self.vcpu.set_reg(name, value)

    def set_region(self, region: UserspaceMemoryRegion) -> None:
        self.vm.file.ioctl(kvm.KVM_SET_USER_MEMORY_REGION, region)

    def drop_spare(self) -> None:
        """Take the spare memory away from KVM: the mapping is closed, and cannot be accessed any more."""
        address = self.spare.address
        self.spare.close()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if libc.mprotect(address, SPARE_SIZE, 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        self.vm.close()
        self.spare.close()
