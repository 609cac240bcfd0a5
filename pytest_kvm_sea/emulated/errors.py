# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong on this side of the machine."""

from __future__ import annotations


class EmulationError(Exception):
    """The machine could not be built, booted or heard to the end: what was wrong, and what to do, in one line.

    ``details`` are further lines for people: the end of a console, the output of a tool.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
