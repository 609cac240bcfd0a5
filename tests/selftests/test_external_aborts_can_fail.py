# SPDX-License-Identifier: GPL-2.0-only
"""The ports of external_aborts and the tests of KVM_SET_VCPU_EVENTS against kernels with a fault: each is found.

The faults marked F3 are those that external_aborts.c lets through; the numbers are those of docs/originals.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.cpu.exceptions import Exceptions
from pytest_kvm_sea.sim.kvm import abort, events, inject, s1walk, vcpu
from pytest_kvm_sea.sim.kvm.behaviour import Behaviour
from pytest_kvm_sea.sim.kvm.inject import Injector
from pytest_kvm_sea.sim.kvm.mmio import Mmio
from pytest_kvm_sea.sim.kvm.vcpu import Vcpu

if TYPE_CHECKING:
    Patch = pytest.MonkeyPatch

EXTERNAL, EVENTS = "test_external_aborts", "test_vcpu_events"


def with_behaviour(**changes: object) -> Callable[[Patch], None]:
    """A kernel that behaves otherwise in what one of the fields of `Behaviour` says, whatever its release."""

    def mutate(patch: Patch) -> None:
        original = vcpu.Vcpu.__init__

        def changed(self: Vcpu, vm: Any, number: int) -> None:
            if isinstance(vm.behaviour, Behaviour):
                vm.behaviour = replace(vm.behaviour, **changes)  # type: ignore[arg-type] # names of its fields
            original(self, vm, number)

        patch.setattr(vcpu.Vcpu, "__init__", changed)

    return mutate


def with_exception_bits(bits: int) -> Callable[[Patch], None]:
    """A kernel whose injected syndromes have some bits inverted."""

    def mutate(patch: Patch) -> None:
        original = Injector._pend

        def pend(self: Injector, vector: int, esr: int, far: int | None) -> None:
            original(self, vector, esr ^ bits, far)

        patch.setattr(Injector, "_pend", pend)

    return mutate


def keep_mmio(patch: Patch) -> None:
    """The abort is entered, and the MMIO completed on top of it."""

    def commit(self: Vcpu) -> None:
        self.inject.commit()

    patch.setattr(Vcpu, "commit_events", commit)


def exit_unasked(patch: Patch) -> None:
    """KVM_EXIT_ARM_NISV without the capability."""
    original = Mmio.abort
    patch.setattr(Mmio, "abort", lambda self, ipa, nisv_to_user: original(self, ipa, nisv_to_user=True))


def page_of_nisv(patch: Patch) -> None:
    """fault_ipa without the offset in the page."""
    patch.setattr(abort, "_OFFSET_MASK", 0)


def raw_nisv_syndrome(patch: Patch) -> None:
    """esr_iss shows all of the ISS."""
    patch.setattr("pytest_kvm_sea.sim.kvm.mmio._NISV_MASK", (1 << 26) - 1)


def stale_far(patch: Patch) -> None:
    """FAR_EL1 is left as it was."""
    original = Injector._pend

    def pend(self: Injector, vector: int, esr: int, _far: int | None) -> None:
        original(self, vector, esr, None)

    patch.setattr(Injector, "_pend", pend)


def always_current(patch: Patch) -> None:
    """An abort from EL0 says that it is from EL1."""
    patch.setattr(Injector, "_abort_class", lambda _self, instruction: EC.DABT_CURRENT << 26)


def lose_syndrome(patch: Patch) -> None:
    """The SError comes without the VMM's syndrome."""
    original = Injector.serror
    patch.setattr(Injector, "serror", lambda self, _syndrome=None: original(self, None))


def ignore_mask(patch: Patch) -> None:
    """A masked SError is entered all the same."""
    patch.setattr(Injector, "_serror_masked", lambda _self: False)


def lose_serror(patch: Patch) -> None:
    """A masked SError is forgotten when it could be taken."""

    def take(self: Exceptions) -> bool:
        self.vserror = None
        return False

    patch.setattr(Exceptions, "take_pending_serror", take)


def ignore_sctlr2(patch: Patch) -> None:
    """Neither EASE nor NMEA."""
    patch.setattr(Injector, "_sctlr2", lambda _self, _bit: False)


def wrong_nmea(patch: Patch) -> None:
    """NMEA taken for the bit of EnANERR."""
    patch.setattr(inject, "_SCTLR2_NMEA", 1 << 4)


def level_above(patch: Patch) -> None:
    """The level of the table that points to the descriptor."""
    original = s1walk.descriptor_level

    def level(*arguments: Any) -> int | None:
        found = original(*arguments)
        return None if found is None else found - 1

    patch.setattr(inject, "descriptor_level", level)


