# SPDX-License-Identifier: GPL-2.0-only
"""What one key of a platform says about another: contradictions are refused, consequences are drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from operator import attrgetter

from pytest_kvm_sea.platforms.model import GIB, KIB, MIB, Platform
from pytest_kvm_sea.platforms.schema import Document, size


@dataclass(frozen=True, slots=True)
class Implication:
    """Where the first key has that value, the second can only be what is said; another value is a contradiction."""

    cause: tuple[str, object]
    effect: tuple[str, object]
    because: str


IMPLICATIONS = (
    Implication(("cpu.ras", True), ("cpu.parity", False), "with FEAT_RAS the status codes for parity are reserved"),
    Implication(("kernel.uapi", "series-v1"), ("kernel.sea_to_user", True), "the series adds the capability"),
    Implication(("kernel.uapi", "follow-up"), ("kernel.sea_to_user", True), "it is on top of the series"),
    Implication(
        ("kernel.page_size", 64 * KIB),
        ("hugepages.free_1g", 0),
        "with 64 KiB pages the sizes are 2 MiB, 512 MiB, 16 GiB",
    ),
    Implication(("firmware.einj.table", False), ("firmware.einj.module", False), "einj.ko does not load without it"),
    Implication(("firmware.einj.table", False), ("firmware.einj.parameters", False), "they are part of it"),
    Implication(("firmware.einj.table", False), ("firmware.einj.error_types", ()), "it lists them"),
    Implication(("firmware.einj.table", False), ("firmware.einj.poisons", False), "nothing can be injected"),
    Implication(("firmware.einj.parameters", False), ("firmware.einj.notrigger", False), "it is one of them"),
)
"""In order: an effect may be the cause of a later line."""


def settle(platform: Platform, document: Document) -> Platform:
    """The platform with all consequences drawn. Raises PlatformError at the key that contradicts another."""
    for rule in IMPLICATIONS:
        (cause, value), (effect, implied) = rule.cause, rule.effect
        found = attrgetter(effect)(platform)
        if attrgetter(cause)(platform) != value or found == implied:
            continue
        node = document.given.get(effect)
        if node is not None:
            document.fail(
                node.start_mark,
                f"{effect}: {_word(found)} contradicts {cause}: {_word(value)} ({rule.because}); "
                f"valid value: {_word(implied)}",
            )
        platform = _replace(platform, effect, implied)
    _check_pool(platform, document)
    return platform


def _check_pool(platform: Platform, document: Document) -> None:
    pool = platform.hugepages.free_1g * GIB + platform.hugepages.free_2m * 2 * MIB
    if pool > platform.memory:
        node = document.given.get("hugepages") or document.given["memory"]
        document.fail(
            node.start_mark, f"hugepages: {size(pool)} in the pools is more than the memory, {size(platform.memory)}"
        )


def _replace(platform: Platform, path: str, value: object) -> Platform:
    *parents, name = path.split(".")
    for depth in range(len(parents), 0, -1):
        owner = attrgetter(".".join(parents[:depth]))(platform)
        name, value = parents[depth - 1], dataclasses.replace(owner, **{name: value})
    return dataclasses.replace(platform, **{name: value})  # type: ignore[arg-type]


def _word(value: object) -> str:
    """A value as the file spells it; all numbers that can contradict something are sizes."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return size(value)
        case tuple():
            return "[" + ", ".join(f"{bit:#x}" for bit in value) + "]"
    return str(value)
