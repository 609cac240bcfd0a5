# SPDX-License-Identifier: GPL-2.0-only
"""The one error of this package, and the hints in its text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlatformError(Exception):
    """A platform cannot be loaded; the text is for people: `FILE:LINE:COLUMN: problem; what is valid`."""


def choices(given: str, valid: Iterable[str], *, noun: str, nearest: str | None = None) -> str:
    """`nearest valid NOUN: x; valid NOUNs: x, y, z`, without the first half where nothing is near."""
    names = list(valid)
    near = [nearest] if nearest else difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"nearest valid {noun}: {near[0]}; " if near else ""
    return f"{hint}valid {noun}s: {', '.join(names)}"
