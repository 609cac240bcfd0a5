# SPDX-License-Identifier: GPL-2.0-only
"""What a worker of xdist tells the controller when it is done, and what of it must wait until then.

A usage error that is raised in a worker would reach the user as an internal error of xdist.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_kvm_sea.gating.gate import Gate
from pytest_kvm_sea.gating.recorder import Recorder

PAYLOAD = "kvm_sea_gate"
"""The key in `workeroutput`; `plugin` has it too, and must not import this module."""


def _tell(config: pytest.Config, what: dict[str, Any]) -> None:
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    output.setdefault(PAYLOAD, {}).update(what)


class Refusal:
    """In a worker whose options are wrong: collects nothing, runs nothing, and says why.

    The options of a worker may be its own, by its environment (`--tx popen//env:NAME=VALUE`). Without this xdist takes
    the error for a crash and starts the next worker, again and again.
    """

    def __init__(self, config: pytest.Config, error: pytest.UsageError) -> None:
        self._config = config
        worker = config.workerinput["workerid"]  # type: ignore[attr-defined] # its environment is its own
        self._problems = [f"worker {worker}: {problem}" for problem in error.args]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        session.config.hook.pytest_collection_finish(session=session)
        return True

    def pytest_sessionfinish(self) -> None:
        _tell(self._config, {"problems": self._problems})


class Teller:
    """Beside the gate of a worker."""

    def __init__(self, config: pytest.Config, runner: Gate | Recorder) -> None:
        self._config = config
        self._runner = runner

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        # Registered after the gate, so this one is around it.
        try:
            yield
        except pytest.UsageError as error:
            _tell(self._config, {"problems": [str(problem) for problem in error.args]})
            items.clear()

    def pytest_sessionfinish(self) -> None:
        if isinstance(self._runner, Gate):
            _tell(self._config, {"tally": self._runner.tally().as_json()})
        else:
            _tell(self._config, {"seen": self._runner.seen().as_json()})
