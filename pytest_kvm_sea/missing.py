# SPDX-License-Identifier: GPL-2.0-only
"""What a host lacks, in the words that every skip and every status of it uses."""

from __future__ import annotations

from dataclasses import dataclass


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
