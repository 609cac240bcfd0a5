# SPDX-License-Identifier: GPL-2.0-only
"""Whether a run was told to look at less than there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def is_narrowed(config: pytest.Config) -> bool:
    """Whether the command line names single files or tests, or leaves files out: then what is absent is no mistake.

    Options that leave out tests after all were collected (`-k`, `-m`, `--deselect`) do not narrow: the gate looks
    before they do.
    """
    if any(config.getoption(name, None) for name in ("lf", "ignore", "ignore_glob")):
        return True
    return not all(_is_whole(argument, config) for argument in config.args)


def _is_whole(argument: str, config: pytest.Config) -> bool:
    """Whether an argument is a directory or, with --pyargs, a package."""
    path, selected, _ = argument.partition("::")
    if selected:
        return False
    return (config.invocation_params.dir / path).is_dir() or (
        bool(config.getoption("pyargs")) and not Path(path).is_absolute() and _is_package(path)
    )


def _is_package(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # pytest has taken it for something else
        return False
    return spec is not None and spec.submodule_search_locations is not None
