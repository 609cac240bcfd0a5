# SPDX-License-Identifier: GPL-2.0-only
"""Names of tests in KTAP, unique among their neighbours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from pytest_kvm_sea.reports.record import TestId

LENGTH = 240
"""Characters of a name."""
_NOISE = re.compile(r"[^A-Za-z0-9_-]+")


class Names:
    """Names that were given to the children of one parent."""

    def __init__(self, parent: str = "", key: Callable[[str], str] = str) -> None:
        """``key``: names are the same where this is."""
        self._key = key
        # A child that is called like its parent ends the parent for kunit_parser.py.
        self._taken = {key(parent)}

    def unique(self, name: str) -> str:
        """This name, or the first free one that is made from it."""
        short = _shortened(name)
        number, candidate = 1, short
        while self._key(candidate) in self._taken:
            number += 1
            candidate = f"{short}_{number}"
        self._taken.add(self._key(candidate))
        return candidate


def dotted(test: TestId, file_name: Callable[[str], str] = str) -> str:
    """One name for all, of letters, digits, `_`, `-` and dots: host, directories, file, class, function, parameters."""
    path = file_name(test.file).removesuffix(".py").split("/")
    function, bracket, parameters = test.nodeid.partition("::")[2].partition("[")
    parts = [test.host, *path, *function.split("::"), parameters.removesuffix("]") if bracket else ""]
    cleaned = [_NOISE.sub("_", part) for part in parts if part]
    return ".".join(cleaned) or "test"


def slug(name: str) -> str:
    """What LKFT's parse-output.py is left with of a name."""
    return _NOISE.sub("_", name).replace("_-", "_").strip("_")


def _shortened(name: str) -> str:
    if len(name) <= LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LENGTH - len(digest) - 1]}_{digest}"
