# SPDX-License-Identifier: GPL-2.0-only
"""Values of guest code: what operators on them build.

A `Value` stands for a 64-bit unsigned number in the guest. What operators make of values is a formula: it is computed
where it is used, each time it is used. What `Guest` reads (memory, a system register) is read at once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from pytest_kvm_sea.arm64.operands import MASK64, Cond, Reg
from pytest_kvm_sea.guest.errors import GuestBuildError

if TYPE_CHECKING:
    from pytest_kvm_sea.guest.codegen import Scope

_BITS = 64

FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "and": lambda left, right: left & right,
    "orr": lambda left, right: left | right,
    "eor": lambda left, right: left ^ right,
    "lsl": lambda left, right: left << right % _BITS,
    "lsr": lambda left, right: left >> right % _BITS,
}
"""What the operations give, modulo 2**64."""
_COMMUTATIVE = frozenset({"add", "mul", "and", "orr", "eor"})
_MIRRORED = {
    Cond.EQ: Cond.EQ,
    Cond.NE: Cond.NE,
    Cond.LO: Cond.HI,
    Cond.HI: Cond.LO,
    Cond.HS: Cond.LS,
    Cond.LS: Cond.HS,
}
_HOLDS: dict[Cond, Callable[[int, int], bool]] = {
    Cond.EQ: lambda left, right: left == right,
    Cond.NE: lambda left, right: left != right,
    Cond.LO: lambda left, right: left < right,
    Cond.HI: lambda left, right: left > right,
    Cond.HS: lambda left, right: left >= right,
    Cond.LS: lambda left, right: left <= right,
}


class Value:
    """A 64-bit unsigned number in the guest.

    ``+ - * & | ^ << >> ~`` and unary minus work modulo 2**64; shifts by a value take it modulo 64, as the processor
    does.
    ``== != < <= > >=`` compare unsigned and give 0 or 1.
    """

    __slots__ = ("need",)

    need: int
    """How many scratch registers it takes to compute (Sethi and Ullman)."""

    __hash__ = object.__hash__

    def __add__(self, other: Operand) -> Value:
        return binary("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return binary("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return binary("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return binary("mul", other, self)

    def __and__(self, other: Operand) -> Value:
        return binary("and", self, other)

    def __rand__(self, other: Operand) -> Value:
        return binary("and", other, self)

    def __or__(self, other: Operand) -> Value:
        return binary("orr", self, other)

    def __ror__(self, other: Operand) -> Value:
        return binary("orr", other, self)

    def __xor__(self, other: Operand) -> Value:
        return binary("eor", self, other)

    def __rxor__(self, other: Operand) -> Value:
        return binary("eor", other, self)

    def __lshift__(self, other: Operand) -> Value:
        return binary("lsl", self, _shift_count(other))

    def __rlshift__(self, other: Operand) -> Value:
        return binary("lsl", other, self)

    def __rshift__(self, other: Operand) -> Value:
        return binary("lsr", self, _shift_count(other))

    def __rrshift__(self, other: Operand) -> Value:
        return binary("lsr", other, self)

    def __neg__(self) -> Value:
        return binary("sub", 0, self)

    def __invert__(self) -> Value:
        return binary("eor", self, MASK64)

    def __eq__(self, other: Operand) -> Value:  # type: ignore[override]
        return comparison(Cond.EQ, self, other)

    def __ne__(self, other: Operand) -> Value:  # type: ignore[override]
        return comparison(Cond.NE, self, other)

    def __lt__(self, other: Operand) -> Value:
        return comparison(Cond.LO, self, other)

    def __le__(self, other: Operand) -> Value:
        return comparison(Cond.LS, self, other)

    def __gt__(self, other: Operand) -> Value:
        return comparison(Cond.HI, self, other)

    def __ge__(self, other: Operand) -> Value:
        return comparison(Cond.HS, self, other)

    def __bool__(self) -> bool:
        raise GuestBuildError(
            "a value of the guest is not known while its code is built: use g.if_(), g.while_() or g.assert_true(), "
            "and & | in place of and, or; not is == 0"
        )


Operand: TypeAlias = Value | int
"""What guest code computes with: a value, or a number known now, -2**63 to 2**64 - 1."""


class Constant(Value):
    """A number known now, 0 to 2**64 - 1."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number
        self.need = 1

    def __repr__(self) -> str:
        return f"{self.number:#x}"


class Local(Value):
    """A value in a register or on the stack of the function that made it."""

    __slots__ = ("home", "scope")

    def __init__(self, home: Reg | int, scope: Scope) -> None:
        self.home = home
        self.scope = scope
        self.need = 1

    def __repr__(self) -> str:
        return f"<value in {self.home if isinstance(self.home, Reg) else f'[sp, #{self.home}]'}>"


class Binary(Value):
    """A formula: an operation of `FOLD` on two values."""

    __slots__ = ("left", "op", "right")

    def __init__(self, op: str, left: Value, right: Value) -> None:
        self.op = op
        self.left = left
        self.right = right
        self.need = _need(left, right)

    def __repr__(self) -> str:
        return f"({self.left!r} {self.op} {self.right!r})"


class Comparison(Value):
    """A formula: 1 if the condition holds after comparing two values, otherwise 0."""

    __slots__ = ("cond", "left", "right")

    def __init__(self, cond: Cond, left: Value, right: Value) -> None:
        self.cond = cond
        self.left = left
        self.right = right
        self.need = _need(left, right)

    def __repr__(self) -> str:
        return f"({self.left!r} {self.cond.name} {self.right!r})"


def as_value(operand: Operand) -> Value:
    """A number as a `Constant`, a value as itself. Raises GuestBuildError for anything else."""
    if isinstance(operand, Value):
        return operand
    if not isinstance(operand, int):
        raise GuestBuildError(f"{operand!r} is no value of a guest; it takes a Value or an int")
    if not -(1 << 63) <= operand <= MASK64:
        raise GuestBuildError(f"{operand:#x} does not fit into 64 bits; it takes -2**63 to 2**64 - 1")
    return Constant(int(operand) & MASK64)


def binary(op: str, left: Operand, right: Operand) -> Value:
    """The formula for an operation; folded where both sides are known."""
    left, right = as_value(left), as_value(right)
    if isinstance(left, Constant):
        if isinstance(right, Constant):
            return Constant(FOLD[op](left.number, right.number) & MASK64)
        if op in _COMMUTATIVE:
            left, right = right, left
    return Binary(op, left, right)


def comparison(cond: Cond, left: Operand, right: Operand) -> Value:
    """The formula for a comparison; a constant comes to stand on the right."""
    left, right = as_value(left), as_value(right)
    if isinstance(left, Constant):
        if isinstance(right, Constant):
            return Constant(int(_HOLDS[cond](left.number, right.number)))
        return Comparison(_MIRRORED[cond], right, left)
    return Comparison(cond, left, right)


def _need(left: Value, right: Value) -> int:
    return left.need + 1 if left.need == right.need else max(left.need, right.need)


def _shift_count(operand: Operand) -> Operand:
    if not isinstance(operand, Value) and not 0 <= operand < _BITS:
        raise GuestBuildError(f"shift by {operand}; it takes 0 to {_BITS - 1}")
    return operand
