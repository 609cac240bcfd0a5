# SPDX-License-Identifier: GPL-2.0-only
"""The one error of this package."""

from __future__ import annotations


class GateError(Exception):
    """A file of expectations is wrong; the text is for people: `FILE:LINE:COLUMN: problem; what is valid`."""
