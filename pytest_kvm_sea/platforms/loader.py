# SPDX-License-Identifier: GPL-2.0-only
"""Platforms by name or by file. Everything that is wrong with one is a PlatformError with file, line and column."""

from __future__ import annotations

import functools
from pathlib import Path

from pytest_kvm_sea.platforms.consistency import settle
from pytest_kvm_sea.platforms.errors import PlatformError, choices
from pytest_kvm_sea.platforms.model import Platform
from pytest_kvm_sea.platforms.names import bundled_names, bundled_path, is_path
from pytest_kvm_sea.platforms.schema import Document
from pytest_kvm_sea.platforms.source import compose, read_text

__all__ = ["PlatformError", "bundled_names", "load_bundled", "load_platform"]

MAX_SIZE = 64 * 1024
"""Bytes. A platform takes a few hundred; a larger file is something else."""


def load_platform(source: str | Path) -> Platform:
    """A platform by bundled name, or from a file: a Path, or a text with a slash or ending in .yaml or .yml."""
    if isinstance(source, str) and not is_path(source):
        return load_bundled(source)
    path = Path(source)
    return parse(read_text(path, Document(str(path)), MAX_SIZE), str(path))


@functools.cache
def load_bundled(name: str) -> Platform:
    """A platform that comes with the package, read once per process."""
    if name not in bundled_names():
        raise PlatformError(
            f"unknown platform {name!r}; {choices(name, bundled_names(), noun='name')}; or the path of a YAML file"
        )
    path = bundled_path(name)
    return parse(read_text(path, Document(str(path)), MAX_SIZE), str(path))


def parse(text: str, filename: str) -> Platform:
    """A platform from the text of a file; the name is for messages."""
    document = Document(filename)
    node = compose(text, document)
    if node is None:
        document.fail(None, "the file is empty; required keys: name, description")
    return settle(document.read(node, Platform), document)
