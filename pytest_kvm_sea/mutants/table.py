# SPDX-License-Identifier: GPL-2.0-only
"""All mutants."""

from __future__ import annotations

from pytest_kvm_sea.mutants import einj, events, exits, injection, memory, nested, runs
from pytest_kvm_sea.mutants.mutant import Mutant

AREAS: dict[str, tuple[Mutant, ...]] = {
    "Whether there is an exit": exits.WHETHER,
    "The capability": exits.CAPABILITY,
    "What the exit says": exits.DESCRIPTION,
    "Syndrome and address of an injected exception": injection.SYNDROME,
    "Entry of an injected exception": injection.ENTRY,
    "SErrors": injection.PENDING,
    "KVM_SET_VCPU_EVENTS: what is refused": events.REFUSED,
    "KVM_SET_VCPU_EVENTS and KVM_GET_VCPU_EVENTS: what is done": events.DONE,
    "The series and its follow-up": events.SYNDROME,
    "KVM_RUN and MMIO": runs.MUTANTS,
    "Pages that are offline": memory.OFFLINE,
    "APEI": memory.APEI,
    "Memslots": memory.MEMSLOTS,
    "KVM userfault": memory.USERFAULT,
    "A guest that is a hypervisor": nested.MUTANTS,
    "EINJ and its firmware": einj.MUTANTS,
}
"""By what is broken."""

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for area in AREAS.values() for mutant in area}
"""By name."""
