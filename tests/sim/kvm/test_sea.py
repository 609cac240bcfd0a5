# SPDX-License-Identifier: GPL-2.0-only
"""What the simulated KVM does with a guest's external abort, by platform (mmu.c kvm_handle_guest_sea; the series)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA, HostPA, HostVA
from pytest_kvm_sea.cpu import bus
from pytest_kvm_sea.hosts.contract import Backing, Sigbus
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.platforms.model import Platform, SeaPolicy
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.kvm import stage2
from pytest_kvm_sea.uapi import kvm as uapi
from pytest_kvm_sea.uapi.structures import UserspaceMemoryRegion
from pytest_kvm_sea.vmm.errors import RunError
from pytest_kvm_sea.vmm.exits import SeaExit, SigbusExit
from pytest_kvm_sea.vmm.vcpu import Vcpu

Bare = Callable[..., Vcpu]

CODE, VECTORS = 0x1_0000, 0x2_0000
CELL = 0x10_0040
LDR_X0_X1, STR_X0_X1, BR_X1, SELF = 0xF940_0020, 0xF900_0020, 0xD61F_0020, 0x1400_0000
EL1H, EL1H_OPEN, EL0 = 0x3C5, 0x5, 0x0
RESET_ESR = 0x1DE7_EC7E_DBAD_C0DE
MMU_ON = 0xC5_107D


def sim(vcpu: Vcpu) -> SimHost:
    assert isinstance(vcpu.vm.host, SimHost)
    return vcpu.vm.host


def poison(vcpu: Vcpu, gpa: int) -> None:
    """Break the granule at a guest physical address."""
    vcpu.vm.memory.view(GuestPA(gpa), 1)[0] = 1
    hpa = sim(vcpu).process.hpa_of(vcpu.vm.memory.hva(GuestPA(gpa)))
    assert hpa is not None
    sim(vcpu).physical.poison(hpa)


def broken(
    bare: Bare, word: int = LDR_X0_X1, *, platform: str | Platform = "ampereone", enable: bool = True, **regs: int
) -> Vcpu:
    """A guest that will run into poison at CELL with its first instruction."""
    vcpu = bare(word, SELF, platform=platform, **{"x0": 0x77, "x1": CELL, **regs})
    poison(vcpu, CELL)
    if enable:
        vcpu.vm.enable_sea_to_user()
    return vcpu


def run_to_sea(vcpu: Vcpu) -> SeaExit:
    exit_ = vcpu.run()
    assert isinstance(exit_, SeaExit), str(exit_)
    return exit_


def spin(vcpu: Vcpu) -> None:
    vcpu.timeout = 0.01
    with pytest.raises(Exception, match="did not end"):
        vcpu.run()


EXITS = [
    # platform, word, PSTATE: esr, flags, gva valid, gpa valid
    pytest.param("ampereone", LDR_X0_X1, EL1H, 0x9200_0010, 1, True, True, id="load at EL1"),
    pytest.param("ampereone", STR_X0_X1, EL1H, 0x9200_0050, 1, True, True, id="store at EL1"),
    pytest.param("ampereone", LDR_X0_X1, EL0, 0x9200_0010, 1, True, True, id="load at EL0"),
    pytest.param("ampereone", BR_X1, EL1H, 0x8200_0010, 1, True, True, id="fetch"),
    pytest.param("neoverse-v2", LDR_X0_X1, EL1H, 0x9200_0410, 0, False, False, id="address not tracked"),
    pytest.param("series-v1", LDR_X0_X1, EL1H, 0x9200_0010, 3, True, True, id="series"),
    pytest.param("series-v1-neoverse-v2", LDR_X0_X1, EL1H, 0x9200_0410, 0, False, False, id="series, not tracked"),
    pytest.param("series-v1-parity", LDR_X0_X1, EL1H, 0x9200_0018, 3, True, True, id="parity"),
]


@pytest.mark.parametrize(("platform", "word", "pstate", "esr", "flags", "gva_valid", "gpa_valid"), EXITS)
def test_exit(
    bare: Bare, platform: str, word: int, pstate: int, esr: int, flags: int, *, gva_valid: bool, gpa_valid: bool
) -> None:
    vcpu = broken(bare, word, platform=platform, pstate=pstate)
    before = vcpu.registers("pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1", "x0", "x1")
    sea = run_to_sea(vcpu)
    assert sea == SeaExit(
        esr=esr,
        flags=flags,
        gva=GuestVA(CELL if gva_valid else 0),
        gpa=GuestPA(CELL & ~0xFFF if gpa_valid else 0),
        gva_valid=gva_valid,
        gpa_valid=gpa_valid,
    )
    assert vcpu.registers(*before) == before
    assert vcpu.get_reg("pc") == (CELL if word == BR_X1 else CODE)


def test_without_an_injection_the_same_exit_comes_again(bare: Bare) -> None:
    vcpu = broken(bare)
    assert run_to_sea(vcpu) == run_to_sea(vcpu)


def test_repaired_memory_can_be_used_again(bare: Bare) -> None:
    vcpu = broken(bare)
    run_to_sea(vcpu)
    hpa = sim(vcpu).process.hpa_of(vcpu.vm.memory.hva(GuestPA(CELL)))
    assert hpa is not None
    sim(vcpu).physical.unpoison(hpa)
    spin(vcpu)
    assert vcpu.registers("pc", "x0") == {"pc": CODE + 4, "x0": 1}


@pytest.mark.parametrize("offset", [-1, 0, 56, 63, 64])
def test_poison_is_a_granule_of_64_bytes(bare: Bare, offset: int) -> None:
    """A load of 8 bytes meets the poison as soon as one of its bytes lies in the granule."""
    vcpu = broken(bare, x1=CELL + offset)
    if offset == 64:
        spin(vcpu)
        assert vcpu.get_reg("pc") == CODE + 4
    else:
        # A load that begins before the granule faults at the first byte inside it or at its own address; KVM shows the
        # page either way.
        assert run_to_sea(vcpu).gpa == CELL & ~0xFFF
    vcpu = broken(bare, x1=CELL - 8)
    spin(vcpu)
    assert vcpu.get_reg("pc") == CODE + 4


@pytest.mark.parametrize("platform", ["ampereone", "series-v1", "mainline-6.19"])
def test_capability_off_masked(bare: Bare, platform: str) -> None:
    """The guest gets an SError, which waits; the access itself is repeated for ever."""
    vcpu = broken(bare, platform=platform, enable=False)
    spin(vcpu)
    exception = vcpu.get_events().exception
    assert (exception.serror_pending, exception.serror_esr) == (1, 0x100_0000)
    assert vcpu.registers("pc", "esr_el1") == {"pc": CODE, "esr_el1": RESET_ESR}


@pytest.mark.parametrize("platform", ["ampereone", "series-v1"])
def test_capability_off_unmasked(bare: Bare, platform: str) -> None:
    vcpu = broken(bare, platform=platform, enable=False, pstate=EL1H_OPEN)
    spin(vcpu)
    assert vcpu.registers("pc", "esr_el1", "elr_el1") == {
        "pc": VECTORS + 0x380,
        "esr_el1": 0xBF00_0000,
        "elr_el1": CODE,
    }
    assert vcpu.get_events().exception.serror_pending == 0


def test_capability_off_at_el0_is_the_same_serror(bare: Bare) -> None:
    """That is what the series is about: an SError does not say that only a process is to blame."""
    vcpu = broken(bare, enable=False, pstate=EL0)
    spin(vcpu)
    assert vcpu.registers("pc", "esr_el1", "spsr_el1") == {"pc": VECTORS + 0x580, "esr_el1": 0xBF00_0000, "spsr_el1": 0}


@pytest.mark.parametrize("enable", [True, False])
def test_without_ras_the_abort_never_reaches_kvm(bare: Bare, enable: bool) -> None:
    """HCR_EL2.TEA does not exist there: the guest's EL1 takes its own abort."""
    vcpu = broken(bare, platform="no-ras", enable=enable)
    spin(vcpu)
    assert vcpu.registers("pc", "esr_el1", "far_el1", "elr_el1") == {
        "pc": VECTORS + 0x200,
        "esr_el1": 0x9600_0010,
        "far_el1": CELL,
        "elr_el1": CODE,
    }


