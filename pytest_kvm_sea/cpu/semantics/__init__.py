# SPDX-License-Identifier: GPL-2.0-only
"""What each encoding class does, by groups of the manual. `load` fills `emitter.SEMANTICS`."""

from importlib import import_module


def load() -> None:
    """Import every group."""
    for group in ("arithmetic", "logical", "multiply", "branches", "transfers", "atomics", "system"):
        import_module(f"{__name__}.{group}")
