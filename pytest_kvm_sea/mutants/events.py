# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of KVM_SET_VCPU_EVENTS and KVM_GET_VCPU_EVENTS (arch/arm64/kvm/guest.c)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant

_SET = "sim.kvm.events:set_events"
_SET_ABORT = "sim.kvm.events:_set_abort"
_SET_SERROR = "sim.kvm.events:_set_serror"
_GET = "sim.kvm.events:get_events"
_CHECK_ALL = "sim.kvm.events:_check_all"
_BEHAVIOUR = "sim.kvm.behaviour:behaviour_of"
_RESERVED = "if any(events.reserved) or any(exception.pad):\n        fail(errno.EINVAL)"
_TOO_WIDE = "not vcpu.vm.behaviour.ras or esr & ~SERROR_ISS_MASK"
_AT_REST = ("test_vcpu_events::test_at_rest",)
_WIDE = ("test_vcpu_events::test_wide_syndrome",)
_OVERWRITTEN = ("test_vcpu_events::test_serror_is_overwritten_and_never_cancelled",)
_FOLLOW_UP = ("follow-up",)
_WHOLE = "test_abort_syndrome::test_a_refusal_has_no_effect"

REFUSED = (
    Mutant(
        "both-aborts-accepted",
        "A data and an instruction abort at once are accepted; the guest gets one of them.",
        (Edit(_SET_ABORT, "    if data and instruction:\n        fail(errno.EINVAL)\n", ""),),
        ("test_inject_iabt::test_inject_iabt",),
        platforms=("series-v1",),
        defects=("F2.3",),
    ),
    Mutant(
        "padding-accepted",
        "The padding behind the flags is not looked at.",
        (Edit(_SET, "any(events.reserved) or any(exception.pad)", "any(events.reserved)"),),
        (
            "test_inject_iabt::test_reserved_bytes_are_refused",
            "test_vcpu_events::test_reserved_fields_are_looked_at_first",
        ),
        defects=("F2.5", "F3.5"),
    ),
    Mutant(
        "reserved-words-accepted",
        "The reserved words at the end are not looked at.",
        (Edit(_SET, "any(events.reserved) or any(exception.pad)", "any(exception.pad)"),),
        (
            "test_inject_iabt::test_reserved_bytes_are_refused",
            "test_vcpu_events::test_reserved_fields_are_looked_at_first",
        ),
        defects=("F2.5", "F3.5"),
    ),
    Mutant(
        "last-reserved-word-accepted",
        "The loop over the reserved words ends one too early.",
        (Edit(_SET, "any(events.reserved)", "any(events.reserved[:-1])"),),
        (
            "test_inject_iabt::test_reserved_bytes_are_refused",
            "test_vcpu_events::test_reserved_fields_are_looked_at_first",
        ),
        defects=("F2.5", "F3.5"),
    ),
    Mutant(
        "byte-of-the-series-accepted",
        "The byte that is ext_iabt_pending in the series, and padding upstream, is left out of the check.",
        (Edit(_SET, "any(exception.pad)", "any(exception.pad[1:])"),),
        ("test_inject_iabt::test_the_byte_is_padding_where_the_capability_is_not",),
        defects=("F2.3",),
    ),
    Mutant(
        "reserved-looked-at-late",
        "Padding and reserved words are looked at when all is done.",
        (
            Edit(_SET, f"    {_RESERVED}\n", ""),
            Edit(
                "sim.kvm.vcpu:Vcpu._set_events",
                "    events.set_events(self, read_structure(argument, VCPU_EVENTS_SIZE))\n",
                "    data = read_structure(argument, VCPU_EVENTS_SIZE)\n"
                "    events.set_events(self, data)\n"
                "    found = self.vm.behaviour.revision.vcpu_events.from_buffer_copy(data)\n"
                "    if any(found.reserved) or any(found.exception.pad):\n"
                "        fail(errno.EINVAL)\n",
            ),
        ),
        (
            "test_vcpu_events::test_reserved_fields_are_looked_at_first",
            "test_inject_iabt::test_reserved_bytes_are_refused",
        ),
        defects=("F3.5",),
    ),
    Mutant(
        "wide-syndrome-cut",
        "A syndrome of more than 25 bits is cut instead of refused.",
        (
            Edit(_SET_SERROR, _TOO_WIDE, "not vcpu.vm.behaviour.ras"),
            Edit(_SET_SERROR, "serror(esr if", "serror(esr & SERROR_ISS_MASK if"),
        ),
        _WIDE,
        defects=("F3.5",),
    ),
    Mutant(
        "syndrome-in-32-bits",
        "The syndrome goes through a u32 before it is looked at.",
        (
            Edit(_SET_SERROR, "esr & ~SERROR_ISS_MASK", "esr & 0xFFFF_FFFF & ~SERROR_ISS_MASK"),
            Edit(_SET_SERROR, "serror(esr if", "serror(esr & SERROR_ISS_MASK if"),
        ),
        _WIDE,
        defects=("F3.5",),
    ),
    Mutant(
        "syndrome-without-ras",
        "A syndrome is taken on a host without FEAT_RAS, which cannot give it to the guest.",
        (Edit(_SET_SERROR, "not vcpu.vm.behaviour.ras or ", ""),),
        ("test_vcpu_events::test_syndrome_needs_ras",),
        platforms=("no-ras",),
        defects=("F3.5",),
    ),
    Mutant(
        "syndrome-of-nothing-refused",
        "The syndrome is looked at although there is no SError.",
        (
            Edit(_SET_SERROR, "    if not pending:\n        return\n", ""),
            Edit(_SET_SERROR, "vcpu.inject.serror(", "pending and vcpu.inject.serror("),
        ),
        ("test_vcpu_events::test_events_without_effect[a syndrome for no SError]",),
        defects=("F3.5",),
    ),
    Mutant(
        "abort-not-taken-back",
        "A kernel known for delivering the abort of a call that it refuses does so no more: the mark has to go.",
        (
            Edit(
                _SET,
                "    iss = 0\n",
                "    if serror and has_esr and esr & ~SERROR_ISS_MASK:\n        fail(errno.EINVAL)\n    iss = 0\n",
            ),
        ),
        ("test_vcpu_events::test_refused_as_a_whole",),
        defects=("F3.5",),
    ),
    Mutant(
        "uninitialised-vcpu",
        "The events of a vCPU are taken before KVM_ARM_VCPU_INIT.",
        (Edit("sim.kvm.vcpu:Vcpu._check_initialised", "self._features is None", "False"),),
        ("test_vcpu_events::test_uninitialised_vcpu",),
        defects=("F3.5",),
    ),
    Mutant(
        "uninitialised-is-einval",
        "A vCPU that was not initialised gives EINVAL in place of ENOEXEC.",
        (Edit("sim.kvm.vcpu:Vcpu._check_initialised", "errno.ENOEXEC", "errno.EINVAL"),),
        ("test_vcpu_events::test_uninitialised_vcpu",),
        defects=("F3.5",),
    ),
    Mutant(
        "bad-pointer-is-einval",
        "An address that is not there gives EINVAL in place of EFAULT.",
        (
            Edit(
                "sim.kvm.vcpu:Vcpu._set_events",
                "    events.set_events(",
                "    if isinstance(argument, int):\n        fail(errno.EINVAL)\n    events.set_events(",
            ),
        ),
        ("test_vcpu_events::test_bad_pointer",),
        defects=("F3.5",),
    ),
)
"""What is refused."""

