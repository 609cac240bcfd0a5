# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of KVM_RUN, MMIO, and of the vCPU's other ioctls (arm.c, mmio.c)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit, Value
from pytest_kvm_sea.mutants.mutant import Mutant

_RUN = "sim.kvm.vcpu:Vcpu._run"
_LOOP = "sim.kvm.vcpu:Vcpu._enter_until_exit"
_NO_MEMORY = "sim.kvm.abort:_no_memory"
_MMIO = "sim.kvm.mmio:Mmio.abort"
_COMPLETE = "sim.kvm.mmio:Mmio.complete"
_NISV = ("test_external_aborts::test_mmio_nisv_abort",)
_COMPLETED = ("test_external_aborts::test_mmio_completes_without_abort",)

MUTANTS = (
    Mutant(
        "mmio-completed",
        "The abort is entered, and the MMIO that it is for is completed on top of it.",
        (
            Edit(
                "sim.kvm.vcpu:Vcpu._enter_pending",
                "if self.inject.commit():\n        self.mmio.needed = False",
                "self.inject.commit()",
            ),
        ),
        ("test_external_aborts::test_mmio_abort", "test_external_aborts::test_unmasked_serror_and_mmio"),
    ),
    Mutant(
        "mmio-never-completed",
        "An SError that only pends makes the MMIO void as well.",
        (
            Edit(
                "sim.kvm.vcpu:Vcpu._enter_pending",
                "if self.inject.commit():",
                "if self.inject.commit() or self.cpu.vserror is not None:",
            ),
        ),
        ("test_external_aborts::test_masked_serror_lets_mmio_complete",),
    ),
    Mutant(
        "mmio-answer-cut",
        "A load of 8 bytes gets 4 bytes of the VMM's answer.",
        (Edit("sim.kvm.mmio:Mmio._write_back", "if not esr & syndromes.SF:", "if True:"),),
        _COMPLETED,
    ),
    Mutant(
        "mmio-direction",
        "is_write is set for loads and not for stores.",
        (Edit(_MMIO, "int(bool(esr & syndromes.WNR))", "int(not esr & syndromes.WNR)"),),
        ("test_external_aborts::test_mmio_abort", *_COMPLETED),
    ),
    Mutant(
        "nisv-exit-unasked",
        "KVM_EXIT_ARM_NISV comes although KVM_CAP_ARM_NISV_TO_USER was not enabled.",
        (Edit(_MMIO, "if not nisv_to_user:", "if False:"),),
        ("test_external_aborts::test_mmio_nisv",),
    ),
    Mutant(
        "nisv-skips-the-instruction",
        "An access that KVM cannot decode is skipped when it is refused.",
        (
            Edit(
                _MMIO,
                "            fail(errno.ENOSYS)",
                "            self._cpu.pc += _INSTRUCTION_SIZE\n            fail(errno.ENOSYS)",
            ),
        ),
        ("test_external_aborts::test_mmio_nisv",),
    ),
    Mutant(
        "nisv-address-of-the-page",
        "fault_ipa has no offset in the page.",
        (Edit(_NO_MEMORY, "ipa | fault.far & _OFFSET_MASK", "ipa"),),
        _NISV,
    ),
    Mutant(
        "nisv-raw-syndrome",
        "esr_iss shows all of the ISS.",
        (Value("sim.kvm.mmio:_NISV_MASK", (1 << 26) - 1),),
        _NISV,
        defects=("F3.3",),
    ),
    Mutant(
        "nisv-without-wnr",
        "esr_iss does not say that the access was a store.",
        (Value("sim.kvm.mmio:_NISV_MASK", 0x13F),),
        ("test_external_aborts::test_mmio_nisv_abort[stp]",),
        defects=("F3.3",),
    ),
    Mutant(
        "fetch-as-mmio",
        "Code where there is no memory is taken for an MMIO.",
        (Edit("sim.kvm.abort:_is_fetch", "return syndromes.ec(esr) == EC.IABT_LOWER", "return False"),),
        ("test_external_aborts::test_fetch_without_memory", "test_external_aborts::test_s1ptw_abort[fetch]"),
        defects=("F3.4",),
    ),
    Mutant(
        "walk-as-mmio",
        "A table walk where there is no memory is taken for an MMIO.",
        (Edit(_NO_MEMORY, "if fault.esr & syndromes.S1PTW:", "if False:"),),
        ("test_external_aborts::test_s1ptw_abort[ldr-x]",),
        defects=("F3.4",),
    ),
    Mutant(
        "immediate-exit-runs-guest-code",
        "immediate_exit is looked at after the guest has run.",
        (
            Edit(
                _RUN,
                "            fail(errno.EINTR)\n",
                "            self._enter_pending()\n            self._run_slice()\n            fail(errno.EINTR)\n",
            ),
        ),
        (
            "test_vcpu_events::test_abort",
            "test_vcpu_events::test_a_second_abort_nests",
            "test_external_aborts::test_mmio_abort",
        ),
        defects=("F3.5",),
    ),
    Mutant(
        "immediate-exit-without-eintr",
        "With immediate_exit KVM_RUN returns 0.",
        (Edit(_RUN, "fail(errno.EINTR)", "return 0"),),
        ("test_vcpu_events::test_abort", "test_vcpu_events::test_wide_syndrome"),
    ),
    Mutant(
        "immediate-exit-before-mmio",
        "immediate_exit is looked at before an MMIO is completed, so that the VMM cannot have one completed.",
        (
            Edit(
                _RUN,
                "    self._first_run()\n",
                "    self._first_run()\n    if self.run_page.immediate_exit:\n        fail(errno.EINTR)\n",
            ),
        ),
        ("test_vcpu_events::test_serror[unmasked]",),
    ),
    Mutant(
        "signal-noticed-late",
        "A signal is looked at only after the guest has trapped, so that nothing ends a guest that does not.",
        (
            Edit(_LOOP, "        if self._signal.is_set():\n            self._take_signal()\n", ""),
            Edit(
                _LOOP,
                "            return 0\n",
                "            return 0\n        if self._signal.is_set():\n            self._take_signal()\n",
            ),
        ),
        ("test_vcpu_threads::test_signal_ends_the_run",),
        defects=("F1.25",),
    ),
    Mutant(
        "signal-without-eintr",
        "A signal ends KVM_RUN with 0 in place of EINTR.",
        (Edit(_LOOP, "self._take_signal()", "self._signal.clear()\n            return 0"),),
        ("test_vcpu_threads::test_signal_ends_the_run",),
    ),
    Mutant(
        "no-vcpu-mutex",
        "The vCPU's ioctls do not wait for KVM_RUN: events are put into registers that are on the processor.",
        (Edit("sim.kvm.vcpu:Vcpu.ioctl", "with self._lock:", "if True:"),),
        ("test_vcpu_threads::test_events_wait_for_the_run",),
    ),
)
