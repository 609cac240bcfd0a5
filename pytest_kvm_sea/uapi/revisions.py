# SPDX-License-Identifier: GPL-2.0-only
"""The revisions of KVM's user API for guest SEAs; which one a host speaks is chosen, never guessed from a number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the API: the numbers that differ, and what the kernel behind them does."""

    name: str
