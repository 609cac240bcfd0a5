# SPDX-License-Identifier: GPL-2.0-only
"""Records as files (YAML): what was seen, and on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pytest_kvm_sea.agreement.steps import Observation

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record and where it comes from."""

    release: str
    """Of the kernel, as uname -r."""
    revision: str
    """Of KVM's user API."""
    observations: Mapping[str, Sequence[Observation]]


class RecordError(Exception):
    """A file is not a record."""


def write(path: Path, recorded: Recorded) -> None:
    """Write a record."""
    data = {
        "format": FORMAT,
        "kernel": recorded.release,
        "revision": recorded.revision,
        "scenarios": {name: list(steps) for name, steps in recorded.observations.items()},
    }
    text = yaml.safe_dump(data, sort_keys=False, width=160, default_flow_style=None)
    path.write_text(f"# SPDX-License-Identifier: GPL-2.0-only\n{text}", encoding="utf-8")


def read(path: Path) -> Recorded:
    """Read a record. Raises RecordError with the reason."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("scenarios"), dict):
        raise RecordError(
            f"{path}: not a record of format {FORMAT}; make one with python -m pytest_kvm_sea.agreement record"
        )
    return Recorded(str(data["kernel"]), str(data["revision"]), data["scenarios"])
