# SPDX-License-Identifier: GPL-2.0-only
"""KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS (arch/arm64/kvm/guest.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.sim.kvm.inject import SERROR_ISS_MASK
from pytest_kvm_sea.uapi.structures import VcpuEventsFollowUp

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.kvm.vcpu import Vcpu


def get_events(vcpu: Vcpu) -> bytes:
    """The bytes of struct kvm_vcpu_events. Aborts are never reported: they are delivered when they are set."""
    events = vcpu.vm.behaviour.revision.vcpu_events()
    pending = vcpu.cpu.vserror
    events.exception.serror_has_esr = int(vcpu.vm.behaviour.ras)
    events.exception.serror_pending = int(pending is not None)
    if pending is not None and vcpu.vm.behaviour.ras:
        events.exception.serror_esr = pending
    return bytes(events)


def set_events(vcpu: Vcpu, data: bytes) -> None:
    """Raises OSError EINVAL for reserved fields and bad combinations.

    Not atomic, as the kernel is not: mainline delivers the abort before it looks at the SError, the series the other
    way round; the part that comes first stays even where the other is refused. The follow-up is: it checks everything
    first.
    """
    events = vcpu.vm.behaviour.revision.vcpu_events.from_buffer_copy(data)
    exception = events.exception
    if any(events.reserved) or any(exception.pad):
        fail(errno.EINVAL)
    serror = bool(exception.serror_pending)
    has_esr, esr = bool(exception.serror_has_esr), exception.serror_esr
    data_abort = bool(exception.ext_dabt_pending)
    instruction_abort = bool(getattr(exception, "ext_iabt_pending", 0))
    iss = 0
    if isinstance(events, VcpuEventsFollowUp):
        _check_all(vcpu, events, both=data_abort and instruction_abort)
        iss = events.exception.ext_abt_esr if events.exception.ext_abt_has_esr else 0
    if vcpu.vm.behaviour.serror_first:
        _set_serror(vcpu, pending=serror, has_esr=has_esr, esr=esr)
        _set_abort(vcpu, data=data_abort, instruction=instruction_abort, iss=iss)
    else:
        _set_abort(vcpu, data=data_abort, instruction=instruction_abort, iss=iss)
        _set_serror(vcpu, pending=serror, has_esr=has_esr, esr=esr)


def _check_all(vcpu: Vcpu, events: VcpuEventsFollowUp, *, both: bool) -> None:
    """The follow-up's checks; a syndrome is looked at even where nothing is to be injected."""
    exception = events.exception
    syndromes = [
        esr
        for has_esr, esr in (
            (exception.serror_has_esr, exception.serror_esr),
            (exception.ext_abt_has_esr, exception.ext_abt_esr),
        )
        if has_esr
    ]
    if both or (syndromes and not vcpu.vm.behaviour.ras) or any(esr & ~SERROR_ISS_MASK for esr in syndromes):
        fail(errno.EINVAL)


def _set_abort(vcpu: Vcpu, *, data: bool, instruction: bool, iss: int) -> None:
    if data and instruction:
        fail(errno.EINVAL)
    if data or instruction:
        vcpu.inject.sea(vcpu.fault.far, instruction=instruction, iss=iss)
        vcpu.commit_events()


def _set_serror(vcpu: Vcpu, *, pending: bool, has_esr: bool, esr: int) -> None:
    """A syndrome is looked at only where an SError is to be pended."""
    if not pending:
        return
    if has_esr and (not vcpu.vm.behaviour.ras or esr & ~SERROR_ISS_MASK):
        fail(errno.EINVAL)
    vcpu.inject.serror(esr if has_esr else None)
    vcpu.commit_events()
