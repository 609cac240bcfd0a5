# SPDX-License-Identifier: GPL-2.0-only
"""The defects of the C originals, each shown not to be in the ports. The numbers are those of docs/originals.md.

The selftests run as a user runs them; where a defect hides a fault of the kernel, the simulated kernel is given that
fault.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.cpu import bus
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.mutants.table import MUTANTS
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.selftests.guests import PROBE_OFFSET
from pytest_kvm_sea.selftests.scenario import EINJ_GVA, GRANULE
from pytest_kvm_sea.sim import apei, einj, firmware, physical
from pytest_kvm_sea.sim.kvm import sea, stage2, vm
from pytest_kvm_sea.sim.kvm.behaviour import Behaviour
from pytest_kvm_sea.sim.kvm.fault import FaultInfo
from pytest_kvm_sea.uapi.structures import KvmRun
from pytest_kvm_sea.vmm.vm import Vm

SELFTESTS = "pytest_kvm_sea.selftests"
MAIN = "test_sea_to_user.py::test_sea_to_user"
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run some selftests on one platform."""

    def run_selftests(platform: str, select: str, module: str = "test_sea_to_user") -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "--pyargs",
            f"{SELFTESTS}.{module}",
            "-k",
            select,
            f"--kvm-sea-platform={platform}",
            "-p",
            "no:cacheprovider",
        )

    return run_selftests


ONE = "test_sea_to_user and anonymous"
"""The port of the original itself, one test."""


def distort(monkeypatch: pytest.MonkeyPatch, change: Callable[[object], None]) -> None:
    """A kernel that fills in KVM_EXIT_ARM_SEA and then spoils it."""
    original = sea.exit_to_user

    def spoiled(behaviour: Behaviour, fault: FaultInfo, run_page: KvmRun, *, vm_has_ras: bool) -> None:
        original(behaviour, fault, run_page, vm_has_ras=vm_has_ras)
        change(behaviour.revision.arm_sea(run_page))

    monkeypatch.setattr(sea, "exit_to_user", spoiled)


PREREQUISITES = {
    # F1.1 and F1.13: what is missing ends the test as a skip, with the reason and nothing behind it
    "no-einj-table": "[[]einj-table] *; *",
    "einj-not-loaded": "[[]einj-module] *modprobe einj*",
    "einj-no-parameters": "[[]einj-parameters] *; *",
    "einj-no-notrigger": "[[]einj-notrigger] *; *",
    "locked-down": "[[]lockdown] *; *",
    "unprivileged": "[[]root] *; *",
    "no-ras": "[[]ras] *; *",
    "no-sea-capability": "[[]sea-to-user] *; *",
    # F1.3 and F1.5: a claim by APEI is a skip, and says by which signal
    "apei-claims": "[[]apei-claims] *BUS_MCEERR_AR*; *",
    "apei-claims-unhandled": "[[]apei-claims] *SI_KERNEL*; *",
    # F1.8 and F1.16: success without poison is not a failure of KVM
    "einj-no-poison": "[[]einj-poison] *; *",
}


@pytest.mark.parametrize(("platform", "reason"), PREREQUISITES.items())
def test_f1_1_3_5_8_13_16_skips_end_the_test_and_say_why(run: Run, platform: str, reason: str) -> None:
    result = run(platform, ONE)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*1 skipped *{reason}"])
    result.stdout.no_fnmatch_line("*Bail out*")


