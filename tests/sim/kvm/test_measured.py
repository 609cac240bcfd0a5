# SPDX-License-Identifier: GPL-2.0-only
"""The simulated KVM against values that real ones gave: Linux 7.3.4, and 6.19 where it differs."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pytest_kvm_sea.addresses import GuestPA
from pytest_kvm_sea.uapi.structures import VcpuEvents
from pytest_kvm_sea.vmm.errors import RunError
from pytest_kvm_sea.vmm.exits import MmioExit, NisvExit
from pytest_kvm_sea.vmm.vcpu import Vcpu

Bare = Callable[..., Vcpu]

CODE, VECTORS, MMIO = 0x1_0000, 0x2_0000, 0x800_0000
LDR_X0_X1, STR_X0_X1 = 0xF940_0020, 0xF900_0020
LDR_X0_X1_POST, STP_X0_X2_X1 = 0xF840_8420, 0xA900_0820
MSR_DAIFCLR_A, ISB, SELF, BR_X1 = 0xD503_44FF, 0xD503_3FDF, 0x1400_0000, 0xD61F_0020
EL1H, EL1H_A_ONLY, EL1H_OPEN, EL0 = 0x3C5, 0x105, 0x5, 0x0
NEW, OLD = "ampereone", "mainline-6.19"
RESET_ESR = 0x1DE7_EC7E_DBAD_C0DE


def events(vcpu: Vcpu, **fields: int) -> None:
    """KVM_SET_VCPU_EVENTS with these fields of `exception`; ``pad`` and ``reserved`` are indices to set to 1."""
    given = VcpuEvents()
    for name, value in fields.items():
        if name == "pad":
            given.exception.pad[value] = 1
        elif name == "reserved":
            given.reserved[value] = 1
        else:
            setattr(given.exception, name, value)
    vcpu.set_events(given)


def pending(vcpu: Vcpu) -> tuple[int, int, int, int]:
    """serror_pending, serror_has_esr, serror_esr, ext_dabt_pending as KVM_GET_VCPU_EVENTS tells them."""
    exception = vcpu.get_events().exception
    return exception.serror_pending, exception.serror_has_esr, exception.serror_esr, exception.ext_dabt_pending


def spin(vcpu: Vcpu) -> None:
    """Let the guest run until the time-out interrupts it."""
    vcpu.timeout = 0.01
    with pytest.raises(Exception, match="did not end"):
        vcpu.run()


def test_reset_values(bare: Bare) -> None:
    vcpu = bare(SELF)
    assert vcpu.registers("pstate", "sctlr_el1", "esr_el1", "far_el1", "elr_el1", "spsr_el1", "mpidr_el1") == {
        "pstate": 0x3C5,
        "sctlr_el1": 0xC5_0078,
        "esr_el1": RESET_ESR,
        "far_el1": RESET_ESR,
        "elr_el1": 0,
        "spsr_el1": 0,
        "mpidr_el1": 0x8000_0000,
    }


@pytest.mark.parametrize(
    ("word", "pstate", "vector", "esr"),
    [
        pytest.param(LDR_X0_X1, EL1H, 0x200, 0x9600_0010, id="load at EL1"),
        pytest.param(STR_X0_X1, EL1H, 0x200, 0x9600_0010, id="store at EL1"),
        pytest.param(LDR_X0_X1, EL0, 0x400, 0x9200_0010, id="load at EL0"),
    ],
)
def test_abort_cancels_an_mmio(bare: Bare, word: int, pstate: int, vector: int, esr: int) -> None:
    vcpu = bare(word, SELF, x0=0x1234, x1=MMIO, pstate=pstate)
    assert isinstance(vcpu.run(), MmioExit)
    events(vcpu, ext_dabt_pending=1)
    assert vcpu.registers("pc", "pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1", "x0") == {
        "pc": VECTORS + vector,
        "pstate": 0x3C5,
        "esr_el1": esr,
        "far_el1": MMIO,
        "elr_el1": CODE,
        "spsr_el1": pstate,
        "x0": 0x1234,
    }
    spin(vcpu)
    assert vcpu.get_reg("pc") == VECTORS + vector
    assert vcpu.get_reg("x0") == 0x1234


@pytest.mark.parametrize(("platform", "esr"), [(NEW, 0x9600_0010), (OLD, 0x9400_0010)])
def test_abort_into_a_vcpu_that_never_ran(bare: Bare, platform: str, esr: int) -> None:
    vcpu = bare(SELF, platform=platform)
    events(vcpu, ext_dabt_pending=1)
    assert vcpu.registers("esr_el1", "far_el1", "elr_el1", "pc") == {
        "esr_el1": esr,
        "far_el1": 0,
        "elr_el1": CODE,
        "pc": VECTORS + 0x200,
    }


def test_a_second_abort_nests(bare: Bare) -> None:
    vcpu = bare(SELF)
    events(vcpu, ext_dabt_pending=1)
    events(vcpu, ext_dabt_pending=1)
    assert vcpu.registers("elr_el1", "pc") == {"elr_el1": VECTORS + 0x200, "pc": VECTORS + 0x200}


@pytest.mark.parametrize(
    ("platform", "fields", "esr"),
    [
        (NEW, {}, 0xBF00_0000),
        (OLD, {}, 0xBD00_0000),
        (NEW, {"serror_has_esr": 1, "serror_esr": 0x1FF_FFFF}, 0xBFFF_FFFF),
        (NEW, {"serror_has_esr": 1, "serror_esr": 0}, 0xBE00_0000),
        (OLD, {"serror_has_esr": 1, "serror_esr": 0}, 0xBC00_0000),
    ],
)
def test_unmasked_serror_is_entered_at_once(bare: Bare, platform: str, fields: dict[str, int], esr: int) -> None:
    vcpu = bare(SELF, platform=platform, pstate=EL1H_OPEN)
    events(vcpu, serror_pending=1, **fields)
    assert vcpu.registers("pc", "pstate", "esr_el1", "far_el1") == {
        "pc": VECTORS + 0x380,
        "pstate": 0x3C5,
        "esr_el1": esr,
        "far_el1": RESET_ESR,
    }
    assert pending(vcpu) == (0, 1, 0, 0)


def test_masked_serror_waits(bare: Bare) -> None:
    vcpu = bare(SELF, pstate=EL1H_A_ONLY)
    events(vcpu, serror_pending=1)
    assert vcpu.registers("pc", "esr_el1") == {"pc": CODE, "esr_el1": RESET_ESR}
    assert pending(vcpu) == (1, 1, 0x100_0000, 0)


def test_a_second_serror_overwrites_and_nothing_cancels_it(bare: Bare) -> None:
    vcpu = bare(SELF, pstate=EL1H_A_ONLY)
    events(vcpu, serror_pending=1, serror_has_esr=1, serror_esr=0x1234)
    assert pending(vcpu) == (1, 1, 0x1234, 0)
    events(vcpu, serror_pending=1, serror_has_esr=1, serror_esr=0x99)
    events(vcpu)
    assert pending(vcpu) == (1, 1, 0x99, 0)


@pytest.mark.parametrize("platform", [NEW, OLD])
@pytest.mark.parametrize(
    ("fields", "esr"), [({}, 0xBF00_0000), ({"serror_has_esr": 1, "serror_esr": 0x1234}, 0xBE00_1234)]
)
def test_hardware_takes_the_serror_when_unmasked(bare: Bare, platform: str, fields: dict[str, int], esr: int) -> None:
    vcpu = bare(MSR_DAIFCLR_A, ISB, SELF, platform=platform, pstate=EL1H_A_ONLY)
    events(vcpu, serror_pending=1, **fields)
    spin(vcpu)
    assert vcpu.registers("esr_el1", "pc") == {"esr_el1": esr, "pc": VECTORS + 0x380}
    assert pending(vcpu) == (0, 1, 0, 0)


def test_abort_and_serror_in_one_call(bare: Bare) -> None:
    vcpu = bare(SELF, pstate=EL1H_OPEN)
    events(vcpu, ext_dabt_pending=1, serror_pending=1)
    assert vcpu.registers("esr_el1", "pc") == {"esr_el1": 0x9600_0010, "pc": VECTORS + 0x200}
    assert pending(vcpu) == (1, 1, 0x100_0000, 0)


REFUSED = {f"pad[{n}]": {"pad": n} for n in range(5)} | {f"reserved[{n}]": {"reserved": n} for n in range(12)}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_reserved_fields_are_refused_before_anything_happens(bare: Bare, fields: dict[str, int]) -> None:
    vcpu = bare(SELF)
    with pytest.raises(OSError, match="Invalid") as caught:
        events(vcpu, ext_dabt_pending=1, serror_pending=1, **fields)
    assert caught.value.errno == errno.EINVAL
    assert vcpu.registers("pc", "esr_el1") == {"pc": CODE, "esr_el1": RESET_ESR}
    assert pending(vcpu)[0] == 0


@pytest.mark.parametrize("bit", [25, 31, 32, 63])
def test_a_syndrome_of_more_than_25_bits_is_refused_after_the_abort(bare: Bare, bit: int) -> None:
    """Not atomic: the abort stays although the call fails."""
    vcpu = bare(SELF)
    with pytest.raises(OSError, match="Invalid"):
        events(vcpu, ext_dabt_pending=1, serror_pending=1, serror_has_esr=1, serror_esr=1 << bit)
    assert vcpu.registers("pc", "esr_el1") == {"pc": VECTORS + 0x200, "esr_el1": 0x9600_0010}
    assert pending(vcpu)[0] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"serror_pending": 2},
        {"ext_dabt_pending": 2},
        {"serror_pending": 1, "serror_has_esr": 0, "serror_esr": 1 << 40},
        {"serror_pending": 0, "serror_has_esr": 1, "serror_esr": 1 << 40},
    ],
)
def test_accepted(bare: Bare, fields: dict[str, int]) -> None:
    events(bare(SELF, pstate=EL1H_A_ONLY), **fields)


def test_without_ras_there_is_no_syndrome(bare: Bare) -> None:
    vcpu = bare(SELF, platform="no-ras", pstate=EL1H_A_ONLY)
    assert pending(vcpu) == (0, 0, 0, 0)
    with pytest.raises(OSError, match="Invalid"):
        events(vcpu, serror_pending=1, serror_has_esr=1)
    events(vcpu, serror_pending=1)
    assert pending(vcpu) == (1, 0, 0, 0)


def test_nisv_without_the_capability(bare: Bare) -> None:
    vcpu = bare(STP_X0_X2_X1, SELF, x1=MMIO)
    with pytest.raises(RunError, match="ENOSYS") as caught:
        vcpu.run()
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize(
    ("word", "iss"), [pytest.param(STP_X0_X2_X1, 0x40, id="stp"), pytest.param(LDR_X0_X1_POST, 0, id="post-index")]
)
def test_nisv_with_the_capability(bare: Bare, word: int, iss: int) -> None:
    vcpu = bare(word, SELF, x1=0x9_0000_0008)
    vcpu.vm.enable_cap(177)
    exit_ = vcpu.run()
    assert isinstance(exit_, NisvExit)
    assert exit_.esr_iss == iss | 0x05  # translation fault, level 1: nothing else lies in this GiB
    assert exit_.fault_ipa == 0x9_0000_0008
    assert vcpu.get_reg("x1") == 0x9_0000_0008


def test_fetch_without_memory(bare: Bare) -> None:
    vcpu = bare(BR_X1, x1=MMIO)
    spin(vcpu)
    assert vcpu.registers("esr_el1", "far_el1", "elr_el1") == {
        "esr_el1": 0x8600_0010,
        "far_el1": MMIO,
        "elr_el1": MMIO,
    }


def test_store_to_a_read_only_slot_is_mmio(bare: Bare) -> None:
    vcpu = bare(STR_X0_X1, SELF, x0=0x55AA, x1=0x1000_0008)
    vcpu.vm.add_memory(GuestPA(0x1000_0000), 0x1_0000, readonly=True)
    exit_ = vcpu.run()
    assert isinstance(exit_, MmioExit)
    assert (exit_.address, exit_.size, exit_.is_write, exit_.data[:2]) == (0x1000_0008, 8, True, b"\xaa\x55")


def test_memory_that_is_gone(bare: Bare) -> None:
    vcpu = bare(LDR_X0_X1, SELF, x1=0x1000_0000)
    vcpu.vm.add_memory(GuestPA(0x1000_0000), 0x1_0000).memory.close()
    with pytest.raises(RunError, match="EFAULT") as caught:
        vcpu.run()
    assert caught.value.errno == errno.EFAULT
