# SPDX-License-Identifier: GPL-2.0-only
"""Accesses of compiled code that share a page with one before them: against the closures, and as source."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_kvm_sea.arm64.assembler import (
    W6,
    X0,
    X1,
    X2,
    X3,
    X4,
    X5,
    X7,
    X9,
    Assembler,
    Indexed,
    Offset,
    Post,
    Pre,
)
from pytest_kvm_sea.cpu import places
from tests.cpu.cpu_machine import DATA, compiled_and_reference

PAGE = DATA + 0x1000
"""X0 is this and a few bytes more or less, X1 counts rounds down."""


def _same_address(asm: Assembler) -> None:
    asm.ldr(X2, X0)
    asm.add(X2, X2, 3)
    asm.str(X2, X0)
    asm.ldr(X3, X0)
    asm.str(X2, X0)


def _before_and_behind(asm: Assembler) -> None:
    asm.ldr(X2, Offset(X0, 16))
    asm.str(X2, Offset(X0, 32))
    asm.str(X1, Offset(X0, 8))
    asm.ldrb(W6, Offset(X0, 3))
    asm.strb(W6, Offset(X0, 21))
    asm.ldp(X4, X5, Offset(X0, -16))
    asm.stp(X4, X1, Offset(X0, 40))
    asm.ldp(X4, X2, Offset(X0, -40))


def _base_that_moves(asm: Assembler) -> None:
    asm.ldr(X2, Offset(X0, 16))
    asm.add(X0, X0, 8)
    asm.str(X2, Offset(X0, 16))
    asm.sub(X3, X0, 8)
    asm.str(X1, Offset(X3, 24))
    asm.mov(X4, X3)
    asm.ldr(X5, Offset(X4, 24))
    asm.sub(X0, X0, 8)


def _written_back(asm: Assembler) -> None:
    asm.str(X1, Pre(X0, -16))
    asm.ldr(X2, X0)
    asm.str(X2, Offset(X0, 8))
    asm.ldr(X3, Post(X0, 16))
    asm.str(X3, Offset(X0, -8))


def _written_in_one_arm(asm: Assembler) -> None:
    asm.ldr(X2, X0)
    asm.and_(X3, X1, 1)
    asm.cbz(X3, "even")
    asm.str(X1, X0)
    asm.add(X0, X0, 24)
    asm.b("even")  # straight code would not end at a label
    asm.label("even")
    asm.ldr(X4, X0)
    asm.str(X1, X0)
    asm.ldr(X5, Offset(X0, 8))


def _stored_in_one_arm_only(asm: Assembler) -> None:
    asm.ldr(X2, X0)
    asm.and_(X3, X1, 1)
    asm.cbz(X3, "even")
    asm.str(X1, X0)
    asm.b("even")
    asm.label("even")
    asm.add(X2, X2, 1)
    asm.str(X2, X0)
    asm.str(X2, Offset(X0, 8))


def _inner_loop(asm: Assembler) -> None:
    asm.mov(X7, 3)
    asm.ldr(X2, Offset(X0, 8))
    asm.str(X2, Offset(X0, 8))
    asm.label("inner")
    asm.ldr(X2, Offset(X0, 8))
    asm.str(X1, Offset(X0, 8))
    asm.ldr(X5, Indexed(X0, X7))
    asm.str(X5, Indexed(X0, X7))
    asm.sub(X7, X7, 1)
    asm.cbnz(X7, "inner")
    asm.add(X0, X0, 8)


def _loaded_into_its_base(asm: Assembler) -> None:
    asm.str(X0, X0)
    asm.ldr(X0, X0)
    asm.str(X1, Offset(X0, 8))
    asm.ldr(X2, Offset(X0, 8))


_BODIES = (
    _same_address,
    _before_and_behind,
    _base_that_moves,
    _written_back,
    _written_in_one_arm,
    _stored_in_one_arm_only,
    _inner_loop,
    _loaded_into_its_base,
)


@pytest.mark.parametrize("start", [PAGE, PAGE - 8, PAGE - 13, PAGE - 24, PAGE - 33, PAGE + 5, PAGE + 0x800])
@pytest.mark.parametrize("body", _BODIES)
def test_what_is_known_of_an_address_changes_nothing(
    body: Callable[[Assembler], None], start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed(asm: Assembler) -> None:
        body(asm)
        asm.eor(X9, X9, X2)

    compiled, reference = compiled_and_reference(summed, start, monkeypatch)
    assert compiled.cpu.x == reference.cpu.x
    assert compiled.cpu.instructions == reference.cpu.instructions
    assert bytes(compiled.ram.view) == bytes(reference.ram.view)


def _access(expression: str, table: str = "T") -> places.Access:
    return places.Access(expression, 8, table, lambda page, offset: f"x, = U8({page}, {offset})")


def _emitted(*accesses: places.Access) -> list[str]:
    source: list[str] = []
    known: places.Known = {}
    for access in accesses:
        lines, known = places.emit(source, "", access, known)
        source += lines
    return source


def test_an_address_that_is_used_once_costs_no_variables() -> None:
    assert _emitted(_access("r1 + 0x10")) == ["a = r1 + 0x10", "x, = U8(T[a >> 12], a & 4095)"]


def test_the_same_address_again_finds_neither_page_nor_offset() -> None:
    first, second = _emitted(_access("r1"), _access("r1"))
    assert first == "o0 = r1 & 4095; v0 = T[r1 >> 12]; x, = U8(v0, o0)"
    assert second == "x, = U8(v0, o0)"


def test_an_address_nearby_is_looked_at_before_its_page_is_used() -> None:
    _, _, inside, beyond = _emitted(_access("r1 + 8"), _access("r1 + 0x20"))
    assert inside == "if o1 <= 4064: x, = U8(v1, o1 + 24)"
    assert beyond == "else: a = r1 + 0x20; x, = U8(T[a >> 12], a & 4095)"


def test_the_pages_of_loads_are_not_those_of_stores() -> None:
    first, second, third = _emitted(_access("r1"), _access("r1", "W"), _access("r1", "W"))
    assert "T[p0]" in first
    assert second == "v1 = W[p0]; x, = U8(v1, o0)"
    assert third == "x, = U8(v1, o0)"


@pytest.mark.parametrize("expression", ["r1 + t", "r1 + sign_extend(r2, 32)", "c.sp"])
def test_an_address_with_anything_but_registers_in_it_is_not_remembered(expression: str) -> None:
    assert "v" not in "".join(_emitted(_access(expression), _access(expression)))


def test_a_copy_of_a_base_is_known_and_a_base_that_changes_is_not() -> None:
    source: list[str] = []
    lines, known = places.emit(source, "", _access("r1 + 8"), {})
    assert set(places.written(known, "r2", "r1 + 4 & 0xffffffffffffffff")) == {"r1", "r2"}
    assert set(places.written(known, "r1", "r1 + r3 & 0xffffffffffffffff")) == set()
    assert set(places.without(known, ["r2"])) == {"r1"}
    assert lines
