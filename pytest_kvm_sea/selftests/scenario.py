# SPDX-License-Identifier: GPL-2.0-only
"""What the sea_to_user tests share: memory that can be broken, and the way from poison to exit and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA, HostPA, HostVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.guest.ucall import Ucall, UcallCommand
from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.ras.kpageflags import PageFlag, page_flags
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.ras.retire import is_offline
from pytest_kvm_sea.ras.sigbus import BUS_MCEERR_AR, SI_KERNEL, explain, name
from pytest_kvm_sea.selftests import guests
from pytest_kvm_sea.vmm.errors import GuestFailure
from pytest_kvm_sea.vmm.exits import SeaExit, SigbusExit, VmExit
from pytest_kvm_sea.vmm.injection import write_abort

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Sigbus
    from pytest_kvm_sea.ras.einj import Einj
    from pytest_kvm_sea.ras.firmware import Firmware
    from pytest_kvm_sea.vmm.vcpu import Vcpu
    from pytest_kvm_sea.vmm.vm import Vm

GRANULE = 64
GIB = 1 << 30
SMALL = 0x20_0000
START_GVA = GuestVA(0x8000_0000)
EINJ_GVA = GuestVA(START_GVA + 0x123_4B80)
"""As in the original, but for the offset: a multiple of the granule, so that the access lies inside the poison."""
RETURN = 0xD65F_03C0
"""RET. The cell is full of it: fetched without poison it comes back, and loaded it is known data."""
DATA = RETURN << 32 | RETURN

NEEDS = ("sea-to-user", "ras", "inject-ext-dabt", "einj-memory-uer", "einj-notrigger", "pagemap-pfn")
"""What a test needs that breaks memory and waits for the exit."""

_HARDWARE_DEPENDENT = syndromes.EA | syndromes.SET_MASK | syndromes.FNV
_ABORT_FIELDS = 0xFE00_077F
"""EC, IL, FnV, EA, CM, WnR, FSC: what mainline lets through. The series gives the raw register."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A memory cell that was broken, by all its addresses."""

    gva: GuestVA
    gpa: GuestPA
    hva: HostVA
    hpa: HostPA
    walk_level: int | None = None
    """Not the cell itself is broken, but a stage-2 table of this level, on the way to it."""