def test_without_ras_mainline_takes_every_abort_for_its_own(bare: Bare) -> None:
    """The firmware hands the abort on to EL2, and host_owns_sea says that the guest cannot have caused it."""
    vcpu = broken(bare, platform="no-ras-parity", pstate=EL1H_OPEN)
    spin(vcpu)
    assert vcpu.registers("pc", "esr_el1") == {"pc": VECTORS + 0x380, "esr_el1": 0xBF00_0000}


def test_apei_claims(bare: Bare) -> None:
    vcpu = broken(bare, platform="apei-claims")
    hva = vcpu.vm.memory.hva(GuestPA(CELL))
    for _ in range(2):  # the page is offline now: touching it again is a second SIGBUS, without an abort
        result = vcpu.run()
        assert isinstance(result, SigbusExit)
        (signal,) = result.signals
        assert (signal.code, signal.address, signal.lsb) == (4, hva & ~0xFFF, 12)
    assert vcpu.registers("pc", "esr_el1") == {"pc": CODE, "esr_el1": RESET_ESR}
    assert vcpu.get_events().exception.serror_pending == 0


def test_apei_claims_an_abort_without_an_address(bare: Bare) -> None:
    """An error in stage 2's own tables, after one in memory: no page of the VMM's is to blame, and none is taken."""
    vcpu = broken(bare, platform="apei-claims")
    vcpu.vm.add_memory(GuestPA(0x4000_0000), 0x20_0000)
    assert isinstance(vcpu.run(), SigbusExit)
    taken = vcpu.vm.host.physical.is_offline  # type: ignore[attr-defined] # the simulated one
    hva = vcpu.vm.memory.hva(GuestPA(0x4000_0000))
    vcpu.vm.memory.view(GuestPA(0x4000_0000), 1)[0] = 1
    vcpu.set_reg("x1", 0x4000_0000)
    break_stage2(vcpu, 0x4000_0000, 3)
    result = vcpu.run()
    assert isinstance(result, SigbusExit)
    assert (result.signals[0].code, result.signals[0].address) == (0x80, 0)
    assert not taken(sim(vcpu).process.hpa_of(hva))


