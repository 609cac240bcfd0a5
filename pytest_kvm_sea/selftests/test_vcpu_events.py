# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_VCPU_EVENTS and KVM_GET_VCPU_EVENTS: what they accept, what they refuse, and what is so at once afterwards.

No C original has this. The order of the checks is that of arch/arm64/kvm/arm.c and guest.c: is the vCPU initialised,
the pointer, reserved words, padding; then, since 6.17, the abort is delivered, and the SError is looked at last.
ext_iabt_pending and every single reserved byte are test_inject_iabt's.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC, IDS, IL, ISS_MASK
from pytest_kvm_sea.expectations import known_defect
from pytest_kvm_sea.selftests import guests_external as guests
from pytest_kvm_sea.selftests.delivery import (
    PSTATE_A,
    WITHOUT_MEMORY_ERRORS,
    State,
    deliver,
    enters_at_once,
    has_ras,
    kernel_version,
)
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.uapi.structures import VcpuInit

if TYPE_CHECKING:
    from pytest_kvm_sea.fixtures import VmFactory
    from pytest_kvm_sea.vmm.vcpu import Vcpu

pytestmark = [pytest.mark.kvm_sea_requires("inject-ext-dabt"), WITHOUT_MEMORY_ERRORS]

NEEDS_RAS = pytest.mark.kvm_sea_requires("serror-esr")
BAD_ADDRESS = 8
"""In the page that no process may map (vm.mmap_min_addr)."""
OPEN, MASKED = 0x5, 0x5 | PSTATE_A
"""EL1h with SErrors unmasked, and masked."""
NZCV, PAN = 0xF << 28, 1 << 22
TOO_WIDE = ISS_MASK + 1


def stopped(kvm_sea_vm: VmFactory, pstate: int = MASKED) -> Vcpu:
    """A vCPU that ran, and waits at EL1 with this PSTATE."""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    vcpu.expect_sync(1)
    vcpu.set_reg("pstate", pstate)
    return vcpu


def set_events(vcpu: Vcpu, **fields: int) -> None:
    """KVM_SET_VCPU_EVENTS with these fields of `exception`; ``pad`` and ``reserved`` are for the last one of them."""
    events = vcpu.vm.revision.vcpu_events()
    for name, value in fields.items():
        if name == "pad":
            events.exception.pad[-1] = value
        elif name == "reserved":
            events.reserved[-1] = value
        else:
            setattr(events.exception, name, value)
    vcpu.set_events(events)


def refused(vcpu: Vcpu, **fields: int) -> None:
    """EINVAL, and nothing happened."""
    before, events = State.of(vcpu), bytes(vcpu.get_events())
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        set_events(vcpu, **fields)
    assert caught.value.errno == errno.EINVAL
    deliver(vcpu)
    assert (State.of(vcpu), bytes(vcpu.get_events())) == (before, events), f"after {fields}"


def check_pending(vcpu: Vcpu, iss: int | None) -> None:
    """KVM_GET_VCPU_EVENTS in full: an SError with this syndrome, or none. A syndrome is only told with FEAT_RAS."""
    ras = vcpu.vm.check_extension(kvm.KVM_CAP_ARM_INJECT_SERROR_ESR)
    expected = vcpu.vm.revision.vcpu_events()
    expected.exception.serror_has_esr = ras
    if iss is not None:
        expected.exception.serror_pending = 1
        expected.exception.serror_esr = iss if ras else 0
    found = vcpu.vm.revision.vcpu_events.from_buffer_copy(b"\xff" * ctypes.sizeof(expected))
    vcpu.ioctl(kvm.KVM_GET_VCPU_EVENTS, found)
    assert bytes(found) == bytes(expected)


def recorded(vcpu: Vcpu, *names: str) -> tuple[int, ...]:
    """What the guest counted and remembered."""
    return tuple(vcpu.vm.get_global(name) for name in names)


