# SPDX-License-Identifier: GPL-2.0-only
"""Patterns of tests and of targets.

Not fnmatch for tests: the brackets of a test's parameters would be a set of characters there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_WILD = {"*": ".*", "?": "."}


def matches_test(pattern: str, nodeid: str) -> bool:
    """Whether a test is meant by a pattern: `FILE`, `FILE::TEST`, `FILE::CLASS`, `FILE::TEST[PARAMETERS]`.

    `*` is any text and `?` any character. FILE may leave out directories in front. As on pytest's command line, a
    file or a class means all tests in it, and a test without brackets all of its parameters.
    """
    file, _, name = nodeid.partition("::")
    file_pattern, within, name_pattern = pattern.partition("::")
    if not _expression(file_pattern, r"(?:.*/)?", r"\Z").match(file):
        return False
    return not within or bool(_expression(name_pattern, "", r"(?:\Z|\[|::)").match(name))


@functools.cache
def _expression(pattern: str, before: str, after: str) -> re.Pattern[str]:
    text = "".join(_WILD.get(letter) or re.escape(letter) for letter in pattern)
    return re.compile(f"{before}{text}{after}", re.DOTALL)


def targets_match(patterns: Iterable[str], target: str) -> bool:
    """Whether a target is meant by one of the patterns; without patterns every target is."""
    listed = tuple(patterns)
    return not listed or any(fnmatchcase(target, pattern) for pattern in listed)


def portable(nodeid: str) -> str:
    """A test's id as it can be written into a file: without the way from pytest's root directory to an outside file."""
    return re.sub(r"^(?:\.\./)+", "", nodeid)


def function(nodeid: str) -> str:
    """`test_x.py::TestY::test_z` of the id of any of its parameters, in any directory."""
    file, separator, name = nodeid.partition("::")
    return file.rpartition("/")[2] + separator + name.partition("[")[0]