def exit_for_fetch(patch: Patch) -> None:
    """Code without memory is taken for an MMIO."""
    patch.setattr(abort, "_is_fetch", lambda _esr: False)


def uninitialised(patch: Patch) -> None:
    """No look at whether the vCPU was initialised."""
    patch.setattr(Vcpu, "_check_initialised", lambda _self: None)


def with_events(change: Callable[[Any, bytes, Callable[[Any, bytes], None]], None]) -> Callable[[Patch], None]:
    """A kernel with another KVM_SET_VCPU_EVENTS, made of the right one."""

    def mutate(patch: Patch) -> None:
        original = events.set_events
        patch.setattr(events, "set_events", lambda cpu, data: change(cpu, data, original))

    return mutate


def cancel(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """Events without an SError take the pending one back."""
    if not data[0]:
        cpu.cpu.vserror = None
    original(cpu, data)


def keep_first(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """A second SError is dropped."""
    original(cpu, bytes(1) + data[1:] if cpu.cpu.vserror is not None else data)


def mask_syndrome(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """A wide syndrome is cut instead of refused."""
    original(cpu, data[:11] + bytes([data[11] & 1]) + bytes(4) + data[16:])


def check_late(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """Reserved words are looked at when all is done."""
    original(cpu, data[:4] + bytes(4) + data[8:16] + bytes(48))
    original(cpu, bytes(4) + data[4:8] + bytes(8) + data[16:])


def only_one(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """A flag has to be 1."""
    original(cpu, bytes(byte if byte == 1 else 0 for byte in data[:3]) + data[3:])


def check_always(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """The syndrome is looked at although there is no SError."""
    if any(data[12:16]) or data[11] > 1:
        raise OSError(22, "Invalid argument")
    original(cpu, data)


def atomic(cpu: Any, data: bytes, original: Callable[[Any, bytes], None]) -> None:
    """What the right kernel does not do yet: refuse all of it."""
    if data[0] and data[1] and (any(data[12:16]) or data[11] > 1):
        raise OSError(22, "Invalid argument")
    original(cpu, data)


def with_get(change: Callable[[bytearray], None]) -> Callable[[Patch], None]:
    """A kernel with another KVM_GET_VCPU_EVENTS."""

    def mutate(patch: Patch) -> None:
        original = events.get_events

        def get(cpu: Any) -> bytes:
            data = bytearray(original(cpu))
            change(data)
            return bytes(data)

        patch.setattr(events, "get_events", get)

    return mutate


@dataclass(frozen=True)
class Fault:
    """A fault of the kernel, and the tests that have to find it."""

    mutate: Callable[[Patch], None]
    module: str
    found_by: str
    """For ``-k``. All that it selects must fail."""
    platform: str = "ampereone"


FAULTS = {
    "MMIO completed": Fault(keep_mmio, EXTERNAL, "test_mmio_abort or test_unmasked_serror_and_mmio"),
    "NISV exit unasked": Fault(exit_unasked, EXTERNAL, "test_mmio_nisv and not test_mmio_nisv_abort"),
    "fault_ipa of the page": Fault(page_of_nisv, EXTERNAL, "test_mmio_nisv_abort"),
    "F3.3 raw esr_iss": Fault(raw_nisv_syndrome, EXTERNAL, "test_mmio_nisv_abort"),
    "F3.3 FSC 0x11": Fault(with_exception_bits(1), EXTERNAL, "test_mmio_abort or test_mmio_nisv_abort"),
    "F3.3 IL clear": Fault(with_exception_bits(1 << 25), EXTERNAL, "test_mmio_abort or test_serror_emulated"),
    "F3.3 WnR carried over": Fault(with_exception_bits(1 << 6), EXTERNAL, "test_mmio_abort or test_s1ptw_abort"),
    "F3.3 FAR stale": Fault(stale_far, EXTERNAL, "test_mmio_abort or test_s1ptw_abort"),
    "F3.4 class of EL0": Fault(always_current, EXTERNAL, "test_mmio_abort and el0"),
    "syndrome lost": Fault(lose_syndrome, EXTERNAL, "test_serror_emulated and not no-esr"),
    "mask ignored": Fault(ignore_mask, EXTERNAL, "(test_serror and masked) or test_masked_serror_lets"),
    "SError lost": Fault(lose_serror, EXTERNAL, "test_serror[ and -unmasked"),
    "no EASE": Fault(ignore_sctlr2, EXTERNAL, "test_mmio_ease or test_serror_nmea", "double-fault2"),
    "NMEA is another bit": Fault(wrong_nmea, EXTERNAL, "test_serror_nmea", "double-fault2"),
    "level of the walk": Fault(level_above, EXTERNAL, "test_s1ptw_abort"),
    "no level of the walk": Fault(with_behaviour(s1ptw_level=False), EXTERNAL, "test_s1ptw_abort"),
    "defect of the walk gone": Fault(with_behaviour(s1ptw_level=True), EXTERNAL, "test_s1ptw_abort", "mainline-6.19"),
    "fetch as MMIO": Fault(exit_for_fetch, EXTERNAL, "test_fetch_without_memory or (test_s1ptw and fetch)"),
    "F3.5 no ENOEXEC": Fault(uninitialised, EVENTS, "test_uninitialised_vcpu"),
    "F3.5 SError cancelled": Fault(with_events(cancel), EVENTS, "test_serror_is_overwritten"),
    "F3.5 SError kept": Fault(with_events(keep_first), EVENTS, "test_serror_is_overwritten"),
    "F3.5 syndrome cut": Fault(with_events(mask_syndrome), EVENTS, "test_wide_syndrome"),
    "F3.5 reserved fields late": Fault(with_events(check_late), EVENTS, "test_reserved_fields"),
    "F3.5 flags of 1 only": Fault(with_events(only_one), EVENTS, "test_serror[ and (esr-all or without-flag)"),
    "F3.5 syndrome of nothing refused": Fault(with_events(check_always), EVENTS, "without_effect and syndrome"),
    "F3.5 refused as a whole at last": Fault(with_events(atomic), EVENTS, "test_refused_as_a_whole"),
    "F3.5 marked only": Fault(with_behaviour(immediate=False), EVENTS, "test_entered_by_the_ioctl"),
    "F3.5 SError first": Fault(with_behaviour(serror_first=True), EVENTS, "test_abort_and_serror and unmasked"),
    "F3.5 IL from the last trap": Fault(
        with_behaviour(il_from_last_trap=True), EVENTS, "test_serror_before_the_first_run"
    ),
    "F3.5 FAR stale": Fault(stale_far, EVENTS, "test_abort or test_a_second_abort_nests"),
    "F3.5 GET tells the abort": Fault(
        with_get(lambda data: data.__setitem__(2, 1)), EVENTS, "test_abort_and or test_at_rest"
    ),
    "F3.5 GET without has_esr": Fault(with_get(lambda data: data.__setitem__(1, 0)), EVENTS, "test_at_rest"),
    "F3.5 GET with garbage": Fault(with_get(lambda data: data.__setitem__(63, 1)), EVENTS, "test_at_rest"),
}


def run(pytester: pytest.Pytester, module: str, select: str, *platforms: str) -> pytest.RunResult:
    """Run these tests."""
    return pytester.runpytest_inprocess(
        "--pyargs",
        f"pytest_kvm_sea.selftests.{module}",
        "-k",
        select,
        *(f"--kvm-sea-platform={platform}" for platform in platforms),
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
    )


@pytest.mark.parametrize("module", [EXTERNAL, EVENTS])
def test_a_sound_kernel_passes(pytester: pytest.Pytester, module: str) -> None:
    found = run(
        pytester, module, "test", "ampereone", "double-fault2", "mainline-6.19", "series-v1", "no-ras"
    ).parseoutcomes()
    assert not found.keys() & {"failed", "errors"}
    assert found["passed"] > 60


@pytest.mark.parametrize("name", FAULTS)
def test_a_kernel_with_this_fault_is_found(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault = FAULTS[name]
    fault.mutate(monkeypatch)
    found = run(pytester, fault.module, fault.found_by, fault.platform).parseoutcomes()
    assert found.keys() - {"deselected"} == {"failed"}


def test_f3_1_a_test_that_fails_ends_no_other(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_mmio(monkeypatch)
    found = run(pytester, EXTERNAL, "mmio", "ampereone").parseoutcomes()
    assert found["failed"] >= 4
    assert found["passed"] >= 4


def test_f3_2_a_skip_says_why(pytester: pytest.Pytester) -> None:
    result = run(pytester, EXTERNAL, "test_mmio_ease or test_serror_amo", "ampereone")
    assert result.parseoutcomes().keys() == {"skipped", "deselected"}
    result.stdout.fnmatch_lines(["2 skipped  [[]double-fault2] *; *", "1 skipped  [[]el2] *; *"])


def test_all_of_them_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/originals.md").read_text()
    for number in range(1, 6):
        assert f"| F3.{number} |" in text
