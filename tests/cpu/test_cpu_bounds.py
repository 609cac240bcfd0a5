# SPDX-License-Identifier: GPL-2.0-only
"""Expressions without the masks that change nothing: the same value, and never more than was said."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.arm64.assembler import (
    W2,
    W3,
    W4,
    W5,
    X0,
    X1,
    X2,
    X3,
    X4,
    X5,
    X7,
    X9,
    Assembler,
    Shift,
)
from pytest_kvm_sea.cpu import helpers
from pytest_kvm_sea.cpu.bounds import M32, M64, either, simplified
from tests.cpu.cpu_machine import DATA, compiled_and_reference

_NAMES = ("r0", "r1", "r2", "fa")
_HELPERS = {name: getattr(helpers, name) for name in helpers.__all__}

_atoms = st.one_of(
    st.sampled_from(_NAMES),
    st.sampled_from([0, 1, 4, 9, 0xF, 0x10, 0xFF, 1 << 31, M32, M64]).map(hex),
    st.sampled_from(["(r0 & 0xffffffff)", "(r1 & 0xffffffff)"]),
)


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    shift = st.integers(0, 40)
    bits = st.sampled_from([8, 16, 32])
    return st.one_of(
        st.builds(lambda a, o, b: f"({a} {o} {b})", inner, st.sampled_from("+-*&|^"), inner),
        st.builds(lambda a, m: f"({a} & {m})", inner, st.sampled_from(["0xff", "0xffffffff", hex(M64), "0xfff0"])),
        st.builds(lambda a, o, n: f"({a} {o} {n})", inner, st.sampled_from(["<<", ">>"]), shift),
        st.builds(lambda a, n: f"sign_extend({a}, {n})", inner, bits),
        st.builds(lambda a, n: f"asr(({a} & 0xffffffff), {n}, 32)", inner, st.integers(0, 31)),
        st.builds(lambda a, n: f"asr(({a} & {M64:#x}), {n}, 64)", inner, st.integers(0, 63)),
        st.builds(lambda a, c, b: f"({a} if {c} else {b})", inner, st.sampled_from(["r0 == r1", "not r2"]), inner),
        st.builds(lambda a: f"reverse_bytes(({a}) & 0xffffffff, 4, 4)", inner),
    )


_expressions = st.recursive(_atoms, _composed, max_leaves=6)
_most = st.sampled_from([0, 1, 2, 0xFF, 0x100, 0x7FFF_FFFF, 1 << 31, M32, 1 << 32, M64 >> 1, M64])


@given(_expressions, st.fixed_dictionaries({}, optional=dict.fromkeys(_NAMES, _most)), st.integers(0, M64))
def test_the_value_is_the_same_and_within_its_bound(expression: str, bounds: dict[str, int], any_value: int) -> None:
    found = simplified(expression, bounds)
    code, simple = compile(expression, "", "eval"), compile(found.text, "", "eval")
    # At the ends of what is known, where a bound that is wrong shows
    ends = [sorted({0, any_value % (most + 1), most >> 1, most}) for most in (bounds.get(each, M64) for each in _NAMES)]
    for values in itertools.product(*ends):
        variables = _HELPERS | dict(zip(_NAMES, values, strict=True))
        value = eval(code, variables)
        assert eval(simple, variables) == value, (found, values)
        assert found.most is None or 0 <= value <= found.most, (found, values)


@pytest.mark.parametrize(
    ("expression", "bounds", "text", "most"),
    [
        ("r1 & 0xffffffff", {"r1": M32}, "r1", M32),
        ("r1 & 0xffffffff", {}, "r1 & 0xffffffff", M32),
        ("r1 + 1 & 0xffffffff", {"r1": 0xFF}, "r1 + 1", 0x100),
        ("r1 - 1 & 0xffffffff", {"r1": 0xFF}, "r1 - 1 & 0xffffffff", M32),
        ("r1 * (r2 & 0xffffffff) & 0xffffffffffffffff", {"r1": M32}, "r1 * (r2 & 0xffffffff)", M32 * M32),
        ("r2 + sign_extend(r1, 32)", {"r1": 15}, "r2 + r1", M64 + 15),
        ("asr(r1, 4, 32)", {"r1": 0xFF}, "r1 >> 4", 0xF),
        ("(r1 & 0xff) << 0x18 & 0xffffffff", {}, "(r1 & 0xff) << 0x18", 0xFF << 24),
        ("r1 & 0xff00", {"r1": 0xFFFF}, "r1 & 0xff00", 0xFF00),
        ("t & 0xff", {}, "t & 0xff", 0xFF),
        ("(1 if r1 else 2) if r2 else 3", {}, "(1 if r1 else 2) if r2 else 3", 3),
        ("r1 | r2", {"r1": 4, "r2": 1}, "r1 | r2", 7),
        ("r1 ^ r2", {"r1": 8, "r2": 8}, "r1 ^ r2", 15),
        ("r1 & 0xff", {"r1": 0x100}, "r1 & 0xff", 0xFF),
        ("sign_extend(r1, 8) & 0xff", {"r1": 0x80}, "(r1 ^ 0x80) - 0x80 & 0xff", 0xFF),
        ("r1 - (r2 - r3) & 0xff", {}, "r1 - (r2 - r3) & 0xff", 0xFF),
    ],
)
def test_what_is_left_of_an_expression(expression: str, bounds: dict[str, int], text: str, most: int) -> None:
    assert simplified(expression, bounds) == (text, most)


def test_of_two_ways_the_greater_bound_holds_and_what_is_known_on_one_does_not() -> None:
    assert either({"r1": 3, "r2": 4}, {"r1": 9, "r3": 1}) == {"r1": 9}


def _widened_by_a_loop(asm: Assembler) -> None:
    asm.mov(W2, 1)
    # One round at first, so that the outer loop is compiled with the inner one in it
    asm.mov(X7, 48)
    asm.sub(X7, X7, X1)
    asm.lsr(X7, X7, 3)
    asm.b("inner")  # or else the first round would be straight code
    asm.label("inner")
    asm.add(W3, W2, 1)
    asm.eor(X9, X9, X3)
    asm.add(X2, X2, X2, Shift.LSL, 9)
    asm.sub(X7, X7, 1)
    asm.cbnz(X7, "inner")


def _widened_by_one_arm(asm: Assembler) -> None:
    asm.mov(W2, 1)
    asm.and_(X3, X1, 1)
    asm.cbz(X3, "even")
    asm.mov(X2, 1 << 40)
    asm.b("even")  # straight code would not end at a label
    asm.label("even")
    asm.add(W4, W2, 5)
    asm.eor(X9, X9, X4)


def _loaded_with_their_signs(asm: Assembler) -> None:
    asm.ldrsb(X2, X0)
    asm.add(W3, W2, 1)
    asm.ldrsb(W4, X0)
    asm.add(X4, X4, 1)
    asm.ldrsw(X5, X0)
    asm.add(W5, W5, 1)
    for register in (X3, X4, X5):
        asm.add(X9, X9, register)


def _broken_off(asm: Assembler) -> None:
    asm.mov(X2, 1)
    asm.mov(X7, 48)
    asm.sub(X7, X7, X1)
    asm.lsr(X7, X7, 3)
    asm.and_(X3, X1, 2)
    asm.b("inner")
    asm.label("inner")
    asm.add(X2, X2, X2, Shift.LSL, 40)
    asm.cbnz(X3, "out")
    asm.mov(W2, 3)
    asm.sub(X7, X7, 1)
    asm.cbnz(X7, "inner")
    asm.label("out")
    asm.lsr(W4, W2, 1)
    asm.eor(X9, X9, X4)


@pytest.mark.parametrize("body", [_widened_by_a_loop, _widened_by_one_arm, _loaded_with_their_signs, _broken_off])
def test_a_register_that_may_be_greater_is_masked(
    body: Callable[[Assembler], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def moving(asm: Assembler) -> None:
        body(asm)
        asm.add(X0, X0, 1)

    compiled, reference = compiled_and_reference(moving, DATA, monkeypatch)
    assert compiled.cpu.x == reference.cpu.x
