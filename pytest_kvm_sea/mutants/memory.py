# SPDX-License-Identifier: GPL-2.0-only
"""Bugs in memslots and KVM userfault, in memory_failure and the SIGBUS that it sends, and in APEI."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant

_USER_MEM = "sim.kvm.abort:_user_mem_abort"
_FAULT = "sim.kvm.abort:_memory_fault"
_HANDLE = "sim.memory_failure:MemoryFailure.handle"
_OFFLINE = ("test_sigbus::test_page_that_is_offline",)
_CLAIMED = ("test_sea_to_user::test_sea_to_user[anonymous]",)
_APEI = ("apei-claims",)
_SPLIT = ("test_vmm_reactions::test_a_protected_page_is_not_consumed_again",)
_USERFAULT = ("test_vmm_reactions::test_a_page_protected_by_userfault",)
_DELIVER = "vcpu.vm.process.deliver_sigbus(Sigbus(BUS_MCEERR_AR, hva, size.bit_length() - 1))"

OFFLINE = (
    Mutant(
        "offline-page-mapped",
        "Stage 2 does not ask whether the page is hwpoison, and gives it to the guest.",
        (Edit("sim.kvm.stage2:Stage2.page", "if memory.lost(offset):", "if False:"),),
        (*_OFFLINE, "test_sigbus::test_other_memory_goes_on"),
    ),
    Mutant(
        "offline-page-is-efault",
        "A page that is hwpoison makes KVM_RUN fail with EFAULT, and nobody is sent a signal.",
        (Edit(_USER_MEM, _DELIVER, "fail(errno.EFAULT)"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-action-optional",
        "The signal is BUS_MCEERR_AO, as for a page that nobody has touched.",
        (Edit(_USER_MEM, "Sigbus(BUS_MCEERR_AR,", "Sigbus(5,"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-without-a-size",
        "si_addr_lsb is 0.",
        (Edit(_USER_MEM, "size.bit_length() - 1", "0"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-of-two-pages",
        "si_addr_lsb is one too large.",
        (Edit(_USER_MEM, "size.bit_length() - 1", "size.bit_length()"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-with-the-gpa",
        "si_addr is the address in guest physical memory.",
        (Edit(_USER_MEM, "BUS_MCEERR_AR, hva,", "BUS_MCEERR_AR, HostVA(ipa),"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-of-the-next-page",
        "si_addr is the page after the one that is offline.",
        (Edit(_USER_MEM, "BUS_MCEERR_AR, hva,", "BUS_MCEERR_AR, HostVA(hva + size),"),),
        _OFFLINE,
    ),
    Mutant(
        "sigbus-twice",
        "The signal is sent twice.",
        (
            Edit(
                _USER_MEM,
                _DELIVER,
                f"{_DELIVER}\n        {_DELIVER}",
            ),
        ),
        _OFFLINE,
    ),
    Mutant(
        "offline-page-and-serror",
        "The guest gets an SError besides the VMM's signal.",
        (Edit(_USER_MEM, _DELIVER, f"vcpu.inject.serror()\n        {_DELIVER}"),),
        _OFFLINE,
    ),
    Mutant(
        "offline-page-skipped",
        "The access to a page that is offline is skipped.",
        (Edit(_USER_MEM, _DELIVER, f"vcpu.cpu.pc += _INSTRUCTION_SIZE\n        {_DELIVER}"),),
        _OFFLINE,
    ),
    Mutant(
        "whole-block-offline",
        "memory_failure takes the 2 MiB around the page out of service.",
        (
            Edit(
                "sim.process:SimMemory.lost",
                "self.frames.lost(offset)",
                "any(map(self.frames.lost, range(offset // BLOCK * BLOCK, offset // BLOCK * BLOCK + BLOCK, 4096)))",
            ),
        ),
        ("test_sigbus::test_other_memory_goes_on",),
    ),
)
"""A page that is offline before the guest touches it."""

APEI = (
    Mutant(
        "claim-of-another-page",
        "APEI claims the abort and reports the page after the one that was hit.",
        (Edit(_HANDLE, "signal.address,", "HostVA(signal.address + 4096),"),),
        _CLAIMED,
        platforms=_APEI,
        defects=("F1.5",),
    ),
    Mutant(
        "claim-without-an-address",
        "APEI claims the abort, memory_failure finds the page, and the signal has no address.",
        (Edit(_HANDLE, "signal.address,", "HostVA(0),"),),
        _CLAIMED,
        platforms=_APEI,
        defects=("F1.5",),
    ),
    Mutant(
        "claim-as-another-sigbus",
        "APEI claims the abort, and the signal's code is BUS_ADRERR.",
        (Edit(_HANDLE, "BUS_MCEERR_AR if", "2 if"),),
        (*_CLAIMED, "test_firmware_sea::test_apei_claims"),
        platforms=_APEI,
        defects=("F1.5",),
    ),
)
"""An abort that the host's APEI claims."""

