# SPDX-License-Identifier: GPL-2.0-only
"""Data and instruction aborts that reach EL2 (arch/arm64/kvm/mmu.c kvm_handle_guest_abort)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.cpu.bus import Access, Stage2Fault
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.sim.kvm import sea
from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.sim.memory_failure import BUS_MCEERR_AR
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.userfault import KVM_MEMORY_EXIT_FLAG_USERFAULT

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.kvm.memslots import Memslot
    from pytest_kvm_sea.sim.kvm.vcpu import Vcpu
    from pytest_kvm_sea.sim.process import SimMemory

_OFFSET_MASK = 0xFFF
_INSTRUCTION_SIZE = 4
_DESCRIPTOR = 8
_KNOWN_FAULTS = {syndromes.FSC_TRANSLATION, syndromes.FSC_ACCESS_FLAG, syndromes.FSC_PERMISSION}
_TYPE_MASK = 0x3C


def handle_abort(vcpu: Vcpu) -> bool:
    """Deal with the abort that the vCPU's fault information describes. False: KVM_RUN returns to the VMM."""
    status = syndromes.fsc(vcpu.fault.esr)
    if syndromes.is_sea(status):
        return _guest_sea(vcpu)
    ipa = vcpu.fault.ipa
    if ipa is None or status & _TYPE_MASK not in _KNOWN_FAULTS:
        fail(errno.EFAULT)
    if status & _TYPE_MASK == syndromes.FSC_TRANSLATION and _beyond_ipa_space(vcpu, ipa):
        return True
    shadow = vcpu.nested.shadow if vcpu.nested is not None else None
    if vcpu.nested is not None and shadow is not None:
        try:
            ipa = shadow.translate(ipa, _access(vcpu.fault.esr))
        except Stage2Fault as fault:
            vcpu.nested.inject_stage2_fault(vcpu.fault.esr, fault.fsc, vcpu.fault.far, ipa)
            return True
    slot = vcpu.vm.memslots.find(ipa)
    if slot is None or (slot.readonly and _is_write(vcpu.fault.esr)):
        return _no_memory(vcpu, ipa, slot)
    return _user_mem_abort(vcpu, slot, ipa)


def _guest_sea(vcpu: Vcpu) -> bool:
    """APEI first, then the VMM if it asked for it and may have it, otherwise the guest gets an SError."""
    behaviour = vcpu.vm.behaviour
    if vcpu.vm.apei.claim_sea(vcpu.fault.poison):
        return True
    if not vcpu.vm.exits_on_sea or sea.host_owns_sea(behaviour, vcpu.fault.esr):
        vcpu.inject.serror()
        return True
    sea.exit_to_user(behaviour, vcpu.fault, vcpu.run_page, vm_has_ras=vcpu.has_ras)
    return False


def _beyond_ipa_space(vcpu: Vcpu, ipa: int) -> bool:
    """Addresses that the VM cannot have: answered by an abort, whatever memslots say."""
    address = ipa | vcpu.fault.far & _OFFSET_MASK
    if ipa >> vcpu.vm.behaviour.ipa_limit:
        vcpu.inject.size_fault(address, instruction=_is_fetch(vcpu.fault.esr))
        return True
    if ipa >> vcpu.vm.ipa_bits:
        vcpu.inject.sea(address, instruction=_is_fetch(vcpu.fault.esr))
        return True
    return False


def _no_memory(vcpu: Vcpu, ipa: int, slot: Memslot | None) -> bool:
    """Code and page tables outside memory are the guest's error; cache maintenance is skipped; the rest is MMIO."""
    fault = vcpu.fault
    if _is_fetch(fault.esr):
        vcpu.inject.sea(fault.far, instruction=True)
        return True
    if fault.esr & syndromes.S1PTW:
        vcpu.inject.sea(fault.far, instruction=False)
        return True
    if slot is None and fault.esr & syndromes.CM:
        vcpu.cpu.pc += _INSTRUCTION_SIZE
        return True
    vcpu.mmio.abort(ipa | fault.far & _OFFSET_MASK, nisv_to_user=vcpu.vm.nisv_to_user)
    return False


def _user_mem_abort(vcpu: Vcpu, slot: Memslot, ipa: int) -> bool:
    """There is a slot: get the VMM's page. EFAULT where its mapping is gone, SIGBUS where the page is poisoned."""
    if slot.is_userfault(ipa, vcpu.vm.memslots.page_size):
        _memory_fault(vcpu, ipa)
    page_size = vcpu.vm.behaviour.page_size
    hva = HostVA(slot.hva(ipa) // page_size * page_size)
    found = vcpu.vm.process.resolve(hva)
    if found is None:
        fail(errno.EFAULT)
    memory, offset = found
    if memory.lost(offset):
        size = _mapping_size(slot, hva, memory, page_size)
        vcpu.vm.process.deliver_sigbus(Sigbus(BUS_MCEERR_AR, hva, size.bit_length() - 1))
    return True


def _memory_fault(vcpu: Vcpu, ipa: int) -> NoReturn:
    """The VMM keeps this page to itself (kvm_prepare_memory_fault_exit): KVM_RUN fails, and says what for."""
    size = vcpu.vm.memslots.page_size
    vcpu.run_page.exit_reason = kvm.Exit.MEMORY_FAULT
    vcpu.run_page.memory_fault.flags = KVM_MEMORY_EXIT_FLAG_USERFAULT
    vcpu.run_page.memory_fault.gpa = ipa // size * size
    vcpu.run_page.memory_fault.size = size
    fail(errno.EFAULT)


def _mapping_size(slot: Memslot, hva: HostVA, memory: SimMemory, page_size: int) -> int:
    """Bytes that stage 2 would map in one piece (kvm_s2_resolve_vma_size): what a SIGBUS gives for lost.

    A block as large as the huge page of hugetlb, or the next smaller one, where the slot is aligned as the memory is
    and holds all of it. What else the host has huge pages of (64 KiB pages: 2 MiB) is mapped by pages.
    """
    entries = page_size // _DESCRIPTOR
    for block in (page_size * entries * entries, page_size * entries):
        if block <= memory.frames.entry and slot.holds_block(hva, block):
            return block
    return page_size


def _access(esr: int) -> Access:
    """What the guest hypervisor's stage 2 has to permit."""
    if _is_fetch(esr):
        return Access.FETCH
    return Access.WRITE if _is_write(esr) else Access.READ


def _is_fetch(esr: int) -> bool:
    return syndromes.ec(esr) == EC.IABT_LOWER


def _is_write(esr: int) -> bool:
    """kvm_is_write_fault: a store, cache maintenance that counts as one, or a table walk that stage 2 forbids.

    The last is an update of a descriptor by hardware; a walk that finds nothing is a read.
    """
    if syndromes.ec(esr) != EC.DABT_LOWER:
        return False
    if esr & syndromes.S1PTW:
        return syndromes.fsc(esr) & _TYPE_MASK == syndromes.FSC_PERMISSION
    return bool(esr & syndromes.WNR)
