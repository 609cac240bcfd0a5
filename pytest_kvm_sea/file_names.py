# SPDX-License-Identifier: GPL-2.0-only
"""Names of test files for reports of many machines: the same wherever the tests lie and pytest is started.

In pytest's node ids the selftests are `pytest_kvm_sea/selftests/test_x.py` in a checkout, and elsewhere bare
`test_x.py` or a path by way of site-packages, by pytest's root directory and arguments.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_BEFORE = re.compile(r"^(?:.*/(?:site|dist)-packages/|.*/(?=pytest_kvm_sea/selftests/)|(?:\.\./)+)")
"""The place of an installation, and the way to it."""


def stable_names(config: pytest.Config) -> Callable[[str], str]:
    """From the file of a node id to its path from the top of its project or package."""
    root = config.rootpath

    @functools.cache
    def stable(file: str) -> str:
        if file and (root / file).exists() and not _is_package(root):
            return _BEFORE.sub("", file)
        directories = (path if path.is_dir() else path.parent for path in (root, *_arguments(config)))
        # An argument that is a file is nothing but `::test_x` in node ids.
        places = (directory / file for directory in directories) if file else _arguments(config)
        found = next((path for path in places if path.is_file()), None)
        return _BEFORE.sub("", file) if found is None else _in_package(found)

    return stable


def _arguments(config: pytest.Config) -> Iterator[Path]:
    """The files and directories that pytest was started with: node ids outside of its root are relative to them."""
    for argument in config.args:
        name = re.split(r"::|\[", argument, maxsplit=1)[0]
        path = config.invocation_params.dir / name
        if not path.exists() and config.option.pyargs:
            path = _module(name) or path
        yield path


def _module(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)


def _in_package(path: Path) -> str:
    top = path.parent
    while _is_package(top):
        top = top.parent
    return path.relative_to(top).as_posix()


def _is_package(directory: Path) -> bool:
    return (directory / "__init__.py").exists()