def check_serror_taken(vcpu: Vcpu, iss: int, at: int | None = None) -> None:
    """The guest took one SError, and has no other; the syndrome is fixed with FEAT_RAS only."""
    count, esr, pc = recorded(vcpu, "serrors", "serror_esr", "serror_pc")
    assert count == 1
    assert syndromes.ec(esr) == EC.SERROR
    if has_ras(vcpu):
        assert esr == syndromes.syndrome(EC.SERROR, iss)
    assert at in (None, pc)
    check_pending(vcpu, None)


def test_at_rest(kvm_sea_vm: VmFactory) -> None:
    """KVM_GET_VCPU_EVENTS fills in everything: nothing pends, serror_has_esr says what the host can do."""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    check_pending(vcpu, None)


def test_uninitialised_vcpu(kvm_sea_vm: VmFactory) -> None:
    """ENOEXEC before KVM_ARM_VCPU_INIT, whatever the argument is; afterwards not."""
    vm = kvm_sea_vm(vcpus=0)
    vcpu = vm.host.adopt(vm.file.ioctl(kvm.KVM_CREATE_VCPU, 0))
    try:
        for request in (kvm.KVM_GET_VCPU_EVENTS, kvm.KVM_SET_VCPU_EVENTS):
            for argument in (vm.revision.vcpu_events(), BAD_ADDRESS):
                with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
                    vcpu.ioctl(request, argument)
                assert caught.value.errno == errno.ENOEXEC
        init = VcpuInit()
        vm.file.ioctl(kvm.KVM_ARM_PREFERRED_TARGET, init)
        vcpu.ioctl(kvm.KVM_ARM_VCPU_INIT, init)
        assert vcpu.ioctl(kvm.KVM_SET_VCPU_EVENTS, vm.revision.vcpu_events()) == 0
    finally:
        vcpu.close()


def test_bad_pointer(kvm_sea_vm: VmFactory) -> None:
    """EFAULT, and nothing happened."""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    before = State.of(vcpu)
    for request in (kvm.KVM_GET_VCPU_EVENTS, kvm.KVM_SET_VCPU_EVENTS):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            vcpu.ioctl(request, BAD_ADDRESS)
        assert caught.value.errno == errno.EFAULT
    assert State.of(vcpu) == before
    check_pending(vcpu, None)


def test_reserved_fields_are_looked_at_first(kvm_sea_vm: VmFactory) -> None:
    """Padding and reserved words of any value are refused before an abort or an SError is put into the vCPU."""
    vcpu = stopped(kvm_sea_vm, OPEN)
    for reserved in ({"pad": 0x80}, {"reserved": 1 << 31}):
        refused(vcpu, **reserved)
        refused(vcpu, ext_dabt_pending=1, serror_pending=1, **reserved)


def test_wide_syndrome(kvm_sea_vm: VmFactory) -> None:
    """A syndrome has 25 bits, the ISS: a class, IL or anything above is refused. Without FEAT_RAS every syndrome is."""
    vcpu = stopped(kvm_sea_vm, OPEN)
    for bit in (25, 26, 31, 32, 63):
        refused(vcpu, serror_pending=1, serror_has_esr=1, serror_esr=1 << bit)
        refused(vcpu, serror_pending=1, serror_has_esr=1, serror_esr=1 << bit | 0x1234)


def test_syndrome_needs_ras(kvm_sea_vm: VmFactory) -> None:
    """An SError with a syndrome of 0 is in order where the host has FEAT_RAS, and refused elsewhere."""
    vcpu = stopped(kvm_sea_vm)
    if vcpu.vm.check_extension(kvm.KVM_CAP_ARM_INJECT_SERROR_ESR):
        set_events(vcpu, serror_pending=1, serror_has_esr=1)
        check_pending(vcpu, 0)
    else:
        refused(vcpu, serror_pending=1, serror_has_esr=1)


NOTHING = {
    "zeros": {},
    "a syndrome for no SError": {"serror_has_esr": 1, "serror_esr": TOO_WIDE},
}


