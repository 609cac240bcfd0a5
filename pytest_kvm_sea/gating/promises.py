# SPDX-License-Identifier: GPL-2.0-only
"""A promise as a test of its own: it is looked after even where no test that was chosen needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_kvm_sea import requirements
from pytest_kvm_sea.gate.model import Promise
from pytest_kvm_sea.gate.rules import Rules
from pytest_kvm_sea.providers import probe_host
from pytest_kvm_sea.targets import Target


class PromiseFile(pytest.File):
    """The file of expectations, as the parent of its promises."""

    def collect(self) -> Iterator[pytest.Item]:
        """Nothing: promises are made for the targets of the run, when all else is collected."""
        return iter(())


class PromiseItem(pytest.Item):
    """One promise of one target: `expect.yaml::linux-mainline-sea-to-user`."""

    def __init__(self, *, promise: Promise, target: Target, place: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._promise = promise
        self._target = target
        self._place = place
        self.user_properties += target.properties.items()

    def runtest(self) -> None:
        """Look for the capability, as a test that needs it would."""
        name = self._promise.name
        found = requirements.missing(probe_host(self.config, self._target), [name])
        if found:
            pytest.fail(f"[{name}] promised by {self._place} but absent: {requirements.reason(found)}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the promise stands."""
        return self.path, self._promise.line - 1, f"{self._target.id} has {self._promise.name}"


def make_promises(session: pytest.Session, path: Path, rules: Rules, targets: Sequence[Target]) -> list[pytest.Item]:
    """All promises of all targets of the run, in the same order in every worker of xdist."""
    parent = PromiseFile.from_parent(session, path=path, name=path.name, nodeid=path.name)
    return [
        PromiseItem.from_parent(
            parent, name=f"{target.id}-{promise.name}", promise=promise, target=target, place=rules.place(promise)
        )
        for target in targets
        for promise in rules.promises(target.id)
    ]
