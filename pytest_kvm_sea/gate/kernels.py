# SPDX-License-Identifier: GPL-2.0-only
"""Ranges of kernel releases: `>=6.17,<7.4`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+){0,2})\s*", re.ASCII)
_RELEASE = re.compile(r"\d+(?:\.\d+){0,2}", re.ASCII)
VALID = "bounds with commas between them, such as >=6.17,<7.4 or ==7.3; operators: " + ", ".join(_COMPARE)


@dataclass(frozen=True, slots=True)
class KernelRange:
    """All bounds must hold.

    A release is compared in as many numbers as the bound has: `<=7.3` holds for 7.3.4, `==7.3` for all of 7.3. What
    comes after the numbers counts for nothing: 7.4-rc1 is a 7.4, because what a release brings or breaks is in its
    first candidate.
    """

    bounds: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __contains__(self, release: str) -> bool:
        found = _RELEASE.match(release)
        if found is None:
            return not self.bounds
        numbers = (*_numbers(found[0]), 0, 0)
        return all(_COMPARE[sign](numbers[: len(bound)], bound) for sign, bound in self.bounds)


def parse(text: str) -> KernelRange:
    """A range from its text; the empty text is every release. ValueError for anything else that is no range."""
    if not text:
        return KernelRange()
    found = [_BOUND.fullmatch(part) for part in text.split(",")]
    bounds = tuple((bound[1], _numbers(bound[2])) for bound in found if bound)
    if len(bounds) != len(found):
        raise ValueError(f"{text!r} is not a range of kernel releases; valid: {VALID}")
    return KernelRange(bounds)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
