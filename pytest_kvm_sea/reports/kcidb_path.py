# SPDX-License-Identifier: GPL-2.0-only
"""From ids of pytest to paths of KCIDB's tree of tests: words of letters, digits, `_` and `-`, joined by dots."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

ROOT = "kvm_sea"
"""All paths begin with this, so that no test of ours lands among somebody else's."""
_NOT_IN_A_WORD = re.compile(r"[^a-zA-Z0-9_-]")
_OWN = ("pytest_kvm_sea", "selftests")
_HASH_LENGTH = 12


def paths_of(nodeids: Iterable[str]) -> dict[str, str]:
    """The path of every test of a run. Where two would have the same, each gets a hash of its id at the end."""
    wanted = {nodeid: path_of(nodeid) for nodeid in nodeids}
    taken = Counter(wanted.values())
    return {nodeid: path if taken[path] == 1 else f"{path}-{_digest(nodeid)}" for nodeid, path in wanted.items()}


def path_of(nodeid: str) -> str:
    """`kvm_sea.test_sea_to_user.test_x.linux-mainline-el0`: the same wherever the tests are installed."""
    file, _, rest = nodeid.partition("::")
    names, _, parameters = rest.partition("[")
    words = [*_directories(file), *names.split("::"), parameters.removesuffix("]")]
    return ".".join([ROOT, *(_NOT_IN_A_WORD.sub("_", word) for word in words if word)])


def _directories(file: str) -> list[str]:
    """The parts of a file's name, without `.py` and without where the package is installed."""
    parts = [part for part in file.removesuffix(".py").split("/") if part not in ("", ".")]
    for marker in ("..", "site-packages", "dist-packages"):
        while marker in parts:
            del parts[: parts.index(marker) + 1]
    for start in range(len(parts) - len(_OWN)):
        if tuple(parts[start : start + len(_OWN)]) == _OWN:
            return parts[start + len(_OWN) :]
    return parts


def _digest(nodeid: str) -> str:
    return hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
