# SPDX-License-Identifier: GPL-2.0-only
"""Platforms by name or by file. Everything that is wrong with one is a PlatformError with file, line and column."""

from __future__ import annotations

import functools
import stat
from pathlib import Path

import yaml

from pytest_kvm_sea.platforms.consistency import settle
from pytest_kvm_sea.platforms.errors import PlatformError, choices
from pytest_kvm_sea.platforms.model import Platform
from pytest_kvm_sea.platforms.names import bundled_names, bundled_path, is_path
from pytest_kvm_sea.platforms.schema import Document

__all__ = ["PlatformError", "bundled_names", "load_bundled", "load_platform"]

MAX_SIZE = 64 * 1024
"""Bytes. A platform takes a few hundred; a larger file is something else."""

# The C loader where PyYAML was built with libyaml: ten times as fast, the same nodes and marks.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_platform(source: str | Path) -> Platform:
    """A platform by bundled name, or from a file: a Path, or a text with a slash or ending in .yaml or .yml."""
    if isinstance(source, str) and not is_path(source):
        return load_bundled(source)
    path = Path(source)
    return parse(_read(path), str(path))


@functools.cache
def load_bundled(name: str) -> Platform:
    """A platform that comes with the package, read once per process."""
    if name not in bundled_names():
        raise PlatformError(
            f"unknown platform {name!r}; {choices(name, bundled_names(), noun='name')}; or the path of a YAML file"
        )
    path = bundled_path(name)
    return parse(_read(path), str(path))


def parse(text: str, filename: str) -> Platform:
    """A platform from the text of a file; the name is for messages."""
    document = Document(filename)
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        document.fail(error.problem_mark or error.context_mark, f"not YAML: {problem}")
    except yaml.reader.ReaderError as error:
        document.fail(None, f"not YAML: character {error.position}: {error.reason}")
    except RecursionError:
        document.fail(None, "not a platform: nested too deeply")
    if node is None:
        document.fail(None, "the file is empty; required keys: name, description")
    return settle(document.read(node, Platform), document)


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise PlatformError(f"{path}: is a directory; give a YAML file of it")
        if not stat.S_ISREG(mode):
            raise PlatformError(f"{path}: is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PlatformError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_SIZE:
        raise PlatformError(f"{path}: larger than {MAX_SIZE // 1024} KiB; not a platform")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise PlatformError(f"{path}:{line}:{column}: not UTF-8: byte {data[error.start]:#04x}") from None
