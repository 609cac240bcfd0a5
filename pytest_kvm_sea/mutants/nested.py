# SPDX-License-Identifier: GPL-2.0-only
"""Bugs in how KVM deals with a guest that is a hypervisor (nested.c, emulate-nested.c, inject_fault.c)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant

_MAINLINE = ("nested",)
_BOTH = ("nested", "nested-series-v1")
_CLASS = "sim.kvm.nested:Nested"
_INJECT = f"{_CLASS}.inject"
_SEA = f"{_CLASS}.inject_sea"
_ABORT = "test_nested::test_abort"
_SERROR = "test_nested::test_serror"
_TO_L2 = (f"{_ABORT}[l2-el1-own]", f"{_ABORT}[l2-el0-own]")
_TO_EL2 = (f"{_ABORT}[l2-el1-tea]", f"{_ABORT}[l2-el0-tea]")
_SERROR_TO_EL2 = (f"{_SERROR}[l2-el1-amo]", f"{_SERROR}[l2-el0-amo]")

MUTANTS = (
    Mutant(
        "nested-tea-ignored",
        "HCR_EL2.TEA is not looked at: an abort of L2 goes to L2.",
        (Edit(f"{_CLASS}.takes_sea", "HCR_TGE | HCR_TEA", "HCR_TGE"),),
        _TO_EL2,
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-tea-always",
        "Every abort of L2 goes to the guest hypervisor, whatever HCR_EL2.TEA says.",
        (Edit(f"{_CLASS}.takes_sea", "return bool(cpu.el and", "return bool(True or"),),
        (*_TO_L2, "test_nested::test_sea[l2-el1-own,events]"),
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-amo-ignored",
        "HCR_EL2.AMO is not looked at: an SError of L2 goes to L2.",
        (Edit(f"{_CLASS}.takes_serror", "if self.hcr & HCR_AMO:", "if False:"),),
        _SERROR_TO_EL2,
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-amo-when-unmasked",
        "An SError that is the guest hypervisor's waits until L2 unmasks it.",
        (Edit(f"{_CLASS}.takes_serror", "if self.hcr & HCR_AMO:", "if self.hcr & HCR_AMO and not masked:"),),
        (f"{_SERROR}[l2-el1-amo,masked]", f"{_SERROR}[l2-el0-amo,masked]"),
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-amo-always",
        "Every SError of L2 goes to the guest hypervisor.",
        (Edit(f"{_CLASS}.takes_serror", "if self.hcr & HCR_AMO:", "if True:"),),
        (f"{_SERROR}[l2-el1-own,unmasked]", f"{_SERROR}[l2-el0-own]"),
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-current-vector",
        "An abort that the guest hypervisor takes from its guest comes by the vector for its own.",
        (Edit(_INJECT, "below=before if from_l2 else None", "below=None"),),
        (_TO_EL2[0], _SERROR_TO_EL2[0], "test_nested::test_hypercall"),
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-current-class",
        "The class of an abort of L2 says that it is from EL2 itself.",
        (
            Edit(
                _SEA,
                "EC.IABT_LOWER if instruction else EC.DABT_LOWER",
                "EC.IABT_CURRENT if instruction else EC.DABT_CURRENT",
            ),
        ),
        _TO_EL2,
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-mode-of-el2",
        "SPSR_EL2 says that what was interrupted is EL2.",
        (Edit(_INJECT, "before = self._cpu.pstate", "before = self._cpu.pstate & ~0xF | 9"),),
        (*_TO_EL2, *_SERROR_TO_EL2, "test_nested::test_behind_the_hypervisors_stage_2[unmapped]"),
        platforms=_MAINLINE,
    ),
    Mutant(
        "nested-registers-not-swapped",
        "The registers of EL1 are those of EL2, whoever runs.",
        (Edit(f"{_CLASS}._change", "cpu.sysregs.update(self._swapped())", "self._swapped()"),),
        (*_TO_L2, f"{_SERROR}[l2-el1-own,unmasked]"),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-one-stack",
        "EL1 of L2 has the stack pointer of EL2.",
        (Edit(f"{_CLASS}._change", "cpu.sp_el1, self._parked_sp = self._parked_sp, cpu.sp_el1", "pass"),),
        ("test_nested::test_stacks",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-el1-names",
        "The VMM sees EL2's registers under EL1's names while the guest hypervisor runs.",
        (
            Edit(
                f"{_CLASS}.locate",
                "return (parked if self.hypervisor else mine), reg",
                "return mine, reg",
            ),
        ),
        ("test_nested::test_registers",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-tge-ignored",
        "EL0 is always that of L2, also under HCR_EL2.TGE.",
        (Edit(f"{_CLASS}.set_pstate", "bool(self.hcr & HCR_TGE)", "False"),),
        ("test_nested::test_sea[el2-el0]", f"{_SERROR}[el2-el0]"),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-stage2-ignored",
        "L2 does not live behind the guest hypervisor's stage 2.",
        (Edit(f"{_CLASS}._load_stage2", "shadowed = self.in_l2 and self.hcr & HCR_VM", "shadowed = False"),),
        ("test_nested::test_behind_the_hypervisors_stage_2",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-hpfar-not-shifted",
        "HPFAR_EL2 holds the address, and not its page in bits 43:4.",
        (Edit(f"{_CLASS}.inject_stage2_fault", "ipa >> 12 << 4 |", "ipa |"),),
        ("test_nested::test_behind_the_hypervisors_stage_2[unmapped]",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-fault-without-far",
        "A fault of the guest hypervisor's stage 2 leaves FAR_EL2 alone.",
        (
            Edit(
                f"{_CLASS}.inject_stage2_fault",
                "esr & ~syndromes.FSC_MASK | status, far)",
                "esr & ~syndromes.FSC_MASK | status, None)",
            ),
        ),
        ("test_nested::test_behind_the_hypervisors_stage_2[unmapped]",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-hypercall-answered",
        "KVM answers the hypercalls of L2 itself.",
        (Edit("sim.kvm.vcpu:Vcpu._hypercall", "if self.nested is not None:", "if False:"),),
        ("test_nested::test_hypercall",),
        platforms=_BOTH,
    ),
    Mutant(
        "nested-fnv-lost",
        "The series sets FnV in ESR_EL1, and not where an abort goes to EL2.",
        (
            Edit(
                "sim.kvm.inject:Injector.sea",
                "if self._behaviour.injects_fnv and",
                "if self._behaviour.injects_fnv and not self._cpu.nv and",
            ),
        ),
        ("test_nested::test_sea[el2-own,events]", "test_nested::test_sea[el2-el0-own,events]"),
        platforms=("nested-series-v1",),
    ),
)
