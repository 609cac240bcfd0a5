# SPDX-License-Identifier: GPL-2.0-only
"""What a host lacks, in the words that every skip and every status of it uses."""

from __future__ import annotations

import re
from dataclasses import dataclass

BETWEEN = " | "
"""Stands between the causes in one reason."""
_BETWEEN = re.compile(re.escape(BETWEEN) + r"(?=\[)")
_ID = re.compile(r"\[([a-z0-9]+(?:-[a-z0-9]+)*)\] ")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that the host lacks, or that stands in the way."""

    name: str
    """The id, as in the reasons of skips."""
    what: str
    how: str
    """How to get it."""

    def __str__(self) -> str:
        return f"[{self.name}] {self.what}; {self.how}"


def causes(reason: str) -> list[str]:
    """The parts of the reason of a skip, each with its id first: everything that is missing."""
    return _BETWEEN.split(reason)


def cause_id(cause: str) -> str:
    """The id that a cause begins with; empty where it has none, as those of tests that are not ours."""
    found = _ID.match(cause)
    return found[1] if found else ""
