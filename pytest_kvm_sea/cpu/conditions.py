# SPDX-License-Identifier: GPL-2.0-only
"""Conditions as Python expressions on what the flags were set from, so that flags need not be computed."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.cpu.pstate import LOGIC64, RAW, SUB32

_SUBTRACT: Final = (
    "{a} == {b}",
    "{a} != {b}",
    "{a} >= {b}",
    "{a} < {b}",
    "{a} - {b} & {top}",
    "not {a} - {b} & {top}",
    "",
    "",
    "{a} > {b}",
    "{a} <= {b}",
    "({a} ^ {top}) >= ({b} ^ {top})",
    "({a} ^ {top}) < ({b} ^ {top})",
    "({a} ^ {top}) > ({b} ^ {top})",
    "({a} ^ {top}) <= ({b} ^ {top})",
    "True",
    "True",
)
"""By condition, after a - b; empty where there is no short form."""
_LOGIC: Final = (
    "not {a}",
    "{a}",
    "False",
    "True",
    "{a} & {top}",
    "not {a} & {top}",
    "False",
    "True",
    "False",
    "True",
    "not {a} & {top}",
    "{a} & {top}",
    "0 < {a} < {top}",
    "not 0 < {a} < {top}",
    "True",
    "True",
)
"""After a logical operation with the result a: C and V are clear."""


def expression(condition: int, kind: int, a: str, b: str) -> str | None:
    """True where the condition holds; None if it has to be computed from the flags. a and b are atoms."""
    top = hex(1 << 63 if kind & 1 else 1 << 31)
    if RAW < kind <= SUB32:
        return _SUBTRACT[condition].format(a=a, b=b, top=top) or None
    if kind >= LOGIC64:
        return _LOGIC[condition].format(a=a, top=top)
    return None
