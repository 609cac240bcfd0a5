# SPDX-License-Identifier: GPL-2.0-only
"""FEAT_DoubleFault2 in the simulated KVM: SCTLR2_EL1.EASE and NMEA (arch/arm64/kvm/inject_fault.c)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_kvm_sea.vmm.vcpu import Vcpu

Bare = Callable[..., Vcpu]

CODE, VECTORS = 0x1_0000, 0x2_0000
SELF = 0x1400_0000
EL1H_A, EL1H_OPEN, EL0 = 0x105, 0x5, 0x0
BITS = {"NMEA": 2, "EnADERR": 3, "EnANERR": 4, "EASE": 5}
"""Of SCTLR2_EL1 (arch/arm64/tools/sysreg)."""
PLATFORM = "double-fault2"


@pytest.mark.parametrize("bit", BITS)
@pytest.mark.parametrize(("pstate", "base", "esr"), [(EL1H_A, 0x200, 0x9600_0010), (EL0, 0x400, 0x9200_0010)])
def test_only_ease_makes_an_abort_arrive_at_the_serror_vector(
    bare: Bare, bit: str, pstate: int, base: int, esr: int
) -> None:
    vcpu = bare(SELF, platform=PLATFORM, pstate=pstate, sctlr2_el1=1 << BITS[bit])
    vcpu.inject_data_abort()
    assert vcpu.registers("pc", "esr_el1", "far_el1", "elr_el1", "spsr_el1") == {
        "pc": VECTORS + base + (0x180 if bit == "EASE" else 0),
        "esr_el1": esr,
        "far_el1": 0,
        "elr_el1": CODE,
        "spsr_el1": pstate,
    }


@pytest.mark.parametrize("bit", BITS)
def test_only_nmea_makes_a_masked_serror_arrive(bare: Bare, bit: str) -> None:
    vcpu = bare(SELF, platform=PLATFORM, pstate=EL1H_A, sctlr2_el1=1 << BITS[bit])
    vcpu.inject_serror(0x1234)
    pending = vcpu.get_events().exception.serror_pending
    assert (vcpu.pc, pending) == ((VECTORS + 0x380, 0) if bit == "NMEA" else (CODE, 1))


def test_other_hosts_have_no_such_register(bare: Bare) -> None:
    with pytest.raises(OSError, match="No such file"):
        bare(SELF).get_reg("sctlr2_el1")
    assert bare(SELF).get_reg("id_aa64pfr1_el1") >> 56 & 0xF == 0
    assert bare(SELF, platform=PLATFORM).get_reg("id_aa64pfr1_el1") >> 56 & 0xF == 1
