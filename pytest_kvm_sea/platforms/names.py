# SPDX-License-Identifier: GPL-2.0-only
"""Which platforms come with the package. Apart from the loader, so that a name is checked without YAML."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_DIRECTORY = Path(__file__).parent
_SUFFIX = ".yaml"


@functools.cache
def bundled_names() -> tuple[str, ...]:
    """Names of the bundled platforms, sorted."""
    return tuple(sorted(entry.stem for entry in _DIRECTORY.iterdir() if entry.suffix == _SUFFIX))


def bundled_path(name: str) -> Path:
    """The file of a bundled platform."""
    return _DIRECTORY / f"{name}{_SUFFIX}"


def is_path(text: str) -> bool:
    """Whether an option's value names a file: it has a separator or the ending of a YAML file."""
    return os.sep in text or text.endswith((_SUFFIX, ".yml"))