DONE = (
    Mutant(
        "serror-flag-must-be-1",
        "serror_pending counts only where it is 1, and not where it is another value.",
        (Edit(_SET, "bool(exception.serror_pending)", "exception.serror_pending == 1"),),
        ("test_vcpu_events::test_serror[esr-without-flag]",),
        defects=("F3.5",),
    ),
    Mutant(
        "has-esr-must-be-1",
        "serror_has_esr counts only where it is 1.",
        (Edit(_SET, "bool(exception.serror_has_esr)", "exception.serror_has_esr == 1"),),
        ("test_vcpu_events::test_serror[esr-all]",),
        defects=("F3.5",),
    ),
    Mutant(
        "abort-flag-must-be-1",
        "ext_dabt_pending counts only where it is 1.",
        (Edit(_SET, "bool(exception.ext_dabt_pending)", "exception.ext_dabt_pending == 1"),),
        ("test_vcpu_events::test_abort",),
        defects=("F3.5",),
    ),
    Mutant(
        "has-esr-ignored",
        "The syndrome counts although serror_has_esr is 0.",
        (Edit(_SET_SERROR, "esr if has_esr else None", "esr & SERROR_ISS_MASK"),),
        (
            "test_vcpu_events::test_serror[no-esr]",
            "test_vcpu_events::test_serror[esr-without-flag]",
            "test_external_aborts::test_serror_emulated[no-esr]",
        ),
        defects=("F3.5",),
    ),
    Mutant(
        "serror-cancelled",
        "Events without an SError take the pending one back.",
        (Edit(_SET_SERROR, "if not pending:\n", "if not pending:\n        vcpu.cpu.vserror = None\n"),),
        _OVERWRITTEN,
        defects=("F3.5",),
    ),
    Mutant(
        "first-serror-kept",
        "A second SError is dropped.",
        (Edit(_SET_SERROR, "if not pending:", "if not pending or vcpu.cpu.vserror is not None:"),),
        _OVERWRITTEN,
        defects=("F3.5",),
    ),
    Mutant(
        "serror-before-the-abort",
        "The SError is looked at before the abort (as before 6.17), so that the abort nests in its handler.",
        (Edit(_BEHAVIOUR, "serror_first=not kernel.immediate_injection", "serror_first=True"),),
        ("test_vcpu_events::test_abort_and_serror_in_one_call[unmasked]",),
        defects=("F3.5",),
    ),
    Mutant(
        "abort-forgotten-besides-serror",
        "Of an abort and an SError in one call only the SError is delivered.",
        (Edit(_SET, "bool(exception.ext_dabt_pending)", "bool(exception.ext_dabt_pending) and not serror"),),
        ("test_vcpu_events::test_abort_and_serror_in_one_call",),
        defects=("F3.5",),
    ),
    Mutant(
        "get-tells-the-abort",
        "KVM_GET_VCPU_EVENTS reports an abort that has long been delivered.",
        (
            Edit(
                _GET, "    return bytes(events)", "    events.exception.ext_dabt_pending = 1\n    return bytes(events)"
            ),
        ),
        (*_AT_REST, "test_vcpu_events::test_abort_and_serror_in_one_call"),
        defects=("F3.5",),
    ),
    Mutant(
        "get-without-has-esr",
        "KVM_GET_VCPU_EVENTS leaves serror_has_esr at 0.",
        (Edit(_GET, "int(vcpu.vm.behaviour.ras)", "0"),),
        _AT_REST,
        defects=("F3.5",),
    ),
    Mutant(
        "get-without-the-syndrome",
        "KVM_GET_VCPU_EVENTS leaves serror_esr at 0, so that a migrated VM gets another SError.",
        (Edit(_GET, "events.exception.serror_esr = pending", "pass"),),
        ("test_vcpu_events::test_serror[masked,esr-all]", *_OVERWRITTEN),
        defects=("F3.5",),
    ),
    Mutant(
        "get-leaks",
        "KVM_GET_VCPU_EVENTS copies a structure from the stack that was not cleared.",
        (Edit(_GET, "    return bytes(events)", "    return bytes(events)[:-1] + b'\\x5a'"),),
        _AT_REST,
        defects=("F3.5",),
    ),
    Mutant(
        "get-stops-early",
        "KVM_GET_VCPU_EVENTS copies the fields that it knows and not the reserved ones.",
        (Edit(_GET, "    return bytes(events)", "    return bytes(events)[:16]"),),
        _AT_REST,
        defects=("F3.5",),
    ),
)
"""What is done."""