@pytest.mark.parametrize("fields", NOTHING.values(), ids=NOTHING)
def test_events_without_effect(kvm_sea_vm: VmFactory, fields: dict[str, int]) -> None:
    """What belongs to an SError is not looked at where there is none; in the follow-up it is, and refused."""
    vcpu = stopped(kvm_sea_vm, OPEN)
    if fields and vcpu.vm.revision.injects_with_esr:
        refused(vcpu, **fields)
        return
    before = State.of(vcpu)
    set_events(vcpu, **fields)
    deliver(vcpu)
    assert State.of(vcpu) == before
    check_pending(vcpu, None)
    vcpu.expect_done()
    assert recorded(vcpu, "aborts", "serrors") == (0, 0)


SERRORS = {
    "no-esr": (None, {"serror_pending": 1}),
    "esr-without-flag": (None, {"serror_pending": 2, "serror_esr": TOO_WIDE}),
    "esr-0": (0, {"serror_pending": 1, "serror_has_esr": 1}),
    "esr-all": (ISS_MASK, {"serror_pending": 1, "serror_has_esr": 2, "serror_esr": ISS_MASK}),
}
"""The syndrome, None for KVM's own, and the fields that ask for it. Flags are true or false, whatever their value."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if iss is None else NEEDS_RAS) for name, (iss, _) in SERRORS.items()]
)
@pytest.mark.parametrize("pstate", [OPEN, MASKED], ids=["unmasked", "masked"])
def test_serror(kvm_sea_vm: VmFactory, pstate: int, name: str) -> None:
    """Masked it pends, and nothing moves until the guest unmasks it. Unmasked it is taken where the vCPU stopped."""
    given, fields = SERRORS[name]
    iss = IDS if given is None else given
    vcpu = stopped(kvm_sea_vm, pstate)
    before = State.of(vcpu)
    set_events(vcpu, **fields)
    if pstate == MASKED or vcpu.get_events().exception.serror_pending:
        check_pending(vcpu, iss)
        assert State.of(vcpu) == before
    else:
        assert State.of(vcpu) == before.after_serror(vcpu, iss)
    vcpu.expect_done()
    check_serror_taken(vcpu, iss, before.pc if pstate == OPEN else None)


@NEEDS_RAS
def test_serror_is_overwritten_and_never_cancelled(kvm_sea_vm: VmFactory) -> None:
    """There is one SError at a time: a second takes the place of the first, and no events take it back."""
    vcpu = stopped(kvm_sea_vm)
    vcpu.inject_serror(0x1234)
    check_pending(vcpu, 0x1234)
    vcpu.inject_serror(0x99)
    check_pending(vcpu, 0x99)
    set_events(vcpu)
    set_events(vcpu, serror_has_esr=1, serror_esr=0x77)
    check_pending(vcpu, 0x99)
    vcpu.expect_done()
    check_serror_taken(vcpu, 0x99)


def test_abort(kvm_sea_vm: VmFactory) -> None:
    """An abort that belongs to no exit: at the address of the last abort, that of the ucall. GET never tells it."""
    vcpu = stopped(kvm_sea_vm)
    expected = State.of(vcpu).after_abort(vcpu, vcpu.vm.ucall_address)
    set_events(vcpu, ext_dabt_pending=0x80)
    check_pending(vcpu, None)
    deliver(vcpu)
    assert State.of(vcpu) == expected
    check_pending(vcpu, None)
    vcpu.expect_done()
    assert recorded(vcpu, "aborts", "sea_esr", "sea_pc", "serrors") == (1, expected.esr_el1, expected.elr_el1, 0)


def test_abort_before_the_first_run(kvm_sea_vm: VmFactory) -> None:
    """There was no abort yet: the address is 0. (What IL is then, test_inject_iabt asks.)"""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    expected = State.of(vcpu).after_abort(vcpu, 0)
    set_events(vcpu, ext_dabt_pending=1)
    deliver(vcpu)
    found = State.of(vcpu)
    assert (found.esr_el1 | IL, found.far_el1, found.elr_el1, found.spsr_el1, found.pc, found.pstate) == (
        expected.esr_el1,
        expected.far_el1,
        expected.elr_el1,
        expected.spsr_el1,
        expected.pc,
        expected.pstate,
    )


def test_serror_before_the_first_run(kvm_sea_vm: VmFactory) -> None:
    """IL is 1 in the syndrome of every SError (Arm ARM, ESR_EL1.IL), whoever made it."""
    (vcpu,) = kvm_sea_vm(guests.recorder()).vcpus
    vcpu.set_reg("pstate", OPEN)
    vcpu.inject_serror()
    vcpu.expect_sync(1)
    assert recorded(vcpu, "serrors") == (1,)
    copied = enters_at_once(vcpu) and kernel_version(vcpu) < (7, 2)
    with known_defect("il-from-last-trap", when=copied):
        assert vcpu.vm.get_global("serror_esr") & IL


def test_a_second_abort_nests(kvm_sea_vm: VmFactory) -> None:
    """It is taken from the first instruction of the handler of the first."""
    vcpu = stopped(kvm_sea_vm)
    for _ in range(2):
        expected = State.of(vcpu).after_abort(vcpu, vcpu.vm.ucall_address)
        set_events(vcpu, ext_dabt_pending=1)
        deliver(vcpu)
        assert State.of(vcpu) == expected
    assert expected.elr_el1 == expected.pc


@pytest.mark.parametrize("flags", [NZCV, PAN], ids=["nzcv", "pan"])
def test_flags_come_through(kvm_sea_vm: VmFactory, flags: int) -> None:
    """An entry leaves alone what no exception changes, and SPSR_EL1 has it, too."""
    vcpu = stopped(kvm_sea_vm, MASKED | flags)
    expected = State.of(vcpu).after_abort(vcpu, vcpu.vm.ucall_address)
    set_events(vcpu, ext_dabt_pending=1)
    deliver(vcpu)
    assert State.of(vcpu) == expected
    assert expected.pstate & expected.spsr_el1 & flags == flags


@pytest.mark.parametrize("pstate", [OPEN, MASKED], ids=["unmasked", "masked"])
def test_abort_and_serror_in_one_call(kvm_sea_vm: VmFactory, pstate: int) -> None:
    """The abort comes first, and masks the SError, which pends until the guest's handler unmasks it."""
    vcpu = stopped(kvm_sea_vm, pstate)
    expected = State.of(vcpu).after_abort(vcpu, vcpu.vm.ucall_address)
    set_events(vcpu, ext_dabt_pending=1, serror_pending=1)
    deliver(vcpu)
    assert State.of(vcpu) == expected
    check_pending(vcpu, IDS)
    vcpu.expect_done()
    assert recorded(vcpu, "aborts", "sea_esr", "sea_pc") == (1, expected.esr_el1, expected.elr_el1)
    check_serror_taken(vcpu, IDS)
    assert vcpu.vm.get_global("serror_pc") != expected.elr_el1


