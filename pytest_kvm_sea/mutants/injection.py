# SPDX-License-Identifier: GPL-2.0-only
"""Bugs in how KVM puts an exception into a vCPU (inject_fault.c, hyp/exception.c)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit, Value
from pytest_kvm_sea.mutants.mutant import Mutant

_SEA = "sim.kvm.inject:Injector.sea"
_SERROR = "sim.kvm.inject:Injector.serror"
_COMMIT = "sim.kvm.inject:Injector.commit"
_CLASS = "sim.kvm.inject:Injector._abort_class"
_PEND = "sim.kvm.inject:Injector._pend"
_BEHAVIOUR = "sim.kvm.behaviour:behaviour_of"
_ENTER = "self._cpu.enter_exception(vector, self._cpu.sysregs[_ESR_EL1], None)"
_ABORTS = ("test_external_aborts::test_mmio_abort", "test_vcpu_events::test_abort")
_REPLAYED = ("test_sea_to_user::test_access[ldr-x]",)
_EMULATED = ("test_external_aborts::test_serror_emulated",)
_UNMASKED = ("test_vcpu_events::test_serror[unmasked]",)
_WALK = ("test_external_aborts::test_s1ptw_abort",)


def _after_entry(code: str) -> tuple[Edit, ...]:
    """Do something to the registers when the exception has been entered; ``cpu`` is the processor."""
    return (Edit(_COMMIT, _ENTER, f"cpu = self._cpu\n    {_ENTER}\n    {code}"),)


def _before_entry(code: str) -> tuple[Edit, ...]:
    """Do something to the registers before the exception is entered."""
    return (Edit(_COMMIT, _ENTER, f"cpu = self._cpu\n    {code}\n    {_ENTER}"),)


SYNDROME = (
    Mutant(
        "class-of-el1",
        "The class says that the abort is from the exception level that takes it, also where it is from EL0.",
        (Edit(_CLASS, "self._cpu.pstate & _MODE_MASK == 0", "False"),),
        (
            "test_external_aborts::test_mmio_abort[el0]",
            "test_sea_to_user::test_access[ldr-x,el0]",
            "test_inject_iabt::test_data_abort_is_still_a_data_abort[el0]",
        ),
        defects=("F3.4", "F2.5"),
    ),
    Mutant(
        "class-of-el0",
        "The class says that the abort is from a lower exception level, also where it is from EL1.",
        (Edit(_CLASS, "self._cpu.pstate & _MODE_MASK == 0", "True"),),
        (
            "test_external_aborts::test_mmio_abort[el1]",
            "test_vcpu_events::test_abort",
            "test_sea_to_user::test_access[ldr-x,el1]",
        ),
    ),
    Mutant(
        "class-of-data",
        "An instruction abort is injected as a data abort.",
        (Edit(_CLASS, "if instruction:", "if False:"),),
        (
            "test_inject_iabt::test_inject_iabt",
            "test_inject_iabt::test_before_the_first_run[events]",
            "test_inject_iabt::test_at_el0[events]",
            "test_external_aborts::test_fetch_without_memory",
            "test_vmm_reactions::test_an_abort_of_the_wrong_class",
        ),
        platforms=("series-v1",),
        defects=("F2.1",),
    ),
    Mutant(
        "fsc-of-a-tag-fault",
        "The status code is 0x11.",
        (Edit(_SEA, "| status |", "| status | 1 |"),),
        (*_ABORTS, "test_external_aborts::test_mmio_nisv_abort"),
        defects=("F3.3",),
    ),
    Mutant(
        "injected-without-il",
        "IL is 0 in what KVM injects.",
        (Edit("sim.kvm.inject:Injector._il", "return syndromes.IL", "return 0"),),
        (*_ABORTS, *_EMULATED, *_UNMASKED, "test_inject_iabt::test_il_bit[ext-dabt]"),
        defects=("F3.3",),
    ),
    Mutant(
        "il-of-the-last-trap",
        "IL is copied from ESR_EL2, where a vCPU that never ran has none (as before 7.2).",
        (Edit(_BEHAVIOUR, "il_from_last_trap=kernel.il_from_last_trap", "il_from_last_trap=True"),),
        ("test_vcpu_events::test_serror_before_the_first_run", "test_inject_iabt::test_il_bit[ext-dabt]"),
        defects=("F3.5",),
    ),
    Mutant(
        "wnr-carried-over",
        "WnR of the abort that KVM took goes into the one that it injects.",
        (Edit(_SEA, "| status |", "| status | self._fault.esr & syndromes.WNR |"),),
        ("test_external_aborts::test_mmio_abort[str-w]",),
        defects=("F3.3",),
    ),
    Mutant(
        "raw-esr-injected",
        "The guest gets ESR_EL2 for its ESR_EL1: class, status and all.",
        (Edit(_PEND, "self._cpu.sysregs[_ESR_EL1] = esr", "self._cpu.sysregs[_ESR_EL1] = self._fault.esr or esr"),),
        (
            "test_external_aborts::test_mmio_abort",
            "test_vcpu_events::test_abort",
            "test_sea_to_user::test_access[ldr-x,el1]",
        ),
        defects=("F3.3",),
    ),
    Mutant(
        "fnv-lost",
        "What the first version of the series promised: FnV of the abort in the injected syndrome.",
        (Edit(_BEHAVIOUR, "injects_fnv=series", "injects_fnv=False"),),
        ("test_sea_to_user::test_sea_to_user[anonymous]",),
        platforms=("series-v1-neoverse-v2",),
    ),
    Mutant(
        "fnv-always",
        "FnV is set whether or not the address is known.",
        (Edit(_SEA, "if self._behaviour.injects_fnv and self._fault.esr & syndromes.FNV:", "if True:"),),
        (*_ABORTS, *_REPLAYED, "test_sea_to_user::test_sea_to_user[anonymous]"),
        defects=("F3.3",),
    ),
    Mutant(
        "far-left-alone",
        "FAR_EL1 is not written: the guest looks at the address of an older abort.",
        (Edit(_PEND, "if far is not None:", "if False:"),),
        (
            "test_external_aborts::test_mmio_abort",
            "test_external_aborts::test_s1ptw_abort",
            "test_vcpu_events::test_abort",
            "test_vcpu_events::test_a_second_abort_nests",
            *_REPLAYED,
        ),
        defects=("F3.3", "F3.5"),
    ),
    Mutant(
        "far-is-the-gpa",
        "FAR_EL1 is the address in guest physical memory.",
        (Edit("sim.kvm.events:_set_abort", "vcpu.fault.far", "vcpu.fault.ipa or 0"),),
        _REPLAYED,
    ),
    Mutant(
        "far-of-an-serror",
        "FAR_EL1 is written for an SError, too, which has no address.",
        (Edit(_SERROR, "| iss, None)", "| iss, self._fault.far ^ 8)"),),
        (*_EMULATED, *_UNMASKED),
        defects=("F3.3",),
    ),
    Mutant(
        "size-fault-beyond-the-vm",
        "An address beyond the VM's IPA space is an address size fault, as one beyond the host's is.",
        (
            Edit(
                "sim.kvm.abort:_beyond_ipa_space",
                "    if ipa >> vcpu.vm.behaviour.ipa_limit:",
                "    if ipa >> vcpu.vm.ipa_bits:",
            ),
        ),
        ("test_external_aborts::test_beyond_the_ipa_space",),
        defects=("F3.4",),
    ),
    Mutant(
        "walk-level-above",
        "The level is that of the table that points to the descriptor.",
        (Edit("sim.kvm.inject:Injector._abort_status", "fsc_sea_walk(level)", "fsc_sea_walk(level - 1)"),),
        _WALK,
    ),
    Mutant(
        "walk-without-a-level",
        "An abort on the guest's own walk is injected as an ordinary one (as before 7.0).",
        (Edit(_BEHAVIOUR, "s1ptw_level=kernel.s1ptw_level", "s1ptw_level=False"),),
        _WALK,
    ),
    Mutant(
        "walk-level-known-too-early",
        "A kernel that is known for telling no level tells it: the known defect is gone, and the mark has to go.",
        (Edit(_BEHAVIOUR, "s1ptw_level=kernel.s1ptw_level", "s1ptw_level=True"),),
        _WALK,
        platforms=("mainline-6.19",),
    ),
)
"""Syndrome and address."""

ENTRY = (
    Mutant(
        "elr-of-the-next-instruction",
        "ELR_EL1 is the instruction after the one that is to blame.",
        _before_entry("cpu.pc += 4"),
        (*_ABORTS, *_EMULATED, *_REPLAYED),
    ),
    Mutant(
        "elr-off-by-4-for-serror",
        "ELR_EL1 of an SError is the instruction before the one that is to run next.",
        _before_entry("cpu.pc -= 4 if vector == _SERROR else 0"),
        (*_EMULATED, *_UNMASKED),
    ),
    Mutant(
        "spsr-of-the-handler",
        "SPSR_EL1 is PSTATE as the entry leaves it.",
        _after_entry('cpu.sysregs[sysreg("spsr_el1")] = cpu.pstate'),
        (
            "test_vcpu_events::test_abort",
            "test_external_aborts::test_mmio_abort[el0]",
            "test_sea_to_user::test_access[ldr-x,el0]",
            *_UNMASKED,
        ),
        defects=("F3.3",),
    ),
    Mutant(
        "serror-not-masked",
        "The entry leaves PSTATE.A as it was, so that an SError nests in the handler of an abort.",
        (
            Edit(
                _COMMIT,
                _ENTER,
                f"masked = self._cpu.pstate & _PSTATE_A\n    {_ENTER}\n    self._cpu.pstate &= masked | ~_PSTATE_A",
            ),
        ),
        ("test_vcpu_events::test_abort_and_serror_in_one_call[unmasked]", "test_external_aborts::test_mmio_abort[el0]"),
        defects=("F3.3",),
    ),
    Mutant(
        "interrupts-not-masked",
        "The entry does not set PSTATE.I.",
        _after_entry("cpu.pstate &= ~(1 << 7)"),
        (*_ABORTS, *_UNMASKED),
        defects=("F3.3",),
    ),
    Mutant(
        "pan-set",
        "The entry sets PSTATE.PAN although SCTLR_EL1.SPAN is 1.",
        _after_entry("cpu.pstate |= 1 << 22"),
        _ABORTS,
        defects=("F3.3",),
    ),
    Mutant(
        "pan-lost",
        "The entry clears PSTATE.PAN, which only a clear SCTLR_EL1.SPAN may change, and to 1.",
        _after_entry("cpu.pstate &= ~(1 << 22)"),
        ("test_vcpu_events::test_flags_come_through[pan]",),
        defects=("F3.3",),
    ),
    Mutant(
        "nzcv-lost",
        "The entry clears the condition flags.",
        _after_entry("cpu.pstate &= ~(0xF << 28)"),
        ("test_vcpu_events::test_flags_come_through[nzcv]",),
        defects=("F3.3",),
    ),
    Mutant(
        "mode-el1t",
        "The handler starts on SP_EL0: the mode is EL1t.",
        _after_entry("cpu.pstate &= ~1"),
        (*_ABORTS, *_UNMASKED),
    ),
    Mutant(
        "vector-of-the-same-level",
        "An exception from EL0 goes to the vector for those from EL1.",
        (Edit(_COMMIT, _ENTER, f"lower = not self._cpu.el\n    {_ENTER}\n    self._cpu.pc -= 0x200 * lower"),),
        (
            "test_external_aborts::test_mmio_abort[el0]",
            "test_external_aborts::test_serror_emulated[el0]",
            "test_sea_to_user::test_access[ldr-x,el0]",
            "test_blast_radius::test_one_process_dies[events]",
        ),
        defects=("F3.4",),
    ),
    Mutant(
        "vector-of-aarch32",
        "An exception from EL0 goes to the vector for those from AArch32.",
        (Edit(_COMMIT, _ENTER, f"lower = not self._cpu.el\n    {_ENTER}\n    self._cpu.pc += 0x200 * lower"),),
        ("test_external_aborts::test_mmio_abort[el0]", "test_external_aborts::test_serror_emulated[el0]"),
        defects=("F3.4",),
    ),
    Mutant(
        "abort-at-the-serror-vector",
        "An abort goes to the vector of SErrors also without SCTLR2_EL1.EASE.",
        (Edit(_SEA, "_SERROR if self._sctlr2(_SCTLR2_EASE) else _SYNC", "_SERROR"),),
        (*_ABORTS, *_REPLAYED),
    ),
    Mutant(
        "serror-at-the-abort-vector",
        "An SError that KVM enters goes to the synchronous vector.",
        (Edit(_SERROR, "self._pend(_SERROR", "self._pend(_SYNC"),),
        (*_EMULATED, *_UNMASKED, "test_sea_to_user::test_capability_off"),
    ),
    Mutant(
        "ease-unknown",
        "SCTLR2_EL1 is not looked at: neither EASE nor NMEA counts.",
        (Edit("sim.kvm.inject:Injector._sctlr2", "self._behaviour.ease and", "False and"),),
        ("test_external_aborts::test_mmio_ease", "test_external_aborts::test_serror_nmea"),
        platforms=("double-fault2",),
    ),
    Mutant(
        "nmea-is-another-bit",
        "SCTLR2_EL1.EnANERR is taken for NMEA.",
        (Value("sim.kvm.inject:_SCTLR2_NMEA", 1 << 4),),
        ("test_external_aborts::test_serror_nmea",),
        platforms=("double-fault2",),
    ),
    Mutant(
        "only-marked",
        "What KVM_SET_VCPU_EVENTS injects is entered by the next KVM_RUN only (as before 6.17).",
        (Edit(_BEHAVIOUR, "immediate=kernel.immediate_injection", "immediate=False"),),
        ("test_vcpu_events::test_entered_by_the_ioctl",),
        defects=("F3.5",),
    ),
)
"""What an entry makes of PC, PSTATE and the rest."""

PENDING = (
    Mutant(
        "serror-without-ids",
        "KVM's own SError says nothing at all, not even that it says nothing (ISS.IDS).",
        (Value("sim.kvm.inject:_SERROR_NO_SYNDROME", 0),),
        (
            "test_external_aborts::test_serror_emulated[no-esr]",
            "test_vcpu_events::test_serror[no-esr]",
            "test_sea_to_user::test_capability_off",
        ),
    ),
    Mutant(
        "serror-without-its-syndrome",
        "The syndrome that the VMM gave is lost.",
        (Edit(_SERROR, "if syndrome is None else syndrome", "if True else syndrome"),),
        (
            "test_external_aborts::test_serror_emulated[el1-esr]",
            "test_external_aborts::test_serror_emulated[el0-esr]",
            "test_vcpu_events::test_serror[esr-all]",
            "test_vcpu_events::test_serror[esr-0]",
        ),
    ),
    Mutant(
        "serror-mask-ignored",
        "A masked SError is entered all the same.",
        (Edit("sim.kvm.inject:Injector._serror_masked", "return bool(self._cpu.pstate & _PSTATE_A)", "return False"),),
        (
            "test_external_aborts::test_serror[masked]",
            "test_external_aborts::test_masked_serror_lets_mmio_complete",
            "test_vcpu_events::test_serror[masked]",
            "test_vcpu_events::test_abort_and_serror_in_one_call",
        ),
    ),
    Mutant(
        "serror-lost-when-masked",
        "A masked SError is dropped when it is injected.",
        (Edit(_SERROR, "self._cpu.vserror = iss & SERROR_ISS_MASK", "pass"),),
        (
            "test_external_aborts::test_serror",
            "test_vcpu_events::test_serror[masked]",
            "test_vcpu_events::test_abort_and_serror_in_one_call",
        ),
    ),
    Mutant(
        "serror-lost-when-unmasked",
        "A masked SError is forgotten when the guest unmasks it.",
        (
            Edit(
                "cpu.exceptions:Exceptions.take_pending_serror",
                "    esr = syndrome(",
                "    self.vserror = None\n    return False\n    esr = syndrome(",
            ),
        ),
        ("test_external_aborts::test_serror[unmasked]", "test_vcpu_events::test_serror[masked]"),
    ),
    Mutant(
        "serror-twice",
        "An SError that KVM enters by software is also left to the hardware.",
        (
            Edit(
                _SERROR,
                "        self._pend(_SERROR",
                "        self._cpu.vserror = iss & SERROR_ISS_MASK\n        self._pend(_SERROR",
            ),
        ),
        (*_UNMASKED, "test_vcpu_events::test_entered_by_the_ioctl"),
        defects=("F3.5",),
    ),
    Mutant(
        "serror-stays",
        "A virtual SError that was taken stays pending.",
        (
            Edit(
                "cpu.exceptions:Exceptions.take_pending_serror",
                "    self.vserror = None\n",
                "",
            ),
        ),
        (
            "test_vcpu_events::test_serror[masked,no-esr]",
            "test_vcpu_events::test_serror_is_overwritten_and_never_cancelled",
        ),
        defects=("F3.5",),
    ),
)
"""SErrors."""

MUTANTS = (*SYNDROME, *ENTRY, *PENDING)
