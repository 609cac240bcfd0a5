# SPDX-License-Identifier: GPL-2.0-only
"""Bugs around KVM_EXIT_ARM_SEA: when it comes, and what it says (mmu.c kvm_handle_guest_sea and what it calls)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant

_GUEST_SEA = "sim.kvm.abort:_guest_sea"
_EXIT = "sim.kvm.sea:exit_to_user"
_VISIBLE = "sim.kvm.sea:_visible"
_OWNS = "sim.kvm.sea:host_owns_sea"
_RECORD = "sim.kvm.fault:FaultInfo.record"
_WALKS = ("test_sea_to_user::test_error_in_page_tables", "test_firmware_sea::test_access")
_ORIGINAL = ("test_sea_to_user::test_sea_to_user[anonymous]",)
_EVERY_ACCESS = ("test_sea_to_user::test_access[ldr-x]", "test_firmware_sea::test_access[ldr-x]")
_UNCHANGED = ("test_sea_to_user::test_exit_changes_nothing", "test_firmware_sea::test_exit_changes_nothing")
_CAPABILITY = ("test_sea_to_user::test_capability",)


def _shows(mask: str) -> Edit:
    """Show other bits of ESR_EL2 than those that the VMM may see."""
    return Edit(_VISIBLE, "    return mask\n", f"    return mask & {mask}\n")


def _before_exit(code: str) -> Edit:
    """Do something more before the exit."""
    return Edit(_GUEST_SEA, "    sea.exit_to_user(", f"    {code}\n    sea.exit_to_user(")


WHETHER = (
    Mutant(
        "exit-by-default",
        "The exit is on although nobody enabled the capability.",
        (Edit("sim.kvm.vm:Vm.__init__", "self.exits_on_sea = False", "self.exits_on_sea = True"),),
        ("test_sea_to_user::test_capability_off", "test_blast_radius::test_everything_dies_without_the_exit"),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-never",
        "The flag that KVM_ENABLE_CAP sets is looked at nowhere.",
        (Edit(_GUEST_SEA, "not vcpu.vm.exits_on_sea", "True"),),
        (*_ORIGINAL, "test_firmware_sea::test_access[ldr-x,el1,events]"),
    ),
    Mutant(
        "exit-of-any-vm",
        "The flag is the host's and not the VM's: one VM that enables the exit enables it for all.",
        (Edit(_GUEST_SEA, "vcpu.vm.exits_on_sea", "any(vm.exits_on_sea for vm in vcpu.vm._machine.vms)"),),
        ("test_sea_to_user::test_capability_of_another_vm",),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-for-el1-only",
        "Aborts of guest user space are not given to the VMM.",
        (Edit(_GUEST_SEA, "not vcpu.vm.exits_on_sea", "not (vcpu.vm.exits_on_sea and vcpu.cpu.el)"),),
        ("test_sea_to_user::test_access[ldr-x,el0]", "test_blast_radius::test_one_process_dies"),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-for-data-only",
        "Instruction aborts are not given to the VMM.",
        (Edit(_GUEST_SEA, "not vcpu.vm.exits_on_sea", "not vcpu.vm.exits_on_sea or _is_fetch(vcpu.fault.esr)"),),
        ("test_sea_to_user::test_replay_by_registers[fetch]", "test_firmware_sea::test_fetch"),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-only-once",
        "The exit switches itself off; the abort comes as an SError when the VMM runs the vCPU again.",
        (_before_exit("vcpu.vm.exits_on_sea = False"),),
        (*_UNCHANGED, "test_sea_to_user::test_two_vcpus_read_the_same_cell"),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-although-claimed",
        "The return after apei_claim_sea is missing: the VMM gets the exit as well as the SIGBUS.",
        (Edit(_GUEST_SEA, "(vcpu.fault.poison):\n        return True", "(vcpu.fault.poison):\n        pass"),),
        ("test_firmware_sea::test_apei_claims",),
    ),
    Mutant(
        "claim-not-asked-for",
        "apei_claim_sea is not called: what firmware recorded is left unread.",
        (Edit(_GUEST_SEA, "vcpu.vm.apei.claim_sea(vcpu.fault.poison)", "False"),),
        ("test_firmware_sea::test_apei_claims",),
    ),
    Mutant(
        "exit-without-ras",
        "host_owns_sea does not ask for FEAT_RAS, without which nobody knows whose abort it is.",
        (Edit(_OWNS, "if not behaviour.ras:\n        return True", "if not behaviour.ras:\n        return False"),),
        ("test_sea_to_user::test_without_ras_mainline_never_exits[on]",),
        platforms=("no-ras-parity",),
    ),
    Mutant(
        "exit-for-the-hosts-tables",
        "host_owns_sea is not asked: the exit comes also where a table of the host's fails under the guest's own walk.",
        (Edit(_GUEST_SEA, " or sea.host_owns_sea(behaviour, vcpu.fault.esr)", ""),),
        ("test_kinds_of_errors::test_who_owns_an_error_under_a_page_table",),
    ),
    Mutant(
        "host-owns-every-walk",
        "host_owns_sea forgets S1PTW: an error in the guest's own tables is kept from the VMM.",
        (Edit(_OWNS, "is_sea_on_walk(esr) and bool(esr & syndromes.S1PTW)", "is_sea_on_walk(esr)"),),
        ("test_sea_to_user::test_error_in_page_tables[1]", "test_firmware_sea::test_access[ldr-x,el1,events]"),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-and-serror",
        "The SError of old is injected besides the exit.",
        (_before_exit("vcpu.inject.serror()"),),
        _UNCHANGED,
        defects=("F1.23",),
    ),
    Mutant(
        "exit-and-abort",
        "KVM injects the abort itself besides the exit.",
        (_before_exit("vcpu.inject.sea(vcpu.fault.far, instruction=_is_fetch(vcpu.fault.esr))"),),
        (*_UNCHANGED, "test_sea_to_user::test_access[ldr-x]"),
        defects=("F1.23",),
    ),
    Mutant(
        "pc-advanced",
        "The exit skips the instruction, as one for MMIO does when it is completed.",
        (_before_exit("vcpu.cpu.pc += 4"),),
        (*_EVERY_ACCESS, *_UNCHANGED),
        defects=("F1.23",),
    ),
    Mutant(
        "exit-clobbers-far",
        "FAR_EL1 of the guest is prepared for the injection although nobody has asked for one.",
        (
            _before_exit(
                "from pytest_kvm_sea.arm64.sysregs import sysreg\n"
                '    vcpu.cpu.sysregs[sysreg("far_el1")] = vcpu.fault.far'
            ),
        ),
        _UNCHANGED,
        defects=("F1.23",),
    ),
    Mutant(
        "exit-with-an-error",
        "kvm_handle_guest_sea returns -EFAULT in place of 0, so KVM_RUN fails with the exit filled in.",
        (Edit(_GUEST_SEA, "    return False", "    fail(errno.EFAULT)"),),
        (*_ORIGINAL, *_EVERY_ACCESS),
    ),
    Mutant(
        "fault-of-the-first-vcpu",
        "The exit is filled in from vCPU 0, whichever vCPU it is of.",
        (
            Edit(
                _GUEST_SEA,
                "sea.exit_to_user(behaviour, vcpu.fault",
                "sea.exit_to_user(behaviour, vcpu.vm.vcpus[0].fault",
            ),
        ),
        (
            "test_sea_to_user::test_two_vcpus_read_the_same_cell",
            "test_firmware_sea::test_two_vcpus_run_into_the_same_table",
        ),
        defects=("F1.23",),
    ),
)
"""When the exit comes, and what it leaves alone."""

CAPABILITY = (
    Mutant(
        "capability-not-reported",
        "KVM_CHECK_EXTENSION does not know the capability that KVM_ENABLE_CAP takes.",
        (Edit("sim.kvm.capabilities:capabilities", "table[revision.cap_sea_to_user] = 1", "pass"),),
        ("test_sea_to_user::test_capability_is_what_it_says",),
    ),
    Mutant(
        "capability-without-effect",
        "KVM_ENABLE_CAP says yes and forgets it.",
        (Edit("sim.kvm.vm:Vm._enable_cap", "self.exits_on_sea = True", "pass"),),
        _ORIGINAL,
    ),
    Mutant(
        "capability-refused",
        "KVM_CHECK_EXTENSION reports the capability; KVM_ENABLE_CAP gives EINVAL for it.",
        (Edit("sim.kvm.vm:Vm._enable_cap", "elif self.behaviour.sea_to_user and", "elif False and"),),
        ("test_sea_to_user::test_capability_is_what_it_says",),
    ),
    Mutant(
        "capability-flags-ignored",
        "KVM_ENABLE_CAP takes flags that nobody has defined.",
        (Edit("sim.kvm.vm:Vm._enable_cap", "if flags:", "if False:"),),
        _CAPABILITY,
        defects=("F1.23",),
    ),
    Mutant(
        "capability-only-once",
        "Enabling what is enabled already is EBUSY.",
        (
            Edit(
                "sim.kvm.vm:Vm._enable_cap",
                "        self.exits_on_sea = True",
                "        if self.exits_on_sea:\n            fail(errno.EBUSY)\n        self.exits_on_sea = True",
            ),
        ),
        _CAPABILITY,
        defects=("F1.23",),
    ),
    Mutant(
        "capability-before-vcpus",
        "The capability can be enabled only until the VM has vCPUs.",
        (
            Edit(
                "sim.kvm.vm:Vm._enable_cap",
                "        self.exits_on_sea = True",
                "        if self.vcpus:\n            fail(errno.EBUSY)\n        self.exits_on_sea = True",
            ),
        ),
        (*_CAPABILITY, *_ORIGINAL),
        defects=("F1.23",),
    ),
    Mutant(
        "capability-arguments-checked",
        "An argument of KVM_ENABLE_CAP that the documentation does not mention is refused.",
        (
            Edit(
                "sim.kvm.vm:Vm._enable_cap",
                "    if flags:",
                "    if flags or any(read_structure(argument, _ENABLE_CAP.size)[8:]):",
            ),
        ),
        _CAPABILITY,
        defects=("F1.23",),
    ),
)
"""KVM_CAP_ARM_SEA_TO_USER."""

DESCRIPTION = (
    Mutant(
        "exit-reason-of-the-series",
        "The exit has the number that it had in the first version of the series.",
        (Edit(_EXIT, "run.exit_reason = revision.exit_arm_sea", "run.exit_reason = 40"),),
        _ORIGINAL,
    ),
    Mutant(
        "flags-of-the-series",
        "GPA_VALID is bit 1, as in the first version of the series.",
        (Edit(_EXIT, "sea.flags |= revision.flag_gpa_valid", "sea.flags |= 1 << 1"),),
        (*_ORIGINAL, "test_sea_to_user::test_access[ldr-x]"),
        defects=("F1.22",),
    ),
    Mutant(
        "flags-exchanged",
        "GVA_VALID and GPA_VALID of the series have changed places.",
        (
            Edit(
                _EXIT,
                "fault.far\n        sea.flags |= revision.flag_gva_valid or 0",
                "fault.far\n        sea.flags |= 2",
            ),
            Edit(_EXIT, "sea.flags |= revision.flag_gpa_valid", "sea.flags |= 1"),
        ),
        ("test_sea_to_user::test_error_in_page_tables",),
        platforms=("series-v1",),
        defects=("F1.22",),
    ),
    Mutant(
        "flag-nobody-knows",
        "A flag is set that is not in the UAPI.",
        (Edit(_EXIT, "sea.flags |= revision.flag_gpa_valid", "sea.flags |= revision.flag_gpa_valid | 1 << 8"),),
        _ORIGINAL,
        defects=("F1.22",),
    ),
    Mutant(
        "gpa-without-its-flag",
        "The GPA is filled in, GPA_VALID is not set.",
        (Edit(_EXIT, "sea.flags |= revision.flag_gpa_valid", "pass"),),
        _ORIGINAL,
        defects=("F1.22",),
    ),
    Mutant(
        "gpa-never",
        "The GPA is left out although KVM could translate the address.",
        (Edit(_EXIT, "if fault.ipa is not None:", "if False:"),),
        (*_ORIGINAL, "test_sea_to_user::test_access[ldr-x]"),
        defects=("F1.22",),
    ),
    Mutant(
        "gpa-always-valid",
        "GPA_VALID is set whether or not there is a GPA.",
        (
            Edit(
                _EXIT,
                "if fault.ipa is not None:\n        sea.gpa = fault.ipa\n",
                "if True:\n        sea.gpa = fault.ipa or 0\n",
            ),
        ),
        _WALKS,
    ),
    Mutant(
        "gpa-on-a-walk",
        "HPFAR_EL2 is taken for valid on a table walk, where it holds what it held.",
        (
            Edit(
                _RECORD,
                "if not _safe_to_translate(trap.esr):\n",
                "if not _safe_to_translate(trap.esr):\n        self.ipa = 0\n",
            ),
        ),
        _WALKS,
    ),
    Mutant(
        "gpa-of-the-last-fault",
        "The IPA is not taken for invalid before it is known to be valid, so the one of an earlier fault stays.",
        (Edit(_RECORD, "    self.ipa = None\n    if", "    if"),),
        ("test_firmware_sea::test_access",),
    ),
    Mutant(
        "gpa-not-of-the-page",
        "The GPA has the offset in the page, which HPFAR_EL2 cannot tell.",
        (Edit(_RECORD, "self.ipa = ipa & ~_PAGE_MASK", "self.ipa = ipa"),),
        (*_ORIGINAL, "test_sea_to_user::test_access[ldr-x]"),
        defects=("F1.22",),
    ),
    Mutant(
        "gva-although-fnv",
        "FAR_EL2 is given to the VMM although ESR_EL2.FnV says that it is garbage.",
        (Edit(_EXIT, "if not fault.esr & syndromes.FNV:", "if True:"),),
        _ORIGINAL,
        platforms=("neoverse-v2", "series-v1-neoverse-v2"),
        defects=("F1.22",),
    ),
    Mutant(
        "gva-never",
        "The GVA is left out although FnV is 0.",
        (Edit(_EXIT, "if not fault.esr & syndromes.FNV:", "if False:"),),
        _ORIGINAL,
    ),
    Mutant(
        "gva-of-the-page",
        "FAR_EL2 is cut to its page, as HPFAR_EL2 is.",
        (Edit(_EXIT, "sea.gva = fault.far", "sea.gva = fault.far & ~0xFFF"),),
        (*_ORIGINAL, *_EVERY_ACCESS),
    ),
    Mutant(
        "gva-one-byte-off",
        "The GVA is the address after the first byte.",
        (Edit(_EXIT, "sea.gva = fault.far", "sea.gva = fault.far + 1"),),
        _ORIGINAL,
        defects=("F1.20",),
    ),
    Mutant(
        "stale-far",
        "FAR_EL2 is saved for the faults of stage 2 only, so that of an SEA is the address of an earlier one.",
        (
            Edit(
                _RECORD,
                "self.far = trap.far",
                "self.far = self.far if syndromes.is_sea(syndromes.fsc(trap.esr)) else trap.far",
            ),
        ),
        (*_ORIGINAL, *_EVERY_ACCESS),
    ),
    Mutant(
        "exit-not-cleared",
        "kvm_run.arm_sea is not cleared first: what the last exit left in the union shows through.",
        (Edit(_EXIT, "ctypes.memset(ctypes.addressof(sea), 0, ctypes.sizeof(sea))", "pass"),),
        ("test_firmware_sea::test_access",),
    ),
    Mutant(
        "esr-not-sanitised",
        "The raw ESR_EL2 is given to the VMM, on a core that sets bit 14 in it.",
        (
            Edit(_RECORD, "self.esr = trap.esr", "self.esr = trap.esr | 1 << 14"),
            Edit(_VISIBLE, "mask = behaviour.revision.esr_mask", "mask = (1 << 64) - 1"),
        ),
        (*_ORIGINAL, *_EVERY_ACCESS),
        defects=("F1.20",),
    ),
    Mutant(
        "esr-of-el1",
        "The class is that of an abort from the same exception level.",
        (Edit(_EXIT, "sea.esr = fault.esr &", "sea.esr = (fault.esr | 1 << 26) &"),),
        _ORIGINAL,
    ),
    Mutant("esr-without-il", "IL is masked out.", (_shows("~syndromes.IL"),), _ORIGINAL, defects=("F1.20",)),
    Mutant(
        "esr-without-wnr",
        "WnR is masked out: a store looks like a load.",
        (_shows("~syndromes.WNR"),),
        ("test_sea_to_user::test_access[str-x]", "test_firmware_sea::test_access[str-x]"),
        defects=("F1.20", "F1.23"),
    ),
    Mutant(
        "esr-with-wnr",
        "WnR is set for a load.",
        (Edit(_EXIT, "sea.esr = fault.esr &", "sea.esr = (fault.esr | syndromes.WNR) &"),),
        (*_ORIGINAL, *_EVERY_ACCESS),
        defects=("F1.20",),
    ),
    Mutant(
        "esr-without-fnv",
        "FnV is masked out: the VMM takes an address of 0 for a real one.",
        (_shows("~syndromes.FNV"),),
        _ORIGINAL,
        platforms=("neoverse-v2",),
    ),
    Mutant(
        "esr-with-s1ptw",
        "S1PTW is shown, and set.",
        (
            Edit(
                _EXIT,
                "_visible(behaviour, vm_has_ras=vm_has_ras)",
                "_visible(behaviour, vm_has_ras=vm_has_ras) | syndromes.S1PTW",
            ),
        ),
        _ORIGINAL,
        defects=("F1.20",),
    ),
    Mutant(
        "fsc-is-a-tag-fault",
        "The status code is 0x11, a synchronous tag check fault.",
        (Edit(_EXIT, "sea.esr = fault.esr &", "sea.esr = (fault.esr | 1) &"),),
        _ORIGINAL,
        defects=("F1.20",),
    ),
    Mutant(
        "fsc-without-the-walk",
        "Every status code becomes 0x10: that it was a walk, and its level, are lost.",
        (_shows("~0x0F"),),
        _WALKS,
        defects=("F1.20", "F1.23"),
    ),
    Mutant(
        "fsc-level-above",
        "The level of the walk is that of the table above.",
        (Edit(_EXIT, "sea.esr = fault.esr &", "sea.esr = (fault.esr - is_sea_on_walk(fault.esr)) &"),),
        _WALKS,
        defects=("F1.20", "F1.23"),
    ),
    Mutant(
        "parity-as-sea",
        "A parity error is shown as an abort without a reason.",
        (_shows("~0x08"),),
        ("test_sea_to_user::test_parity",),
        platforms=("series-v1-parity",),
        defects=("F1.23",),
    ),
)
"""What kvm_run.arm_sea says."""

MUTANTS = (*WHETHER, *CAPABILITY, *DESCRIPTION)
