# SPDX-License-Identifier: GPL-2.0-only
"""Modules of the product are imported as Python imports them; only the selftests get pytest's rewritten asserts.

pytest rewrites every module of a package that has a plugin (`_pytest.config`, ``_mark_plugins_for_rewrite``): it parses
and compiles each again, although pip has compiled it, and where nothing may write bytecode it does so in every run. For
the two hundred modules of a simulated host that is an eighth of the time of the selftests.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_PRODUCT = "pytest_kvm_sea."
_REWRITTEN = "pytest_kvm_sea.selftests"
"""Where an assert is the point."""


class PlainImports:
    """A finder for ``sys.meta_path``, before pytest's."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_PRODUCT) or name.startswith(_REWRITTEN):
            return None
        return PathFinder.find_spec(name, path, target)


def install() -> None:
    """From now on; once for a process."""
    if PlainImports not in sys.meta_path:
        sys.meta_path.insert(0, PlainImports)