MEMSLOTS = (
    Mutant(
        "deleted-slot-stays",
        "A memslot that is deleted stays in stage 2: the guest reads on where the VMM has cut a hole.",
        (Edit("sim.kvm.stage2:Stage2.generation", "self._memslots.generation, ", "0, "),),
        ("test_memslots::test_deleted_slot",),
    ),
    Mutant(
        "hole-not-honoured",
        "A slot is found also for the page below its first.",
        (Edit("sim.kvm.memslots:Memslots.find", "slot.base <= ipa", "slot.base - self.page_size <= ipa"),),
        (*_SPLIT, "test_memslots::test_hole"),
    ),
    Mutant(
        "slot-one-page-too-long",
        "A slot is found also for the page behind its last.",
        (
            Edit(
                "sim.kvm.memslots:Memslots.find",
                "ipa < slot.base + slot.size",
                "ipa < slot.base + slot.size + self.page_size",
            ),
        ),
        (*_SPLIT, "test_memslots::test_hole"),
    ),
    Mutant(
        "readonly-ignored",
        "KVM_MEM_READONLY is taken, and the guest may write all the same.",
        (Edit("sim.kvm.memslots:Memslot.readonly", "bool(self.flags & kvm.KVM_MEM_READONLY)", "False"),),
        ("test_kinds_of_errors::test_read_only_slot",),
    ),
    Mutant(
        "readonly-not-readable",
        "A read-only slot answers loads with an MMIO exit, too.",
        (
            Edit("sim.kvm.stage2:Stage2.page", "access is Access.WRITE and slot.readonly", "slot.readonly"),
            Edit("sim.kvm.abort:handle_abort", "(slot.readonly and _is_write(vcpu.fault.esr))", "slot.readonly"),
        ),
        ("test_kinds_of_errors::test_read_only_slot",),
    ),
    Mutant(
        "overlap-accepted",
        "Two memslots may have the same guest physical memory.",
        (Edit("sim.kvm.memslots:Memslots._check_overlap", "fail(errno.EEXIST)", "pass"),),
        ("test_memslots::test_what_is_refused[overlap]",),
    ),
    Mutant(
        "slot-resized",
        "A memslot may get another size while the guest uses it.",
        (
            Edit(
                "sim.kvm.memslots:Memslots._check_change",
                "(new.userspace_addr, new.size) != (old.userspace_addr, old.size)",
                "new.userspace_addr != old.userspace_addr",
            ),
        ),
        ("test_memslots::test_what_is_refused[size]",),
    ),
    Mutant(
        "slot-moved-in-the-vmm",
        "A memslot may get another address of the VMM's while the guest uses it.",
        (
            Edit(
                "sim.kvm.memslots:Memslots._check_change",
                "(new.userspace_addr, new.size) != (old.userspace_addr, old.size)",
                "new.size != old.size",
            ),
        ),
        ("test_memslots::test_what_is_refused[address]",),
    ),
    Mutant(
        "slot-not-aligned",
        "A memslot may begin in the middle of a page.",
        (
            Edit(
                "sim.kvm.memslots:Memslots._check_form",
                "new.size | new.base | new.userspace_addr",
                "new.size | new.userspace_addr",
            ),
        ),
        ("test_memslots::test_what_is_refused[alignment]",),
    ),
    Mutant(
        "slot-flags-ignored",
        "Flags of a memslot that nobody has defined are accepted.",
        (Edit("sim.kvm.memslots:Memslots._check_form", "if new.flags & ~known_flags:", "if False:"),),
        ("test_memslots::test_what_is_refused[flags]",),
    ),
    Mutant(
        "nothing-deleted",
        "Deleting a memslot that does not exist succeeds.",
        (Edit("sim.kvm.memslots:Memslots._delete", "        fail(errno.EINVAL)", "        return"),),
        ("test_memslots::test_what_is_refused[nothing]",),
    ),
)
"""Memslots, by which a VMM takes a bad page out of stage 2."""

USERFAULT = (
    Mutant(
        "userfault-bit-ignored",
        "The bitmap of KVM userfault is not looked at.",
        (Edit("sim.kvm.memslots:Memslot.is_userfault", "if not self.userfault_bitmap:", "if True:"),),
        _USERFAULT,
        platforms=("userfault",),
    ),
    Mutant(
        "userfault-bit-order",
        "The bits of the bitmap are counted from the other end of each byte.",
        (Edit("sim.kvm.memslots:Memslot.is_userfault", "index % 8 & 1", "(7 - index % 8) & 1"),),
        _USERFAULT,
        platforms=("userfault",),
    ),
    Mutant(
        "userfault-of-another-page",
        "The bit is that of the page's number in guest physical memory, and not in the slot.",
        (
            Edit(
                "sim.kvm.memslots:Memslot.is_userfault",
                "(ipa - self.base) // page_size",
                "ipa // page_size % (self.size // page_size) ^ 1",
            ),
        ),
        _USERFAULT,
        platforms=("userfault",),
    ),
    Mutant(
        "memory-fault-without-an-address",
        "KVM_EXIT_MEMORY_FAULT does not say which page.",
        (Edit(_FAULT, "memory_fault.gpa = ipa // size * size", "memory_fault.gpa = 0"),),
        _USERFAULT,
        platforms=("userfault",),
    ),
    Mutant(
        "memory-fault-without-a-reason",
        "KVM_RUN fails with EFAULT, and the exit reason is another one.",
        (Edit(_FAULT, "vcpu.run_page.exit_reason = kvm.Exit.MEMORY_FAULT", "pass"),),
        _USERFAULT,
        platforms=("userfault",),
    ),
)
"""KVM userfault, as it was proposed."""

MUTANTS = (*OFFLINE, *APEI, *MEMSLOTS, *USERFAULT)
