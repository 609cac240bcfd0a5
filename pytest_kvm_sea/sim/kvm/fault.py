# SPDX-License-Identifier: GPL-2.0-only
"""What KVM remembers of a vCPU's last trap (struct kvm_vcpu_fault_info, hyp/include/hyp/fault.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostPA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.cpu.traps import Trap

_PAGE_MASK = 0xFFF
_ABORTS = frozenset({EC.DABT_LOWER, EC.IABT_LOWER})


@dataclass(slots=True)
class FaultInfo:
    """The last trap. ESR_EL2 is of any trap, the addresses are of the last abort."""

    esr: int = 0
    far: int = 0
    ipa: int | None = None
    """Page of the faulting IPA; None where KVM does not know it."""
    poison: HostPA | None = None
    """Where an external abort came from: what a firmware would put into its error record, and KVM does not see."""

    def record(self, trap: Trap, cpu: Cpu) -> bool:
        """Take a trap in. False: the address could not be translated, so KVM enters the guest again without a word."""
        self.esr = trap.esr
        self.poison = None if trap.source is None else HostPA(trap.source)
        if syndromes.ec(trap.esr) not in _ABORTS:
            return True
        self.far = trap.far
        self.ipa = None
        if not syndromes.is_sea(syndromes.fsc(trap.esr)):
            self.ipa = None if trap.ipa is None else trap.ipa & ~_PAGE_MASK
            return True
        if not _safe_to_translate(trap.esr):
            return True
        ipa, _ = cpu.translate(trap.far, write=False, el0=False)
        if ipa is None:
            return False
        self.ipa = ipa & ~_PAGE_MASK
        return True


def is_sea_on_walk(esr: int) -> bool:
    """esr_fsc_is_sea_ttw: an external abort on a translation table walk (not a parity error)."""
    return 0x13 <= syndromes.fsc(esr) <= 0x17


def _safe_to_translate(esr: int) -> bool:
    status = syndromes.fsc(esr)
    if is_sea_on_walk(esr) or 0x1B <= status <= 0x1F:
        return False
    return not (status == syndromes.FSC_SEA and esr & syndromes.FNV)
