# SPDX-License-Identifier: GPL-2.0-only
"""Syndromes taken apart: nothing is lost, and the tables agree with the constants that the model is built on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.arm64.syndrome_fields import (
    CLASSES,
    LAYOUTS,
    STATUS,
    explain,
    explain_iss,
    far_valid,
    summary,
)
from pytest_kvm_sea.arm64.sysregs import SYSREGS

ESRS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(syndromes.syndrome, st.sampled_from(EC), st.integers(0, syndromes.ISS_MASK)),
)


def values(esr: int) -> dict[str, int]:
    return {field.name: field.value for field in explain(esr) if field.name != "RES0"}


@given(ESRS)
def test_the_fields_are_the_register(esr: int) -> None:
    fields = explain(esr)
    assert sum(field.value << field.low for field in fields) == esr
    assert [field.high for field in fields] == [63, *(field.low - 1 for field in fields[:-1])], "from the top, no gaps"
    assert fields[-1].low == 0
    assert all(0 <= field.value < 2 << field.high - field.low for field in fields)
    assert summary(esr)


@given(ESRS)
def test_a_bit_that_should_be_zero_is_told_of(esr: int) -> None:
    for field in explain(esr):
        if field.name in ("RES0", "ISS2"):
            assert bool(field.meaning) == bool(field.value)


def test_every_class_of_the_model_is_known() -> None:
    assert {int(each) for each in EC} <= set(CLASSES)
    assert {int(each) for each in EC} == set(LAYOUTS)
    for lower, current in ((EC.IABT_LOWER, EC.IABT_CURRENT), (EC.DABT_LOWER, EC.DABT_CURRENT)):
        assert CLASSES[lower].endswith("a lower exception level")
        assert CLASSES[current].endswith("the same exception level")
        assert LAYOUTS[lower] is LAYOUTS[current]


@pytest.mark.parametrize("code", range(64))
def test_status_codes_agree_with_the_constants(code: int) -> None:
    text = STATUS.get(code, "reserved")
    external = text.startswith(("synchronous external abort", "synchronous parity")) and "level -2" not in text
    assert syndromes.is_sea(code) == external
    if external:
        walk = {syndromes.fsc_sea_walk(level): level for level in range(-1, 4)}
        walk |= {syndromes.fsc_parity_walk(level): level for level in range(-1, 4)}
        assert text.endswith(f"on a table walk, level {walk[code]}" if code in walk else "not on a table walk")
        assert ("parity" in text) == (code >= syndromes.FSC_SEA_PARITY)


@pytest.mark.parametrize("exception_class", [EC.DABT_LOWER, EC.DABT_CURRENT])
def test_data_abort(exception_class: int) -> None:
    iss = syndromes.ISV | 2 << syndromes.SAS_SHIFT | syndromes.SSE | 9 << syndromes.SRT_SHIFT | syndromes.SF
    iss |= syndromes.AR | syndromes.VNCR | 3 << syndromes.SET_SHIFT | syndromes.FNV | syndromes.EA | syndromes.CM
    iss |= syndromes.S1PTW | syndromes.WNR | syndromes.FSC_SEA
    found = values(syndromes.syndrome(exception_class, iss))
    expected = {"SAS": 2, "SRT": 9, "SET": 3, "DFSC": 0x10}
    expected |= dict.fromkeys(("ISV", "SSE", "SF", "AR", "VNCR", "FnV", "EA", "CM", "S1PTW", "WnR"), 1)
    assert found == {"ISS2": 0, "EC": exception_class, "IL": 1, **expected}


@pytest.mark.parametrize(
    ("esr", "present", "absent"),
    [
        (0x9200_0010, {"SET", "FnV", "EA"}, {"SAS", "SRT", "LST"}),
        (0x9200_0017, {"EA"}, {"SET", "FnV"}),  # on a walk: FAR is always valid, and there is no state
        (0x9200_0035, {"LST"}, {"SET", "FnV", "EA"}),
        (0x9200_0007, {"WnR"}, {"SET", "FnV", "EA"}),
        (0x8600_0010, {"SET", "FnV", "IFSC"}, {"WnR", "CM", "DFSC"}),
        (0xBE00_0411, {"AET", "IESB", "DFSC"}, {"IMPLEMENTATION DEFINED"}),
        (0xBE00_0400, {"IESB", "DFSC"}, {"AET"}),
        (0xBF00_0000, {"IDS", "IMPLEMENTATION DEFINED"}, {"AET", "DFSC"}),
    ],
)
def test_which_fields_there_are(esr: int, present: set[str], absent: set[str]) -> None:
    names = set(values(esr))
    assert present <= names
    assert not absent & names


@pytest.mark.parametrize(
    ("esr", "text"),
    [
        # What measured kernels gave, in the words of the manual.
        (
            0x9200_0610,
            "data abort from a lower exception level; synchronous external abort, not on a table walk; read;"
            " FAR is not valid",
        ),
        (
            0x9200_0057,
            "data abort from a lower exception level; synchronous external abort on a table walk, level 3; write;"
            " FAR holds the address",
        ),
        (
            0x8600_0010,
            "instruction abort from the same exception level; synchronous external abort, not on a table walk;"
            " FAR holds the address",
        ),
        (0xBF00_0000, "SError; implementation defined syndrome"),
        (0xBE00_0C11, "SError; asynchronous SError, recoverable (UER)"),
        (0xBE00_0000, "SError; uncategorised"),
        (0x5600_0007, "SVC in AArch64 state; #0x7"),
        (0xF200_0800, "BRK in AArch64 state; #0x800"),
        (0, "unknown reason"),
        (0x3F << 26, "reserved exception class 0x3f"),
    ],
)
def test_summary(esr: int, text: str) -> None:
    assert summary(esr) == text


@pytest.mark.parametrize("name", ["esr_el1", "vbar_el1", "ctr_el0"])
@pytest.mark.parametrize("read", [False, True])
def test_a_trapped_register_is_named(name: str, read: bool) -> None:
    op0, op1, crn, crm, op2 = (
        SYSREGS[name] >> shift & mask for shift, mask in ((14, 3), (11, 7), (7, 15), (3, 15), (0, 7))
    )
    iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 5 << 5 | crm << 1 | read
    assert summary(syndromes.syndrome(EC.SYSREG, iss)) == (
        f"trapped MSR, MRS or system instruction; {name}, {'read' if read else 'write'}"
    )
    assert [field.meaning for field in explain_iss(EC.SYSREG, iss) if field.name == "Rt"] == ["x5"]


def test_far() -> None:
    assert far_valid(0x9200_0610) is False
    assert far_valid(0x9200_0210) is True
    assert far_valid(0x9200_0407) is True, "FnV means something for an external abort that is not on a walk only"
    assert far_valid(0xBE00_0000) is None
