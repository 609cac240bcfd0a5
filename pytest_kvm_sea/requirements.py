# SPDX-License-Identifier: GPL-2.0-only
"""What a test needs of the host, how to find out, and what to say when it is not there.

Probes use the thing itself, over the host contract; never a version number. A requirement that needs another one is not
looked at while that one is missing: only the root cause is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import pytest

from pytest_kvm_sea import probes
from pytest_kvm_sea.missing import BETWEEN, Missing
from pytest_kvm_sea.platforms.errors import choices

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

Probe: TypeAlias = "Callable[[Host], probes.Finding]"


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that a test may need."""

    name: str
    probe: Probe
    needs: tuple[str, ...] = ()
    """Requirements without which the probe can say nothing."""


_EINJ = "einj-module"

REQUIREMENTS: dict[str, Requirement] = {
    requirement.name: requirement
    for requirement in (
        Requirement("arm64", probes.arm64),
        Requirement("kvm", probes.kvm, ("arm64",)),
        Requirement("ras", probes.ras, ("kvm",)),
        Requirement("sea-to-user", probes.sea_to_user, ("kvm",)),
        Requirement("inject-ext-dabt", probes.inject_ext_dabt, ("kvm",)),
        Requirement("inject-ext-iabt", probes.inject_ext_iabt, ("kvm",)),
        Requirement("nisv-to-user", probes.nisv_to_user, ("kvm",)),
        Requirement("serror-esr", probes.serror_esr, ("ras",)),
        Requirement("root", probes.root),
        Requirement("pagemap-pfn", probes.pagemap_pfn, ("root",)),
        Requirement("debugfs", probes.debugfs, ("root",)),
        Requirement("einj-table", probes.einj_table),
        Requirement(_EINJ, probes.einj_module, ("einj-table", "debugfs")),
        Requirement("lockdown", probes.lockdown, (_EINJ,)),
        Requirement("einj-parameters", probes.einj_parameters, (_EINJ,)),
        Requirement("einj-notrigger", probes.einj_notrigger, ("einj-parameters",)),
        Requirement("einj-memory-uer", probes.einj_memory_uer, (_EINJ,)),
        Requirement("firmware-stage2", probes.firmware_stage2, ("root",)),
        Requirement("firmware-einj", probes.firmware_einj, ("firmware-stage2",)),
        Requirement("firmware-ghes", probes.firmware_ghes, ("firmware-stage2",)),
        Requirement("firmware-scrub", probes.firmware_scrub, ("firmware-stage2",)),
        Requirement("soft-offline", probes.soft_offline, ("root",)),
        Requirement("hard-offline", probes.hard_offline, ("root",)),
        Requirement("hugetlb-2m", probes.hugetlb_2m),
        Requirement("hugetlb-1g", probes.hugetlb_1g),
        Requirement("abort-esr", probes.abort_esr, ("inject-ext-iabt",)),
        Requirement("userfault", probes.userfault, ("kvm",)),
        Requirement("virtual-el2", probes.virtual_el2, ("kvm",)),
        Requirement("double-fault2", probes.double_fault2, ("kvm",)),
    )
}

_found: WeakKeyDictionary[Host, dict[str, tuple[Missing, ...]]] = WeakKeyDictionary()


def missing(host: Host, names: Iterable[str]) -> list[Missing]:
    """Everything of `names` that the host lacks, root causes only, each once. Probes run once per host and name.

    Raises ValueError for a name that is not in REQUIREMENTS.
    """
    wanted = list(names)
    problem = unknown(wanted)
    if problem:
        raise ValueError(problem)
    causes = [cause for name in wanted for cause in _causes(host, name)]
    return list(dict.fromkeys(causes))


def unknown(names: Sequence[object]) -> str | None:
    """What is wrong with a list of names, or None."""
    for name in names:
        if name not in REQUIREMENTS:
            return f"unknown requirement {name!r}; {choices(str(name), REQUIREMENTS, noun='requirement')}"
    return None


def reason(found: Iterable[Missing]) -> str:
    """The reason of a skip: all that is missing, each with its id first."""
    return BETWEEN.join(map(str, found))


def _causes(host: Host, name: str) -> tuple[Missing, ...]:
    """Why the host lacks what is named: what that needs, or else itself; nothing where it has it."""
    known = _found.setdefault(host, {})
    if name not in known:
        requirement = REQUIREMENTS[name]
        deeper = tuple(cause for need in requirement.needs for cause in _causes(host, need))
        known[name] = deeper or _probe(host, requirement)
    return known[name]


def _probe(host: Host, requirement: Requirement) -> tuple[Missing, ...]:
    finding = requirement.probe(host)
    return (Missing(requirement.name, *finding),) if finding else ()


def required(node: pytest.Item) -> tuple[str, ...]:
    """The names in all `kvm_sea_requires` marks of a test, its class and its module."""
    return tuple(dict.fromkeys(name for mark in node.iter_markers("kvm_sea_requires") for name in mark.args))


def require(host: Host, names: Iterable[str]) -> None:
    """Skip the test where the host lacks something, and say everything that it lacks."""
    found = missing(host, names)
    if found:
        pytest.skip(reason(found))
