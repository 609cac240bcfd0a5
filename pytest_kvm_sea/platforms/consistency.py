# SPDX-License-Identifier: GPL-2.0-only
"""What one key of a platform says about another: contradictions are refused, consequences are drawn."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from operator import attrgetter

from pytest_kvm_sea.platforms.model import GIB, KIB, MIB, EinjOutcome, Platform, SeaPolicy
from pytest_kvm_sea.platforms.schema import Document, size


@dataclass(frozen=True, slots=True)
class Implication:
    """Where all causes have these values, the effect can only be what is said; another value is a contradiction."""

    causes: tuple[tuple[str, object], ...]
    effect: tuple[str, object]
    because: str


def _if(*causes: tuple[str, object], then: tuple[str, object], because: str) -> Implication:
    return Implication(causes, then, because)


_NO_TABLE = ("firmware.einj.table", False)
_NO_PARAMETERS = ("firmware.einj.parameters", False)
_NO_RAS = ("cpu.ras", False)
_NO_SEA = (_NO_RAS, ("firmware.forwards_sea", False))
_EXTENSION = "it is a part of SET_ERROR_TYPE_WITH_ADDRESS"
_GUESTS_OWN = "without FEAT_RAS an abort is the guest's own, unless the firmware forwards it"

IMPLICATIONS = (
    _if(
        ("cpu.ras", True), then=("cpu.parity", False), because="with FEAT_RAS the status codes for parity are reserved"
    ),
    _if(_NO_RAS, then=("cpu.ease", False), because="FEAT_DoubleFault2 needs FEAT_RAS"),
    _if(_NO_RAS, then=("cpu.nested", False), because="a core with FEAT_NV2 is one of Armv8.4, which has FEAT_RAS"),
    _if(_NO_RAS, ("cpu.parity", True), then=("cpu.sea_far", True), because="FnV is defined for status code 0x10 only"),
    _if(*_NO_SEA, then=("cpu.sea_far", True), because=f"FnV is in the ESR_EL2 of an abort; {_GUESTS_OWN}"),
    _if(*_NO_SEA, then=("firmware.sea", SeaPolicy.UNCLAIMED), because=f"the host sees no abort; {_GUESTS_OWN}"),
    _if(("firmware.ghes", False), then=("firmware.sea", SeaPolicy.UNCLAIMED), because="GHES is what claims"),
    _if(
        ("firmware.ghes", False),
        ("firmware.einj.outcome", EinjOutcome.REPORTED),
        then=("firmware.einj.outcome", EinjOutcome.POISONED),
        because="errors are reported by GHES",
    ),
    _if(("kernel.uapi", "series-v1"), then=("kernel.sea_to_user", True), because="the series adds the capability"),
    _if(("kernel.uapi", "follow-up"), then=("kernel.sea_to_user", True), because="it is on top of the series"),
    _if(
        ("kernel.page_size", 64 * KIB),
        then=("hugepages.free_1g", 0),
        because="with 64 KiB pages the sizes are 2 MiB, 512 MiB, 16 GiB",
    ),
    _if(_NO_TABLE, then=("firmware.einj.module", False), because="einj.ko does not load without it"),
    _if(_NO_TABLE, then=_NO_PARAMETERS, because="they are part of it"),
    _if(_NO_TABLE, then=("firmware.einj.error_types", ()), because="it lists them"),
    _if(_NO_TABLE, then=("firmware.einj.outcome", EinjOutcome.POISONED), because="nothing can be injected"),
    _if(_NO_PARAMETERS, then=("firmware.einj.notrigger", False), because="it is one of them"),
    _if(_NO_PARAMETERS, then=("firmware.einj.v2_error_types", ()), because=_EXTENSION),
    _if(_NO_PARAMETERS, then=("firmware.einj.vendor", ""), because=_EXTENSION),
    _if(
        ("firmware.einj.v2_error_types", ()),
        then=("firmware.einj.v2_components", 0),
        because="only an EINJv2 error has components",
    ),
    _if(("firmware.einj.vendor", ""), then=("firmware.einj.oem_error", 0), because="it follows the vendor's structure"),
)
"""In order: an effect may be the cause of a later line."""


def settle(platform: Platform, document: Document) -> Platform:
    """The platform with all consequences drawn. Raises PlatformError at the key that contradicts another."""
    for rule in IMPLICATIONS:
        effect, implied = rule.effect
        found = attrgetter(effect)(platform)
        if found == implied or any(attrgetter(cause)(platform) != value for cause, value in rule.causes):
            continue
        node = document.given.get(effect)
        if node is not None:
            causes = " and ".join(f"{cause}: {_word(value)}" for cause, value in rule.causes if cause != effect)
            document.fail(
                node.start_mark,
                f"{effect}: {_word(found)} contradicts {causes} ({rule.because}); valid value: {_word(implied)}",
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
        case enum.Enum():
            return str(value.value)
        case int():
            return size(value)
        case tuple():
            return "[" + ", ".join(f"{bit:#x}" for bit in value) + "]"
        case "":
            return '""'
    return str(value)
