# SPDX-License-Identifier: GPL-2.0-only
"""Accesses that no memslot answers (arch/arm64/kvm/mmio.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.uapi import kvm

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.sim.kvm.fault import FaultInfo
    from pytest_kvm_sea.uapi.structures import KvmRun

_NISV_MASK = syndromes.CM | syndromes.WNR | syndromes.FSC_MASK
_ZERO_REGISTER = 31
_WORD_MASK = 0xFFFF_FFFF
_DOUBLE_WORD_MASK = (1 << 64) - 1
_INSTRUCTION_SIZE = 4


class Mmio:
    """The MMIO state of one vCPU: an access waits for the VMM's answer, or none does."""

    def __init__(self, cpu: Cpu, run: KvmRun, fault: FaultInfo) -> None:
        self._cpu = cpu
        self._run = run
        self._fault = fault
        self.needed = False

    def abort(self, ipa: int, *, nisv_to_user: bool) -> None:
        """io_mem_abort: fill in the exit. ENOSYS where the syndrome says too little and nobody wants it."""
        esr = self._fault.esr
        if not esr & syndromes.ISV:
            if not nisv_to_user:
                fail(errno.ENOSYS)
            self._run.exit_reason = kvm.Exit.ARM_NISV
            self._run.arm_nisv.esr_iss = esr & _NISV_MASK
            self._run.arm_nisv.fault_ipa = ipa
            return
        length = _length(esr)
        mmio = self._run.mmio
        mmio.is_write = int(bool(esr & syndromes.WNR))
        mmio.phys_addr = ipa
        mmio.len = length
        if mmio.is_write:
            for position, byte in enumerate(self._register(esr).to_bytes(8, "little")[:length]):
                mmio.data[position] = byte
        self.needed = True
        self._run.exit_reason = kvm.Exit.MMIO

    def complete(self) -> None:
        """kvm_handle_mmio_return: the VMM has answered; a load gets its value and the instruction is over."""
        if not self.needed:
            return
        self.needed = False
        esr = self._fault.esr
        if not esr & syndromes.WNR:
            length = _length(esr)
            value = int.from_bytes(bytes(self._run.mmio.data)[:length], "little")
            self._write_back(esr, value, length)
        self._cpu.pc += _INSTRUCTION_SIZE

    def _register(self, esr: int) -> int:
        number = esr >> syndromes.SRT_SHIFT & 0x1F
        return 0 if number == _ZERO_REGISTER else self._cpu.x[number]

    def _write_back(self, esr: int, value: int, length: int) -> None:
        if esr & syndromes.SSE and length < 8:
            sign = 1 << (8 * length - 1)
            value = (value ^ sign) - sign & _DOUBLE_WORD_MASK
        if not esr & syndromes.SF:
            value &= _WORD_MASK
        number = esr >> syndromes.SRT_SHIFT & 0x1F
        if number != _ZERO_REGISTER:
            self._cpu.x[number] = value


def _length(esr: int) -> int:
    """Size of the access in bytes, ISS.SAS."""
    return 1 << (esr >> syndromes.SAS_SHIFT & 3)