def test_entered_by_the_ioctl(kvm_sea_vm: VmFactory) -> None:
    """The registers show the exception when the call returns, and a second one nests: nothing waits for KVM_RUN."""
    vcpu = stopped(kvm_sea_vm, OPEN)
    with known_defect("events-only-marked", when=not enters_at_once(vcpu)):
        for _ in range(2):
            expected = State.of(vcpu).after_abort(vcpu, vcpu.vm.ucall_address)
            set_events(vcpu, ext_dabt_pending=1)
            assert State.of(vcpu) == expected
        vcpu.set_reg("pstate", OPEN)
        expected = State.of(vcpu).after_serror(vcpu, IDS)
        set_events(vcpu, serror_pending=1)
        check_pending(vcpu, None)
        assert State.of(vcpu) == expected


def test_refused_as_a_whole(kvm_sea_vm: VmFactory) -> None:
    """A call that fails has no effect, also where the abort in it is in order and the SError is not."""
    vcpu = stopped(kvm_sea_vm)
    before, first = State.of(vcpu), enters_at_once(vcpu)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        set_events(vcpu, ext_dabt_pending=1, serror_pending=1, serror_has_esr=1, serror_esr=TOO_WIDE)
    assert caught.value.errno == errno.EINVAL
    deliver(vcpu)
    check_pending(vcpu, None)
    with known_defect("abort-before-refusal", when=first and not vcpu.vm.revision.injects_with_esr):
        assert State.of(vcpu) == before
