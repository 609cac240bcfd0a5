# SPDX-License-Identifier: GPL-2.0-only
"""How great the value of an expression can be, and the expression without the masks that therefore change nothing.

The semantics mask whatever could exceed a register, and call helpers for what has a sign. In a region more is known of
the operands: a byte that was loaded plus one needs no mask, and a small number is its own sign extension. What is here
takes an expression apart, keeps an interval for each part of it, and puts it together again.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

M64: Final = (1 << 64) - 1
M32: Final = (1 << 32) - 1
_HIGHEST_SHIFT: Final = 64

Bounds: TypeAlias = Mapping[str, int]
"""Variable -> the greatest value that it can have; none is below zero. Not in it: M64 for a register."""


class Simplified(NamedTuple):
    """An expression, and the most that it can be; None where it may be below zero, or is not known."""

    text: str
    most: int | None


class _Term(NamedTuple):
    """Part of an expression: source, how tightly its operator binds, and the interval that its value is in."""

    text: str
    binding: int
    low: int | None
    high: int | None

    @property
    def positive(self) -> int | None:
        """The most that it can be, if it is never below zero."""
        return self.high if self.low is not None and self.low >= 0 else None


_ATOM: Final = 9
_LOWEST: Final = 0
_BINDING: Final[dict[type[ast.operator], tuple[str, int]]] = {
    ast.BitOr: ("|", 1),
    ast.BitXor: ("^", 2),
    ast.BitAnd: ("&", 3),
    ast.LShift: ("<<", 4),
    ast.RShift: (">>", 4),
    ast.Add: ("+", 5),
    ast.Sub: ("-", 5),
    ast.Mult: ("*", 6),
}
_SMALL: Final = 10
"""Numbers below it are written as decimal ones."""


def simplified(expression: str, bounds: Bounds) -> Simplified:
    """The expression without what changes nothing, given what is known of its variables."""
    if expression.isidentifier():
        return Simplified(expression, bounds.get(expression, M64 if _is_register(expression) else None))
    tree = _parsed(expression)
    return _simplified(expression, tuple((name, bounds[name]) for name in tree.names if name in bounds))


def either(one: Bounds, other: Bounds) -> Bounds:
    """What holds after one of two ways."""
    return {name: max(most, other[name]) for name, most in one.items() if name in other}


class _Parsed(NamedTuple):
    node: ast.expr
    names: tuple[str, ...]


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> _Parsed:
    node = ast.parse(expression, mode="eval").body
    return _Parsed(node, tuple(sorted({each.id for each in ast.walk(node) if isinstance(each, ast.Name)})))


@lru_cache(maxsize=8192)
def _simplified(expression: str, bounds: tuple[tuple[str, int], ...]) -> Simplified:
    term = _term(_parsed(expression).node, dict(bounds))
    return Simplified(term.text, term.positive)


def _term(node: ast.expr, bounds: Bounds) -> _Term:
    if isinstance(node, ast.Constant | ast.UnaryOp | ast.Name):
        return _leaf(node, bounds)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINDING:
        return _combined(type(node.op), _term(node.left, bounds), _term(node.right, bounds))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called(node.func.id, [_term(argument, bounds) for argument in node.args])
    if isinstance(node, ast.IfExp):
        return _chosen(node, bounds)
    return _Term(ast.unparse(node), _LOWEST, None, None)


def _leaf(node: ast.Constant | ast.UnaryOp | ast.Name, bounds: Bounds) -> _Term:
    if isinstance(node, ast.Name):
        most = bounds.get(node.id, M64 if _is_register(node.id) else None)
        return _Term(node.id, _ATOM, None if most is None else 0, most)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return _constant(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return _constant(-int(str(node.operand.value)))
    return _Term(ast.unparse(node), _LOWEST, None, None)


def _is_register(name: str) -> bool:
    return name[0] == "r" and name[1:].isdecimal()


def _constant(value: int) -> _Term:
    return _Term(str(value) if value < _SMALL else hex(value), _ATOM, value, value)


def _chosen(node: ast.IfExp, bounds: Bounds) -> _Term:
    yes, no = _term(node.body, bounds), _term(node.orelse, bounds)
    first, second = (each.text if each.binding > _LOWEST else f"({each.text})" for each in (yes, no))
    text = f"{first} if {ast.unparse(node.test)} else {second}"
    if yes.positive is None or no.positive is None:
        return _Term(text, _LOWEST, None, None)
    return _Term(text, _LOWEST, 0, max(yes.positive, no.positive))


# Operators


def _combined(operator: type[ast.operator], left: _Term, right: _Term) -> _Term:
    if operator is ast.BitAnd:
        for value, mask in ((left, right), (right, left)):
            if value.positive is not None and _is_mask(mask) and value.positive <= (mask.high or 0):
                return value
    low, high = _INTERVALS[operator](left, right)
    return _Term(_joined(operator, left, right), _BINDING[operator][1], low, high)


def _joined(operator: type[ast.operator], left: _Term, right: _Term) -> str:
    symbol, binding = _BINDING[operator]
    a = left.text if left.binding >= binding else f"({left.text})"
    b = right.text if right.binding > binding else f"({right.text})"
    return f"{a} {symbol} {b}"


def _is_mask(term: _Term) -> bool:
    return term.low is not None and term.low == term.high and term.low > 0 and not term.low & term.low + 1


def _ones(most: int | None) -> int | None:
    """All the bits that a number up to this can have."""
    return None if most is None else (1 << most.bit_length()) - 1


_Interval: TypeAlias = tuple[int | None, int | None]
_UNKNOWN: Final[_Interval] = (None, None)


def _add(a: _Term, b: _Term) -> _Interval:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return _UNKNOWN
    return a.low + b.low, a.high + b.high


def _subtract(a: _Term, b: _Term) -> _Interval:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return _UNKNOWN
    return a.low - b.high, a.high - b.low


def _multiply(a: _Term, b: _Term) -> _Interval:
    return _UNKNOWN if a.positive is None or b.positive is None else (0, a.positive * b.positive)


def _and(a: _Term, b: _Term) -> _Interval:
    known = [each.positive for each in (a, b) if each.positive is not None]
    return (0, min(known)) if known else _UNKNOWN


def _or(a: _Term, b: _Term) -> _Interval:
    return _UNKNOWN if a.positive is None or b.positive is None else (0, _ones(a.positive | b.positive))


def _shift_left(a: _Term, b: _Term) -> _Interval:
    if a.positive is None or b.positive is None or b.positive > _HIGHEST_SHIFT:
        return _UNKNOWN
    return 0, a.positive << b.positive


def _shift_right(a: _Term, b: _Term) -> _Interval:
    return _UNKNOWN if a.positive is None or b.low is None else (0, a.positive >> max(b.low, 0))


_INTERVALS: Final[dict[type[ast.operator], Callable[[_Term, _Term], _Interval]]] = {
    ast.Add: _add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.BitAnd: _and,
    ast.BitOr: _or,
    ast.BitXor: _or,
    ast.LShift: _shift_left,
    ast.RShift: _shift_right,
}


# Helpers, in line where that is short


def _called(name: str, arguments: list[_Term]) -> _Term:
    inline = _INLINE.get(name)
    found = inline(*arguments) if inline else None
    return found or _Term(f"{name}({', '.join(each.text for each in arguments)})", _ATOM, None, None)


def _number(term: _Term) -> int:
    """A constant: how many bits, by how many."""
    assert term.low is not None
    return term.low


def _signed(value: _Term, bits: int) -> _Term:
    top = _constant(1 << bits - 1)
    half = 1 << bits - 1
    if value.positive is not None and value.positive < half:
        return value
    if value.positive is None or value.positive >> bits:
        value = _combined(ast.BitAnd, value, _constant((1 << bits) - 1))
    text = _joined(ast.Sub, _combined(ast.BitXor, value, top), top)
    return _Term(text, _BINDING[ast.Sub][1], -half, half - 1)


def _sign_extend(value: _Term, bits: _Term) -> _Term | None:
    return _signed(value, _number(bits))


def _asr(value: _Term, amount: _Term, bits: _Term) -> _Term | None:
    if amount.low is None or amount.low != amount.high:
        return None
    width = _number(bits)
    signed = _signed(value, width)
    if signed.low is not None and signed.low >= 0:
        return _combined(ast.RShift, signed, amount)
    text = _joined(ast.RShift, signed, amount)
    ones = (1 << width) - 1
    shifted = _Term(text, _BINDING[ast.RShift][1], None, None)
    return _Term(_joined(ast.BitAnd, shifted, _constant(ones)), _BINDING[ast.BitAnd][1], 0, ones)


_INLINE: Final[dict[str, Callable[..., _Term | None]]] = {"sign_extend": _sign_extend, "asr": _asr}