def test_apei_claims_a_page_of_the_hosts_size(bare: Bare) -> None:
    platform = load_platform("host-64k")
    claiming = replace(platform, firmware=replace(platform.firmware, sea=SeaPolicy.CLAIMED))
    vcpu = broken(bare, platform=claiming)
    hva = vcpu.vm.memory.hva(GuestPA(CELL))
    for _ in range(2):
        result = vcpu.run()
        assert isinstance(result, SigbusExit)
        (signal,) = result.signals
        assert (signal.code, signal.address, signal.lsb) == (4, hva & ~0xFFFF, 16)


def test_cache_maintenance_that_counts_as_a_store_to_read_only_memory(bare: Bare) -> None:
    """DC IVAC: WnR and CM, and no syndrome to emulate it by."""
    vcpu = bare(0xD508_7621, SELF, x1=0x1000_0000)
    vcpu.vm.add_memory(GuestPA(0x1000_0000), 0x1_0000, readonly=True)
    with pytest.raises(RunError, match="ENOSYS"):
        vcpu.run()


def test_apei_claims_and_memory_failure_cannot_act(bare: Bare) -> None:
    result = broken(bare, platform="apei-claims-unhandled").run()
    assert isinstance(result, SigbusExit)
    (signal,) = result.signals
    assert (signal.code, signal.address) == (0x80, 0)


def claims(policy: SeaPolicy, *, tells_duplicates: bool = True) -> Platform:
    platform = load_platform("ampereone")
    kernel = replace(platform.kernel, ghes_tells_duplicates=tells_duplicates)
    return replace(platform, kernel=kernel, firmware=replace(platform.firmware, sea=policy))


def test_apei_does_not_claim_by_a_record_that_it_has_seen(bare: Bare) -> None:
    assert run_to_sea(broken(bare, platform=claims(SeaPolicy.DUPLICATE))).gva == CELL


def test_a_kernel_that_claims_by_any_record_lets_the_guest_consume_the_error_for_ever(bare: Bare) -> None:
    """6.12. It ends when the time is up, and the guest is where it was."""
    vcpu = broken(bare, platform=claims(SeaPolicy.DUPLICATE, tells_duplicates=False))
    spin(vcpu)
    assert vcpu.registers("pc", "esr_el1") == {"pc": CODE, "esr_el1": RESET_ESR}


def test_a_claim_that_cannot_act_is_not_made_twice(bare: Bare) -> None:
    """SIGBUS, SI_KERNEL; a VMM that runs on gets the exit, because the record is a duplicate now."""
    vcpu = broken(bare, platform="apei-claims-unhandled")
    assert isinstance(vcpu.run(), SigbusExit)
    assert run_to_sea(vcpu).gva == CELL


def test_a_record_of_another_page_takes_that_page_and_the_guest_meets_its_error_again(bare: Bare) -> None:
    """No signal: nobody has the other page. The next abort is without a record, and KVM exits with it."""
    vcpu = broken(bare)
    other = sim(vcpu).process.map_memory(4096)
    hpa = HostPA(other.hpa(0))
    other.close()
    sim(vcpu).firmware.apei.record = (hpa, lambda: None)
    assert run_to_sea(vcpu).gva == CELL
    assert sim(vcpu).physical.is_offline(hpa)


