# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions that KVM puts into a vCPU, as a VMM sees them from outside: what an entry to EL1 must leave behind."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC

if TYPE_CHECKING:
    from pytest_kvm_sea.vmm.vcpu import Vcpu

WITHOUT_MEMORY_ERRORS = pytest.mark.kvm_sea_distinct(
    "kernel.uapi",
    "kernel.release",
    "kernel.il_from_last_trap",
    "kernel.immediate_injection",
    "kernel.s1ptw_level",
    "cpu.ras",
)
"""What tests depend on that break no memory: they run on the platforms that differ in it."""
STATE = ("pc", "pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1")
ABORT, SERROR = 0x000, 0x180
"""Offsets of the vectors."""
PSTATE_A = 1 << 8
EL1H_MASKED = 0x3C5
"""EL1h with D, A, I and F set, as every entry leaves it."""
_KEPT = 0xF << 28 | 1 << 24 | 1 << 22
"""NZCV, DIT and PAN (SCTLR_EL1.SPAN is 1 in these guests) come through an entry."""
_VECTORS = {0b0000: 0x400, 0b0100: 0x000, 0b0101: 0x200}
_RAS_SHIFT = 28


def kernel_version(vcpu: Vcpu) -> tuple[int, int]:
    """Of the host's kernel. For known defects only: what a kernel can do is asked of it."""
    release = re.match(r"(\d+)\.(\d+)", vcpu.vm.host.release)
    assert release, f"uname -r: {vcpu.vm.host.release}"
    return int(release[1]), int(release[2])


def enters_at_once(vcpu: Vcpu) -> bool:
    """Whether KVM_SET_VCPU_EVENTS enters an exception itself; kernels before 6.17 leave that to KVM_RUN."""
    return kernel_version(vcpu) >= (6, 17)


def has_ras(vcpu: Vcpu) -> bool:
    """Whether the guest sees FEAT_RAS."""
    return bool(vcpu.get_reg("id_aa64pfr0_el1") >> _RAS_SHIFT & 0xF)


@dataclass(frozen=True, slots=True)
class State:
    """The registers that an exception changes."""

    pc: int
    pstate: int
    esr_el1: int
    far_el1: int
    elr_el1: int
    spsr_el1: int

    @classmethod
    def of(cls, vcpu: Vcpu) -> State:
        return cls(**vcpu.registers(*STATE))

    def after_abort(self, vcpu: Vcpu, far: int, *, instruction: bool = False, ease: bool = False) -> State:
        """What an external abort must make of it (Arm ARM D1.3.1); the syndrome has no status but 0x10."""
        lower = self.pstate & 0xF == 0
        if instruction:
            exception_class = EC.IABT_LOWER if lower else EC.IABT_CURRENT
        else:
            exception_class = EC.DABT_LOWER if lower else EC.DABT_CURRENT
        syndrome = syndromes.syndrome(exception_class, syndromes.FSC_SEA)
        return self._entered(vcpu, SERROR if ease else ABORT, syndrome, far)

    def after_serror(self, vcpu: Vcpu, iss: int) -> State:
        """What an SError must make of it: FAR_EL1 stays."""
        return self._entered(vcpu, SERROR, syndromes.syndrome(EC.SERROR, iss), self.far_el1)

    def _entered(self, vcpu: Vcpu, offset: int, syndrome: int, far: int) -> State:
        return State(
            pc=vcpu.get_reg("vbar_el1") + _VECTORS[self.pstate & 0xF] + offset,
            pstate=self.pstate & _KEPT | EL1H_MASKED,
            esr_el1=syndrome,
            far_el1=far,
            elr_el1=self.pc,
            spsr_el1=self.pstate,
        )


def deliver(vcpu: Vcpu) -> None:
    """Have what KVM_SET_VCPU_EVENTS only marked entered. Kernels that entered it themselves do nothing more.

    A KVM_RUN with immediate_exit runs no guest code, and enters what is marked on its way out.
    """
    assert vcpu.run_interrupted() == errno.EINTR