def highest(vm: Vm, size: int) -> GuestPA:
    """As high in guest physical memory as the original puts its memory: aligned, below the last page."""
    return GuestPA((vm.max_gpa - PAGE_SIZE - size) // size * size)


def add_memory(
    vm: Vm, *, size: int = SMALL, gva: GuestVA = START_GVA, user: bool = False, backing: Backing = Backing.ANONYMOUS
) -> None:
    """A second memslot, mapped at ``gva``."""
    base = highest(vm, size)
    # A transparent huge page goes only where a whole one fits.
    vm.add_memory(base, size, backing=backing, alignment=SMALL if backing is Backing.THP else 0)
    vm.map(gva, base, size // PAGE_SIZE, user=user)


def populate(vm: Vm, gva: GuestVA) -> None:
    """Put known data into the granule that holds ``gva``, so that its page is there."""
    vm.write(GuestVA(gva // GRANULE * GRANULE), DATA.to_bytes(8, "little") * (GRANULE // 8))


def check_backing(vm: Vm, gva: GuestVA, backing: Backing) -> None:
    """The page behind ``gva``, which is populated, is of the kind that was asked for. Skips without huge pages."""
    flags = page_flags(vm.host, Pagemap(vm.host).translate(vm.gva_to_hva(gva)))
    if backing is Backing.THP and PageFlag.THP not in flags:
        pytest.skip(
            "[thp] the kernel gave small pages where a transparent huge page was asked for; "
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and free memory in one piece"
        )
    huge = {Backing.THP: PageFlag.THP, Backing.HUGETLB_2M: PageFlag.HUGE, Backing.HUGETLB_1G: PageFlag.HUGE}
    assert flags & (PageFlag.THP | PageFlag.HUGE) == huge.get(backing, PageFlag(0)), f"page flags {flags!r}"


def break_memory(vm: Vm, einj: Einj, gva: GuestVA) -> Broken:
    """Populate the granule that holds ``gva``, and break it by EINJ."""
    populate(vm, gva)
    if einj.broken_table_level is not None:
        warm_up(vm, gva)
    return _inject(vm, einj, vm.gva_to_gpa(gva), gva)


def break_physical(vm: Vm, einj: Einj, gpa: GuestPA, gva: GuestVA) -> Broken:
    """Break the granule at a guest physical address; ``gva`` is the address that will run into it."""
    if einj.broken_table_level is not None:
        pytest.skip(
            "[einj-cell] EINJ breaks the stage-2 table that maps a page here, and no cell of memory; "
            "a server with real errors, or --kvm-sea-host sim"
        )
    return _inject(vm, einj, gpa, gva)


def _inject(vm: Vm, einj: Einj, gpa: GuestPA, gva: GuestVA) -> Broken:
    hva = vm.memory.hva(gpa)
    hpa = einj.inject_at(hva).address
    if is_offline(vm.host, hpa):
        pytest.skip(
            "[einj-notrigger] the firmware reported the error at once, although notrigger was set, and the kernel took"
            " the page offline before the guest could consume it; use firmware that honours notrigger"
        )
    level = None if einj.broken_table_level is None else einj.broken_table_level()
    return Broken(gva, gpa, hva, hpa, walk_level=level)


def warm_up(vm: Vm, gva: GuestVA) -> None:
    """Have the guest touch a page and forget it again, so that stage 2 maps it. It must not have run yet."""
    vm.set_global("warm", gva)
    vm.vcpus[0].expect_sync(guests.WARM)
    vm.set_global("warm", 0)


def break_table(vm: Vm, firmware: Firmware, gva: GuestVA) -> Broken:
    """Break the stage-2 table on the way to ``gva``: the guest touches another page of its block first.

    The guest must be one that warms up (`guests.consumer`), and has not run yet.
    """
    populate(vm, gva)
    neighbour = GuestVA(gva // SMALL * SMALL)
    assert neighbour // PAGE_SIZE != gva // PAGE_SIZE, f"{gva:#x} is in the page that is touched first"
    populate(vm, neighbour)
    warm_up(vm, neighbour)
    table = firmware.break_table(Pagemap(vm.host, vm.trace).translate(vm.gva_to_hva(neighbour)))
    hva = vm.gva_to_hva(gva)
    return Broken(gva, vm.gva_to_gpa(gva), hva, Pagemap(vm.host, vm.trace).translate(hva), walk_level=table.level)


def run_to_sea(vcpu: Vcpu, broken: Broken, *, write: bool = False) -> SeaExit:
    """Run until the broken cell is consumed and KVM exits with it.

    Skips, with the reason, where the host's APEI claims the abort, where the processor lets a store to poison through
    (``write``: the access was one), and where the firmware placed no poison. Anything else that is not the exit is a
    failure.
    """
    result = _resume(vcpu, broken)
    assert isinstance(result, SeaExit), f"expected KVM_EXIT_ARM_SEA, got {result}; guest at {vcpu.where()}"
    symbols = vcpu.vm.program.symbols if vcpu.vm.program else {}
    if vcpu.pc == symbols.get("probe"):
        assert write, f"the access at {vcpu.vm.symbol('access'):#x} went through poison, and only the next one aborted"
        pytest.skip(
            "[store-abort] the processor lets a store to poisoned memory through and aborts the next load; "
            "nothing to get: it may do so"
        )
    return result


def run_to_done(vcpu: Vcpu, broken: Broken) -> None:
    """Run a guest that consumes the error and ends by itself. Skips as `run_to_sea` does."""
    result = _resume(vcpu, broken)
    done = isinstance(result, Ucall) and result.cmd is UcallCommand.DONE
    assert done, f"expected the guest to be done, got {result}; guest at {vcpu.where()}"


def run_to_stage(vcpu: Vcpu, broken: Broken, stage: int) -> None:
    """Run a guest that consumes the error until it says that it got to ``stage``. Skips as `run_to_sea` does."""
    result = _resume(vcpu, broken)
    there = isinstance(result, Ucall) and result.cmd is UcallCommand.SYNC and result.stage == stage
    assert there, f"expected the guest at stage {stage:#x}, got {result}; guest at {vcpu.where()}"


def _resume(vcpu: Vcpu, broken: Broken) -> Ucall | VmExit:
    """Run, and skip where the host makes the test impossible."""
    try:
        result = vcpu.resume()
    except GuestFailure:
        _skip_if_no_poison(vcpu.vm)
        raise
    if isinstance(result, SigbusExit):
        _skip_if_claimed(result.signals[0], broken)
    return result


def _skip_if_claimed(signal: Sigbus, broken: Broken) -> NoReturn:
    """The host dealt with the abort itself. That is its right, and no failure of KVM's."""
    if signal.code == BUS_MCEERR_AR:
        lost = 1 << max(signal.lsb, 12)
        assert signal.address // lost == broken.hva // lost, f"{explain(signal)}, but broken was {broken.hva:#x}"
    if signal.code in {BUS_MCEERR_AR, SI_KERNEL}:
        pytest.skip(
            f"[apei-claims] the host's APEI claimed the abort (SIGBUS, {name(signal.code)}); "
            "use a host whose firmware leaves a guest's SEA to KVM"
        )
    pytest.fail(f"KVM_RUN was ended by a signal that is no claim: {explain(signal)}", pytrace=False)


def _skip_if_no_poison(vm: Vm) -> None:
    """The guest got past the access, and past another one to the same granule, with its data intact."""
    if vm.get_global("data") == DATA:
        pytest.skip(
            "[einj-poison] EINJ reported success, but the guest read the memory undisturbed: no poison was placed; "
            "use firmware that really injects (the kernel's log may say more)"
        )


def check_exit(vcpu: Vcpu, sea: SeaExit, broken: Broken, *, write: bool = False, instruction: bool = False) -> None:
    """What kvm_run.arm_sea must say of the abort, in every revision; with a GPA where FAR is valid, but on no walk."""
    walk = broken.walk_level is not None
    status = syndromes.FSC_SEA if broken.walk_level is None else syndromes.fsc_sea_walk(broken.walk_level)
    status |= syndromes.WNR if write else 0
    expected = syndromes.syndrome(EC.IABT_LOWER if instruction else EC.DABT_LOWER, status)
    shown = sea.esr & _ABORT_FIELDS & ~_HARDWARE_DEPENDENT
    assert shown == expected, f"esr {sea.esr:#x}: expected {expected:#x}"
    # KVM translates FAR_EL2 for it, which an abort on a walk does not allow. Where it fails it enters the guest again.
    has_gpa = sea.far_valid and not walk
    assert sea.gpa_valid == has_gpa, f"GPA_VALID should be {int(has_gpa)}: {sea}"
    check_addresses(vcpu, sea, broken)


def check_addresses(vcpu: Vcpu, sea: SeaExit, broken: Broken) -> None:
    """Flags, and addresses as the flags say: exact where valid, zero where not; no bits that nobody knows."""
    revision = vcpu.vm.revision
    assert sea.flags & ~revision.flags_mask == 0, f"unknown flags in {sea.flags:#x}"
    assert sea.esr & ~revision.esr_mask == 0, f"esr {sea.esr:#x} has bits that KVM should keep to itself"
    assert sea.gva_valid == sea.far_valid
    assert sea.gva == (broken.gva if sea.gva_valid else 0)
    assert sea.gpa == (broken.gpa // PAGE_SIZE * PAGE_SIZE if sea.gpa_valid else 0)


def replay(vcpu: Vcpu, sea: SeaExit, way: str) -> None:
    """Give the abort to the guest: by KVM_SET_VCPU_EVENTS, or by writing its registers."""
    vcpu.vm.set_global("far_invalid", int(not sea.far_valid))
    if way == "one-reg":
        write_abort(
            vcpu,
            GuestVA(sea.gva),
            instruction=sea.is_instruction_abort,
            iss=0 if sea.far_valid else syndromes.FNV,
        )
        return
    iss = syndromes.FNV if vcpu.vm.revision.injects_with_esr and not sea.far_valid else None
    if sea.is_instruction_abort:
        vcpu.inject_instruction_abort(iss)
    else:
        vcpu.inject_data_abort(iss)


def check_each_vcpu(vm: Vm, broken: Broken) -> None:
    """All vCPUs run into the same error: each gets an exit of its own, its own abort, and comes to its end."""
    # The last one first: what the exit says must not be that of the first vCPU.
    exits = []
    for vcpu in vm.vcpus[::-1]:
        exits.append((vcpu, run_to_sea(vcpu, broken)))
        check_exit(*exits[-1], broken)
    for vcpu, sea in exits:
        replay(vcpu, sea, "events")
        vcpu.expect_done()
