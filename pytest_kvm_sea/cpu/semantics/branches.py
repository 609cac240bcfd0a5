# SPDX-License-Identifier: GPL-2.0-only
"""Branches (Arm ARM, C4.1.93)."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import Emitter, Fields, semantics

_LINK = 30


@semantics("B")
def branch(e: Emitter, f: Fields) -> None:
    """B, BL."""
    if f["op"]:
        e.write(_LINK, e.next_pc())
    e.branch(f["imm26"] * 4)


@semantics("B_COND")
def branch_if(e: Emitter, f: Fields) -> None:
    if f["cond"] >= 0xE:
        e.branch(f["imm19"] * 4)
    else:
        e.branch(f["imm19"] * 4, e.condition(f["cond"]))


@semantics("CBZ")
def compare_and_branch(e: Emitter, f: Fields) -> None:
    """CBZ, CBNZ."""
    value = e.read(f["Rt"], f["sf"])
    e.branch(f["imm19"] * 4, value if f["op"] else f"not {value}")


@semantics("TBZ")
def test_bit_and_branch(e: Emitter, f: Fields) -> None:
    """TBZ, TBNZ."""
    bit = f"{e.read(f['Rt'])} & {e.constant(1 << (f['b5'] << 5 | f['b40']))}"
    e.branch(f["imm14"] * 4, bit if f["op"] else f"not {bit}")


@semantics("BR")
def branch_register(e: Emitter, f: Fields) -> None:
    """BR, BLR, RET."""
    target = e.read(f["Rn"])
    if f["opc"] == 1:
        target = e.let("t", target)
        e.write(_LINK, e.next_pc())
    e.branch_to(target)
