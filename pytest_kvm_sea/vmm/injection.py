# SPDX-License-Identifier: GPL-2.0-only
"""Putting an external abort into a guest without KVM_SET_VCPU_EVENTS: the VMM takes the exception by registers.

The seed's documentation names this as always possible. What a processor does on exception entry to EL1 is done here
with KVM_SET_ONE_REG (Arm ARM D1.3.1, AArch64.TakeException).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.reports.trace import Step

if TYPE_CHECKING:
    from pytest_kvm_sea.addresses import GuestVA
    from pytest_kvm_sea.vmm.vcpu import Vcpu

_MODE_MASK = 0xF
_EL0T, _EL1T, _EL1H, _EL2T, _EL2H = 0b0000, 0b0100, 0b0101, 0b1000, 0b1001
_NZCV, _DIT, _PAN = 0xF << 28, 1 << 24, 1 << 22
_DAIF = 0xF << 6
_SCTLR_SPAN = 1 << 23
_VECTOR_OFFSETS = {_EL1T: 0x000, _EL1H: 0x200, _EL2T: 0x000, _EL2H: 0x200, _EL0T: 0x400}


def abort_syndrome(pstate: int, *, instruction: bool, status: int = syndromes.FSC_SEA, iss: int = 0) -> int:
    """ESR_EL1 of an abort taken from the state ``pstate``; ``iss`` adds bits such as FnV."""
    lower = pstate & _MODE_MASK == _EL0T
    if instruction:
        exception_class = EC.IABT_LOWER if lower else EC.IABT_CURRENT
    else:
        exception_class = EC.DABT_LOWER if lower else EC.DABT_CURRENT
    return syndromes.syndrome(exception_class, status | iss)


def write_abort(vcpu: Vcpu, far: GuestVA, *, instruction: bool, iss: int = 0) -> None:
    """Take an external abort at ``far`` by writing ESR, FAR, ELR, SPSR, PSTATE and PC. The guest sees what hardware
    shows.

    It goes to EL1, or to the virtual EL2 where that owns what the vCPU runs; what HCR_EL2 routes there besides is for
    the VMM to know. SSBS and MTE state are taken as off, which is what these VMs have.
    """
    el = vcpu.regime
    before = vcpu.registers("pc", "pstate", f"vbar_{el}")
    pstate = before["pstate"]
    pan = _PAN if not vcpu.get_reg(f"sctlr_{el}") & _SCTLR_SPAN else pstate & _PAN
    written = {
        f"esr_{el}": abort_syndrome(pstate, instruction=instruction, iss=iss),
        f"far_{el}": far,
        f"elr_{el}": before["pc"],
        f"spsr_{el}": pstate,
        "pc": before[f"vbar_{el}"] + _VECTOR_OFFSETS[pstate & _MODE_MASK],
        "pstate": pstate & (_NZCV | _DIT) | pan | _DAIF | (_EL2H if el == "el2" else _EL1H),
    }
    for name, value in written.items():
        vcpu.set_reg(name, value)
    vcpu.vm.trace.add(Step.REGISTERS, vcpu.who, {**before, **written})
