# SPDX-License-Identifier: GPL-2.0-only
"""A small world of capabilities for the tests of the gate, and a way to read rules from a text."""

from __future__ import annotations

from pytest_kvm_sea.gate.loader import parse
from pytest_kvm_sea.gate.rules import Rules

NEEDS: dict[str, tuple[str, ...]] = {"machine": (), "kvm": ("machine",), "ras": ("kvm",), "table": ()}


def rules(text: str) -> Rules:
    return parse(f"version: 1\n{text}", "e.yaml", NEEDS)
