# SPDX-License-Identifier: GPL-2.0-only
"""Changes of the simulated host's code: they do what they say, only for as long as they are asked to."""

from __future__ import annotations

import pytest

from pytest_kvm_sea.mutants.change import Change, ChangeError, Edit, Value
from pytest_kvm_sea.mutants.mutant import Mutant, selects
from pytest_kvm_sea.sim import einj, firmware
from pytest_kvm_sea.sim.kernel_text import c_string
from pytest_kvm_sea.sim.kvm.memslots import Memslot

WHERE = "sim.kernel_text:c_string"
SLOT = Memslot(0, 2, 0x1000, 0x1000, 0)  # type: ignore[arg-type] # plain numbers for addresses


def shown() -> bytes:
    return bytes(vars(einj)["hexadecimal"](255, 32))


def test_an_edit_is_in_force_where_the_function_was_imported_too() -> None:
    assert shown() == b"0x000000ff\n"
    with Edit("sim.einj_layout:hexadecimal", "width // 4", "width // 8").applied():
        assert shown() == b"0x00ff\n"
    assert shown() == b"0x000000ff\n"


def test_an_edit_of_a_property() -> None:
    with Edit("sim.kvm.memslots:Memslot.end", "self.base + self.size", "self.base").applied():
        assert SLOT.end == 0x1000
    assert SLOT.end == 0x2000


def test_a_second_edit_adds_to_the_first() -> None:
    mutant = Mutant(
        "two",
        "Two.",
        (
            Edit("sim.einj_layout:hexadecimal", "width // 4", "width // 8"),
            Edit("sim.einj_layout:hexadecimal", ", value)", ", value + 1)"),
        ),
        (),
    )
    with mutant.applied():
        assert shown() == b"0x0100\n"
    assert shown() == b"0x000000ff\n"


def test_an_edit_ends_when_its_context_fails() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Edit("sim.kvm.memslots:Memslot.end", "self.base + self.size", "1 // 0").applied(),
    ):
        assert SLOT.end
    assert SLOT.end == 0x2000


def test_a_value_is_that_of_one_module() -> None:
    with Value("sim.firmware:MEMORY_CE", 0x40).applied():
        assert firmware.MEMORY_CE == 0x40
    assert firmware.MEMORY_CE == 0x08


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (Edit(WHERE, "not in it", "x"), "0 times, and not once"),
        (Edit("sim.einj_layout:hexadecimal", "value", "x"), "times, and not once"),
        (Edit("sim.einj:nothing", "a", "b"), "is no function"),
        (Edit("sim.einj:DIRECTORY", "a", "b"), "is no function"),
        (Edit("sim.nowhere:nothing", "a", "b"), "No module named"),
        (Edit("sim.einj_layout:hexadecimal", "width // 4", "width //"), "invalid syntax"),
        (Value("sim.einj:_NOTHING", 1), "has no _NOTHING"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(change: Change, problem: str) -> None:
    with pytest.raises(ChangeError, match=problem), change.applied():
        pytest.fail("it was applied")
    assert c_string(b"16\0") == b"16"


def test_a_change_is_shown_as_a_diff() -> None:
    assert str(Edit("sim.a:f", "old", "new\nmore")) == "sim.a:f\n- old\n+ new\n+ more"
    assert str(Value("sim.a:X", 3)) == "sim.a:X\n+ X = 3"


TEST = "test_a::test_b[sim-ampereone-mainline-str-x-el0]"


@pytest.mark.parametrize(
    ("killer", "means"),
    [
        ("test_a::test_b", True),
        ("test_a::test_b[el0]", True),
        ("test_a::test_b[str-x,el0]", True),
        ("test_a::test_b[str-x, ampereone]", True),
        ("test_a::test_b[el1]", False),
        ("test_a::test_b[str-x,el1]", False),
        ("test_a::test_b[tr-x]", False),
        ("test_a::test", False),
        ("test_c::test_b", False),
    ],
)
def test_what_a_killer_means(killer: str, means: bool) -> None:
    assert selects(killer, TEST) is means


def test_a_killer_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the form"):
        selects("test_b", TEST)
