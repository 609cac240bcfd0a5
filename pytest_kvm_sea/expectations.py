# SPDX-License-Identifier: GPL-2.0-only
"""What kernels are known to get wrong. A test asserts what is right; where it cannot be, it is a strict xfail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """A defect of a kernel, with a public place where it is described."""

    id: str
    reason: str
    link: str

    def __str__(self) -> str:
        return f"[{self.id}] {self.reason}; {self.link}"


KNOWN_DEFECTS: dict[str, KnownDefect] = {
    defect.id: defect
    for defect in (
        KnownDefect(
            "mainline-fnv",
            "mainline KVM never sets FnV when it injects, so a guest cannot know that FAR_EL1 is garbage",
            "https://lore.kernel.org/all/3061f5f8-cef0-b7b1-c4de-f2ceea29af9a@huawei.com/",
        ),
        KnownDefect(
            "il-from-last-trap",
            "before 7.2 KVM copies the IL bit of an injected syndrome from the last trap, of which there was none",
            "arch/arm64/kvm/inject_fault.c inject_abt64",
        ),
        KnownDefect(
            "events-not-atomic",
            "the series pends the SError of a KVM_SET_VCPU_EVENTS that it then refuses",
            "https://lore.kernel.org/all/20250505161412.1926643-1-jiaqiyan@google.com/",
        ),
        KnownDefect(
            "abort-before-refusal",
            "since 6.17 KVM delivers the abort of a KVM_SET_VCPU_EVENTS whose SError it then refuses",
            "arch/arm64/kvm/guest.c __kvm_arm_vcpu_set_events",
        ),
        KnownDefect(
            "events-only-marked",
            "before 6.17 KVM_SET_VCPU_EVENTS only marks an exception: until KVM_RUN the registers show what never was",
            "arch/arm64/kvm/guest.c __kvm_arm_vcpu_set_events",
        ),
        KnownDefect(
            "nested-routing",
            "before 6.17 KVM gives a nested guest aborts and SErrors that HCR_EL2 routes to the guest hypervisor",
            "arch/arm64/kvm/inject_fault.c kvm_inject_sea",
        ),
        KnownDefect(
            "walk-level-not-told",
            "before 7.0 an abort injected for a failed walk of stage 1 says nothing of a walk, or of its level",
            "arch/arm64/kvm/inject_fault.c inject_abt64",
        ),
    )
}


@contextmanager
def known_defect(
    defect_id: str, *, when: bool, raises: type[BaseException] | tuple[type[BaseException], ...] = AssertionError
) -> Iterator[None]:
    """Around the assertions that fail because of a defect; `when` says whether the host is one that has it.

    With `when`, an exception of `raises` ends the test as xfailed, and no exception at all fails it: the defect
    is gone, or `when` is too wide. Anything else passes through. KeyError for an id that is not in KNOWN_DEFECTS.
    """
    defect = KNOWN_DEFECTS[defect_id]
    try:
        yield
    except raises:
        if when:
            pytest.xfail(str(defect))
        raise  # also with --runxfail, with which the line above does nothing
    if when:
        pytest.fail(f"[{defect.id}] unexpectedly passed (strict): {defect.reason}; {defect.link}", pytrace=False)
