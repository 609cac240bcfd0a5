# SPDX-License-Identifier: GPL-2.0-only
"""HVC and SMC as KVM answers them (arch/arm64/kvm/hypercalls.c, psci.c): PSCI as far as one-shot guests use it.

Not modelled: CPU_ON, CPU_SUSPEND and the vendor services; they answer NOT_SUPPORTED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.uapi import kvm

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.uapi.structures import KvmRun

NOT_SUPPORTED = (1 << 64) - 1
INTERNAL_FAILURE = (1 << 64) - 6
SMCCC_VERSION = 0x8000_0000
SMCCC_VERSION_1_1 = 0x1_0001
PSCI_VERSION = 0x8400_0000
PSCI_1_3 = 0x1_0003
PSCI_SYSTEM_OFF = 0x8400_0008
PSCI_SYSTEM_RESET = 0x8400_0009
_FUNCTION_MASK = 0xFFFF_FFFF

_VALUES = {SMCCC_VERSION: SMCCC_VERSION_1_1, PSCI_VERSION: PSCI_1_3}
_SYSTEM_EVENTS = {
    PSCI_SYSTEM_OFF: kvm.KVM_SYSTEM_EVENT_SHUTDOWN,
    PSCI_SYSTEM_RESET: kvm.KVM_SYSTEM_EVENT_RESET,
}


def smccc_call(cpu: Cpu, run: KvmRun) -> bool:
    """Answer the call in x0. False: KVM_RUN returns with KVM_EXIT_SYSTEM_EVENT."""
    function = cpu.x[0] & _FUNCTION_MASK
    event = _SYSTEM_EVENTS.get(function)
    if event is None:
        cpu.x[0] = _VALUES.get(function, NOT_SUPPORTED)
        cpu.x[1:4] = [0, 0, 0]
        return True
    # A VMM that resumes after that shows the guest a failure.
    cpu.x[0] = INTERNAL_FAILURE
    cpu.x[1:4] = [0, 0, 0]
    run.exit_reason = kvm.Exit.SYSTEM_EVENT
    run.system_event.type = event
    run.system_event.ndata = 1
    run.system_event.data[0] = 0
    return False
