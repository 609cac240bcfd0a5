# SPDX-License-Identifier: GPL-2.0-only
"""A name of a file for a test: readable, safe on every file system, different for different tests."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


def file_name(nodeid: str, ending: str) -> str:
    """The last part of the id with what is unsafe replaced, and a short hash of the whole."""
    readable = _UNSAFE.sub("-", nodeid.rpartition("/")[2]).strip("-.")[:_LONGEST].strip("-.")
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable}-{digest}{ending}" if readable else f"{digest}{ending}"