# where the slot begins, and in its memory: what stage 2 would map in one piece
BLOCKS = [
    pytest.param(Backing.HUGETLB_2M, 0x4000_0000, 0, 21, id="2 MiB"),
    pytest.param(Backing.HUGETLB_2M, 0x4000_1000, 0, 12, id="2 MiB, aligned differently"),
    pytest.param(Backing.HUGETLB_2M, 0x4000_1000, 0x1000, 12, id="2 MiB, not all of it in the slot"),
    pytest.param(Backing.HUGETLB_1G, 0x4000_0000, 0, 30, id="1 GiB"),
    pytest.param(Backing.HUGETLB_1G, 0x4020_0000, 0, 21, id="1 GiB, aligned to 2 MiB"),
    pytest.param(Backing.HUGETLB_1G, 0x4000_1000, 0, 12, id="1 GiB, aligned to nothing"),
    pytest.param(Backing.THP, 0x4000_0000, 0, 12, id="transparent huge page"),
]


@pytest.mark.parametrize(("backing", "gpa", "start", "lsb"), BLOCKS)
def test_how_much_is_lost_to_a_guest(bare: Bare, backing: Backing, gpa: int, start: int, lsb: int) -> None:
    """si_addr is the page that the guest wanted, si_addr_lsb the block that KVM would have mapped."""
    vcpu = bare(LDR_X0_X1, SELF, x1=gpa + 0x5040)
    size = 1 << (30 if backing is Backing.HUGETLB_1G else 21)
    memory = sim(vcpu).process.map_memory(size, backing)
    memory.view[start + 0x5040] = 1
    region = UserspaceMemoryRegion(
        slot=5, guest_phys_addr=gpa, memory_size=size - start, userspace_addr=memory.address + start
    )
    vcpu.vm.file.ioctl(uapi.KVM_SET_USER_MEMORY_REGION, region)
    sim(vcpu).firmware.failure.handle(memory.hpa(start + 0x5040))
    result = vcpu.run()
    assert isinstance(result, SigbusExit)
    assert result.signals == (Sigbus(4, HostVA(memory.address + start + 0x5000), lsb),)


INJECTED = [
    pytest.param("ampereone", EL1H, 0x9600_0010, True, id="mainline, EL1"),
    pytest.param("ampereone", EL0, 0x9200_0010, True, id="mainline, EL0"),
    pytest.param("neoverse-v2", EL1H, 0x9600_0010, True, id="mainline never says FnV"),
    pytest.param("series-v1", EL1H, 0x9600_0010, False, id="series"),
    pytest.param("series-v1-neoverse-v2", EL1H, 0x9600_0410, False, id="series says FnV"),
    pytest.param("mainline-6.19", EL1H, 0x9600_0010, True, id="IL of the abort"),
]


@pytest.mark.parametrize(("platform", "pstate", "esr", "at_once"), INJECTED)
def test_replay(bare: Bare, platform: str, pstate: int, esr: int, *, at_once: bool) -> None:
    vcpu = broken(bare, platform=platform, pstate=pstate)
    sea = run_to_sea(vcpu)
    vcpu.inject_data_abort()
    vector = VECTORS + (0x400 if pstate == EL0 else 0x200)
    assert vcpu.get_reg("pc") == (vector if at_once else CODE)
    if sea.gva_valid:
        assert vcpu.get_reg("far_el1") == CELL
    spin(vcpu)
    assert vcpu.registers("pc", "pstate", "esr_el1", "elr_el1", "spsr_el1", "x0") == {
        "pc": vector,
        "pstate": 0x3C5,
        "esr_el1": esr,
        "elr_el1": CODE,
        "spsr_el1": pstate,
        "x0": 0x77,
    }


def mapped(bare: Bare, platform: str, gva: int) -> Vcpu:
    """A guest with its MMU on, that loads from ``gva``; nothing is broken yet."""
    vcpu = bare(LDR_X0_X1, SELF, platform=platform, x1=gva, sctlr_el1=MMU_ON)
    for page in (CODE, VECTORS):
        vcpu.vm.map(GuestVA(page), GuestPA(page), 1)
    vcpu.vm.map(GuestVA(gva), GuestPA(CELL & ~0xFFF), 1)
    vcpu.vm.enable_sea_to_user()
    return vcpu


