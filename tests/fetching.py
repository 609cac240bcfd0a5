# SPDX-License-Identifier: GPL-2.0-only
"""What the programs have in common that fetch what a test needs with apt, and print where it is."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pytest_kvm_sea.emulated.errors import EmulationError


def print_fetched(fetch: Callable[[Callable[[str], None]], object], otherwise: str) -> int:
    """Fetch, print the result, give the exit code. ``otherwise``: what one can do who cannot fetch it."""
    try:
        print(fetch(lambda line: print(line, file=sys.stderr)))  # noqa: T201 - for programs
    except EmulationError as error:
        print(f"{error}; or {otherwise}\n{error.details}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
