# SPDX-License-Identifier: GPL-2.0-only
"""What the tests run on: one target per simulated platform, or the machine itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_kvm_sea.command_line import PLATFORM
from pytest_kvm_sea.options import Settings, settings
from pytest_kvm_sea.platforms.loader import PlatformError, bundled_names, load_platform
from pytest_kvm_sea.platforms.model import Platform


@dataclass(frozen=True, slots=True)
class Target:
    """A host to run on. The value of the fixture `kvm_sea_target`."""

    host: str
    """`sim` or `linux`."""
    platform: str | None
    """Bundled name or absolute path of the platform's file; None on linux."""
    revision: str
    """Name of the revision of KVM's user API."""
    id: str
    """The start of test ids: `sim-ampereone-mainline`, `linux-mainline`."""
    name: str = ""
    """The platform's own name; empty on linux."""

    @property
    def properties(self) -> dict[str, str]:
        """What reports say of a test that runs on this."""
        return {"kvm_sea_host": self.host, "kvm_sea_platform": self.name, "kvm_sea_revision": self.revision}

    def load_platform(self) -> Platform:
        """What the host to simulate is like. Raises PlatformError; not for linux."""
        if self.platform is None:
            raise ValueError(f"{self.id} is not simulated")
        return load_platform(self.platform)


TARGETS: pytest.StashKey[tuple[Target, ...]] = pytest.StashKey()


def targets(config: pytest.Config) -> tuple[Target, ...]:
    """The targets of this run, the same objects at every call. Raises pytest.UsageError."""
    if TARGETS not in config.stash:
        config.stash[TARGETS] = _choose(settings(config))
    return config.stash[TARGETS]


def properties_of(nodeid: str, by_id: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """What a test ran on, by its name, for one that can say nothing any more; empty for tests that are not ours."""
    target = target_id(nodeid, by_id)
    return by_id[target] if target is not None else {}


def target_id(nodeid: str, ids: Iterable[str]) -> str | None:
    """The id of the target that a test's name starts with; None for tests that are not ours."""
    name = nodeid.partition("[")[2]
    found = [target for target in ids if name.startswith((f"{target}-", f"{target}]"))]
    return max(found, key=len, default=None)


def _choose(given: Settings) -> tuple[Target, ...]:
    if given.host == "linux":
        revision = given.uapi or "mainline"
        return (Target("linux", None, revision, f"linux-{revision}"),)
    chosen = _simulated(given.platforms or bundled_names())
    speaking = tuple(target for target in chosen if given.uapi in (None, target.revision))
    if not speaking:
        found = ", ".join(f"{target.name} ({target.revision})" for target in chosen)
        raise pytest.UsageError(f"no chosen platform speaks the revision {given.uapi!r}; chosen: {found}")
    return speaking


def _simulated(sources: Sequence[str]) -> tuple[Target, ...]:
    by_name: dict[str, Target] = {}
    for source in sources:
        try:
            platform = load_platform(source)
        except PlatformError as error:
            raise pytest.UsageError(f"{PLATFORM.flag}: {error}") from None
        if platform.name in by_name:
            first = by_name[platform.name].platform
            raise pytest.UsageError(
                f"{PLATFORM.flag}: {source}: the name {platform.name!r} is taken by {first}; names are used in "
                "test ids, choose another"
            )
        revision = platform.kernel.uapi
        by_name[platform.name] = Target("sim", source, revision, f"sim-{platform.name}-{revision}", platform.name)
    return tuple(by_name.values())