def test_f1_2_a_test_that_passes_says_so(run: Run) -> None:
    run("ampereone", ONE).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("signal", "text"),
    [
        pytest.param(Sigbus(2, HostVA(0x1000)), "*SIGBUS*BUS_ADRERR*", id="no memory error"),
        pytest.param(Sigbus(3, HostVA(0x1000)), "*SIGBUS*BUS_OBJERR*", id="the VMM's own access"),
        pytest.param(Sigbus(4, HostVA(0x1000), 12), "*but broken was 0x*", id="another page"),
    ],
)
def test_f1_3_5_a_sigbus_that_is_no_claim_is_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, signal: Sigbus, text: str
) -> None:
    def send(self: apei.Apei, _hpa: HostPA | None) -> bool:
        self._process.deliver_sigbus(signal)
        return True

    monkeypatch.setattr(apei.Apei, "claim_sea", send)
    result = run("ampereone", ONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([text])


def test_f1_6_the_guest_is_told_that_far_is_invalid(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a core that does not track the address and a kernel that says so, the guest comes by its branch for it."""
    told: list[list[str]] = []
    close = Vm.close

    def remember(self: Vm) -> None:
        told.append(self.console)
        close(self)

    monkeypatch.setattr(Vm, "close", remember)
    run("series-v1-neoverse-v2", ONE).assert_outcomes(passed=1)
    assert any("Guest observed garbage value in FAR\n" in console for console in told)


def test_f1_7_what_mainline_cannot_do_is_expected_and_strict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("neoverse-v2", ONE)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*[[]mainline-fnv] *"])
    mended = vm.Vm.__init__

    def with_fnv(self: vm.Vm, machine: object, ipa_bits: int) -> None:
        machine.behaviour = replace(machine.behaviour, injects_fnv=True)  # type: ignore[attr-defined] # the simulated one
        mended(self, machine, ipa_bits)  # type: ignore[arg-type]

    monkeypatch.setattr(vm.Vm, "__init__", with_fnv)
    result = run("neoverse-v2", ONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*[[]mainline-fnv] unexpectedly passed (strict)*"])


def test_f1_8_data_corruption_is_not_taken_for_an_exit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No abort, and the guest reads something else than was written: that is the worst, and no skip."""

    def corrupt(self: stage2.Stage2, ipa: int, _size: int, _access: object) -> None:
        slot = self._memslots.find(ipa)
        assert slot is not None
        found = self._process.resolve(slot.hva(ipa), 8)
        assert found is not None
        memory, offset = found
        memory.view[offset : offset + 64] = b"\xee" * 64

    monkeypatch.setattr(stage2.Stage2, "check", corrupt)
    result = run("ampereone", "test_sea_to_user and anonymous or ldr-x-el1")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*Data corruption not prevented by SEA: gva=0x*, data=0xeeeeeeeeeeeeeeee*"])


@pytest.mark.parametrize(
    ("kind", "outcome", "line"),
    [
        ("str-x-el1", "skipped", "*[[]store-abort] *; *"),
        ("ldr-x-el1", "failed", "*went through poison, and only the next one aborted*"),
    ],
)
def test_a_processor_may_let_a_store_through_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, outcome: str, line: str
) -> None:
    """Poison that only the guest's second look at the cell meets."""
    check = stage2.Stage2.check
    looks: list[int] = []

    def second_time(self: stage2.Stage2, ipa: int, size: int, access: bus.Access) -> None:
        looks.append(ipa)
        if ipa % 64 == PROBE_OFFSET:
            check(self, ipa, size, access)

    monkeypatch.setattr(stage2.Stage2, "check", second_time)
    result = run("ampereone", f"test_access and {kind}")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines([line])
    assert len(looks) >= 2


def test_f1_9_host_pages_need_not_be_4k(run: Run) -> None:
    """The PFN counts pages of the host: with a shift of 12 another page would be poisoned, and nothing would happen."""
    run("host-64k", ONE).assert_outcomes(passed=1)


def test_f1_10_a_hidden_pfn_poisons_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned: list[int] = []
    monkeypatch.setattr(physical.PhysicalMemory, "poison", lambda _self, hpa, _length=64: poisoned.append(hpa))
    run("unprivileged", ONE).assert_outcomes(skipped=1)
    assert poisoned == []


def test_f1_12_the_kernels_errno_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firmware.Firmware, "execute", lambda _self, _request: firmware.Status.FAILED)
    result = run("ampereone", ONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*EinjError: *error_inject*EBUSY*"])


@pytest.mark.parametrize("fails", [False, True])
def test_f1_14_einj_is_put_back(run: Run, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    left: list[dict[str, int]] = []
    store = einj.Driver.store

    def remember(self: einj.Driver, name: str, value: int) -> None:
        store(self, name, value)
        left.append({known: self.value(known) for known in ("flags", "param1", "param2", "notrigger")})

    monkeypatch.setattr(einj.Driver, "store", remember)
    if fails:
        monkeypatch.setattr(firmware.Firmware, "execute", lambda _self, _request: firmware.Status.FAILED)
    run("ampereone", ONE).assert_outcomes(**{"failed" if fails else "passed": 1})
    assert any(state["notrigger"] == 1 and state["param1"] for state in left)
    assert left[-1] == {"flags": 0, "param1": 0, "param2": 0, "notrigger": 0}


def test_f1_15_one_gigabyte_pages_are_not_needed(run: Run) -> None:
    """Where there are none, the test for them is skipped, and the one with ordinary memory passes."""
    result = run("host-64k", "test_sea_to_user.py and test_sea_to_user and (anonymous or hugetlb-1g)")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*[[]hugetlb-1g] *; *"])


def test_f1_18_the_access_lies_in_one_granule() -> None:
    assert EINJ_GVA % GRANULE == 0


def test_f1_19_a_frame_that_moves_is_not_poisoned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned: list[int] = []
    monkeypatch.setattr(physical.PhysicalMemory, "poison", lambda _self, hpa, _length=64: poisoned.append(hpa))
    translate = Pagemap.translate
    moves = itertools.count(0x1000, 0x1000)

    def moving(self: Pagemap, hva: HostVA) -> HostPA:
        return HostPA(translate(self, hva) + next(moves))

    monkeypatch.setattr(Pagemap, "translate", moving)
    result = run("ampereone", ONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*moved from*nothing was injected*"])
    assert poisoned == []


NEGATIVE = (
    "test_capability",
    "test_access and el0",
    "fetch",
    "page_tables",
    "two_vcpus",
    "exit_changes",
    "by_registers",
)
"""F1.23: what the original does not try at all."""


@pytest.mark.parametrize("select", NEGATIVE)
def test_f1_23_what_the_original_never_tried(run: Run, select: str) -> None:
    outcomes = run("series-v1", select).parseoutcomes()
    assert outcomes.get("passed", 0) >= 1
    assert not outcomes.keys() & {"failed", "errors"}


@pytest.mark.parametrize("fails", [False, True])
def test_f1_24_the_page_does_not_go_back_to_the_pool(run: Run, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    injected: list[int] = []
    offline: list[int] = []
    poison, take_offline = physical.PhysicalMemory.poison, physical.PhysicalMemory.take_offline

    def note_poison(self: physical.PhysicalMemory, hpa: HostPA, length: int = 64) -> None:
        injected.append(hpa // 4096)
        poison(self, hpa, length)

    def note_offline(self: physical.PhysicalMemory, hpa: int, was: physical.Offline) -> None:
        offline.append(hpa // 4096)
        take_offline(self, hpa, was)

    monkeypatch.setattr(physical.PhysicalMemory, "poison", note_poison)
    monkeypatch.setattr(physical.PhysicalMemory, "take_offline", note_offline)
    if fails:
        distort(monkeypatch, lambda exit_: setattr(exit_, "flags", 0x80))
    run("ampereone", ONE).assert_outcomes(**{"failed" if fails else "passed": 1})
    assert injected
    assert offline == injected


def test_f1_25_the_vm_is_given_back_when_the_test_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    close = Vm.close

    def note(self: Vm) -> None:
        close(self)
        closed.append(all(region.memory.closed for region in self.memory.regions))  # type: ignore[attr-defined]

    monkeypatch.setattr(Vm, "close", note)
    distort(monkeypatch, lambda exit_: setattr(exit_, "flags", 0x80))
    run("ampereone", ONE).assert_outcomes(failed=1)
    assert closed == [True]


IABT = "test_inject_iabt"


def test_f2_1_the_guests_assertions_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original stops at the first printf. Here a wrong class finds the guest's assertion, or no handler."""
    monkeypatch.setattr(
        "pytest_kvm_sea.sim.kvm.inject.Injector._abort_class", lambda _self, instruction: EC.DABT_CURRENT << 26
    )
    run("series-v1", "test_inject_iabt and not EINVAL", IABT).assert_outcomes(failed=6, xfailed=2, passed=5)


def test_f2_2_no_fnv_on_a_vcpu_that_never_ran(run: Run) -> None:
    run("series-v1", "test_before_the_first_run and events", IABT).assert_outcomes(passed=1)


def test_f2_3_without_the_capability_it_is_a_skip(run: Run) -> None:
    result = run("ampereone", "test_inject_iabt and test_inject_iabt", IABT)
    result.stdout.fnmatch_lines(["*[[]inject-ext-iabt] *; *"])
    assert result.parseoutcomes().get("failed", 0) == 0


LETS_THROUGH = ("F1.5", "F1.12", "F1.20", "F1.22", "F1.23", "F1.25", "F2.1", "F2.3", "F2.5", "F3.3", "F3.4", "F3.5")
"""Defects that let bugs of a kernel through."""


@pytest.mark.parametrize("number", LETS_THROUGH)
def test_what_a_defect_lets_through_is_a_mutant(number: str) -> None:
    """That the ports find it is tested with all mutants."""
    assert any(number in mutant.defects for mutant in MUTANTS.values())


def test_f3_1_a_test_that_fails_ends_no_other(run: Run) -> None:
    with MUTANTS["mmio-completed"].applied():
        found = run("ampereone", "mmio", "test_external_aborts").parseoutcomes()
    assert found["failed"] >= 4
    assert found["passed"] >= 4


def test_f3_2_a_skip_says_why(run: Run) -> None:
    result = run("ampereone", "test_mmio_ease or test_serror_amo", "test_external_aborts")
    assert result.parseoutcomes().keys() <= {"skipped", "deselected", "warnings"}
    result.stdout.fnmatch_lines(["2 skipped  [[]double-fault2] *; *", "1 skipped  [[]virtual-el2] *; *"])


def test_all_of_them_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/originals.md").read_text()
    for number in range(1, 26):
        assert f"| F1.{number} |" in text
    for number in range(1, 6):
        assert f"| F2.{number} |" in text
        assert f"| F3.{number} |" in text