SYNDROME = (
    Mutant(
        "given-syndrome-ignored",
        "The follow-up's ext_abt_esr is looked at and forgotten.",
        (Edit("sim.kvm.inject:Injector.sea", "| status | iss", "| status"),),
        ("test_abort_syndrome::test_the_syndrome_is_the_vmms[0x400]", "test_sea_to_user::test_sea_to_user[anonymous]"),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "given-syndrome-without-its-flag",
        "ext_abt_esr counts although ext_abt_has_esr is 0.",
        (
            Edit(
                _SET,
                "events.exception.ext_abt_esr if events.exception.ext_abt_has_esr else 0",
                "events.exception.ext_abt_esr",
            ),
        ),
        ("test_abort_syndrome::test_without_has_esr_it_is_not_looked_at",),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "given-syndrome-is-all",
        "ext_abt_esr takes the place of the status code.",
        (Edit("sim.kvm.inject:Injector.sea", "| status | iss", "| (iss or status)"),),
        ("test_abort_syndrome::test_the_syndrome_is_the_vmms[0x400]",),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "given-syndrome-not-checked",
        "ext_abt_esr may have more than 25 bits, and changes the class.",
        (Edit(_CHECK_ALL, "        (exception.ext_abt_has_esr, exception.ext_abt_esr),\n", ""),),
        (f"{_WHOLE}[too wide]",),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "checks-not-first",
        "The follow-up's checks come after the injection.",
        (
            Edit(_SET, "    _check_all(vcpu, events, both=data_abort and instruction_abort)\n", ""),
            Edit(
                "sim.kvm.vcpu:Vcpu._set_events",
                "    events.set_events(self, read_structure(argument, VCPU_EVENTS_SIZE))\n",
                "    data = read_structure(argument, VCPU_EVENTS_SIZE)\n"
                "    events.set_events(self, data)\n"
                "    found = self.vm.behaviour.revision.vcpu_events.from_buffer_copy(data)\n"
                "    events._check_all(self, found, both=False)\n",
            ),
        ),
        (f"{_WHOLE}[too wide]", f"{_WHOLE}[SError too wide]"),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "given-syndrome-reported",
        "KVM_GET_VCPU_EVENTS says ext_abt_has_esr, as it does of the SError.",
        (Edit(_GET, "    return bytes(events)", "    events.exception.ext_abt_has_esr = 1\n    return bytes(events)"),),
        ("test_abort_syndrome::test_an_abort_is_never_reported", *_AT_REST),
        platforms=_FOLLOW_UP,
    ),
    Mutant(
        "refusal-keeps-no-serror",
        "The first version of the series keeps the SError of a call that it refuses; it does so no more.",
        (Edit(_BEHAVIOUR, "serror_first=not kernel.immediate_injection", "serror_first=False"),),
        ("test_inject_iabt::test_refusing_both_keeps_an_serror_that_came_with_them",),
        platforms=("series-v1",),
    ),
)
"""Aborts with a syndrome of the VMM's (the follow-up), and what the series does otherwise."""

MUTANTS = (*REFUSED, *DONE, *SYNDROME)