WALK_GVA = 32 << 39 | 32 << 30 | 32 << 21 | 32 << 12
"""In a different granule of every table than the program, which lies at index 0."""


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("platform", "base", "flags"), [("ampereone", 0x14, 0), ("series-v1", 0x14, 1), ("series-v1-parity", 0x1C, 1)]
)
def test_poison_in_the_guests_page_tables(bare: Bare, platform: str, base: int, flags: int, level: int) -> None:
    """The status code has the level; the address that was translated is known, where it lies in memory is not."""
    vcpu = mapped(bare, platform, WALK_GVA)
    at, entry, _ = vcpu.vm.page_tables.walk(GuestVA(WALK_GVA))[level]
    assert at == level
    hpa = sim(vcpu).process.hpa_of(vcpu.vm.memory.hva(entry))
    assert hpa is not None
    sim(vcpu).physical.poison(hpa)
    sea = run_to_sea(vcpu)
    assert (sea.esr & 0xFFFF, sea.flags, sea.gva, sea.gpa) == (base + level, flags, WALK_GVA, 0)


def break_stage2(vcpu: Vcpu, ipa: int, level: int) -> None:
    """Poison the stage-2 table of this level that translates an address."""
    shift = 12 + 9 * (3 - level) + 9
    vcpu.vm.file.stage2.broken_tables[(shift, ipa >> shift)] = level  # type: ignore[attr-defined] # the simulated one


@pytest.mark.parametrize("level", [2, 3])
def test_poison_in_stage_2_on_a_data_access_cannot_be_told_from_stage_1(bare: Bare, level: int) -> None:
    vcpu = bare(LDR_X0_X1, SELF, x1=0x4000_0000)
    vcpu.vm.add_memory(GuestPA(0x4000_0000), 0x20_0000)
    vcpu.vm.enable_sea_to_user()
    break_stage2(vcpu, 0x4000_0000, level)
    sea = run_to_sea(vcpu)
    assert (sea.esr, sea.flags, sea.gva, sea.gpa) == (0x9200_0014 + level, 0, 0x4000_0000, 0)


@pytest.mark.parametrize("platform", ["ampereone", "series-v1"])
def test_poison_in_stage_2_on_a_stage_1_walk_belongs_to_the_host(bare: Bare, platform: str) -> None:
    """S1PTW: mainline keeps it and the guest gets an SError; the series gives it to the VMM with the raw syndrome."""
    vcpu = mapped(bare, platform, WALK_GVA)
    vcpu.vm.add_memory(GuestPA(0x4000_0000), 0x20_0000)
    root = vcpu.vm.page_tables.root
    vcpu.vm.memory.view(GuestPA(0x4000_0000), 4096)[:] = vcpu.vm.memory.view(root, 4096)
    vcpu.set_reg("ttbr0_el1", 0x4000_0000)
    vcpu.set_reg("pstate", EL1H_OPEN)
    break_stage2(vcpu, 0x4000_0000, 3)
    if platform == "series-v1":
        sea = run_to_sea(vcpu)
        assert sea.esr & 0xBF == 0x97
    else:
        vcpu.timeout = 0.01
        with pytest.raises(Exception, match="did not end"):
            vcpu.run()
        # The vectors cannot be reached either: nothing but the SError has happened.
        assert vcpu.get_reg("esr_el1") == 0xBF00_0000


def test_set_is_hidden_from_a_vm_without_ras(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESR.SET is passed on only where the VM's own ID register has FEAT_RAS."""

    def restartable(*, parity: bool, source: int) -> bus.ExternalAbort:
        return bus.ExternalAbort(parity=parity, severity=3, external=True, source=source)

    monkeypatch.setattr(stage2, "ExternalAbort", restartable)
    assert run_to_sea(broken(bare)).esr == 0x9200_1A10
    vcpu = broken(bare)
    features = vcpu.get_reg("id_aa64pfr0_el1")
    vcpu.set_reg("id_aa64pfr0_el1", features & ~(0xF << 28))
    assert run_to_sea(vcpu).esr == 0x9200_0210


def test_id_registers_only_shrink_and_freeze(bare: Bare) -> None:
    vcpu = bare(SELF)
    features = vcpu.get_reg("id_aa64pfr0_el1")
    with pytest.raises(OSError, match="Invalid"):
        vcpu.set_reg("id_aa64pfr0_el1", features | 0xF << 28)
    spin(vcpu)
    vcpu.set_reg("id_aa64pfr0_el1", features)
    with pytest.raises(OSError, match="busy"):
        vcpu.set_reg("id_aa64pfr0_el1", features & ~(0xF << 28))
