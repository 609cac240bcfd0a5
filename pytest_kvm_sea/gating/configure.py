# SPDX-License-Identifier: GPL-2.0-only
"""From the options to the plugins of this process: one in a worker of xdist, two where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.command_line import EXPECT, EXPECT_WRITE
from pytest_kvm_sea.gate.errors import GateError
from pytest_kvm_sea.gate.loader import load
from pytest_kvm_sea.gate.rules import Rules
from pytest_kvm_sea.gating.gate import Gate
from pytest_kvm_sea.gating.recorder import Recorder
from pytest_kvm_sea.gating.referee import GATING, NEEDS, Referee
from pytest_kvm_sea.gating.worker import Teller
from pytest_kvm_sea.options import Settings, settings
from pytest_kvm_sea.platforms.loader import bundled_names, load_bundled
from pytest_kvm_sea.targets import targets
from pytest_kvm_sea.uapi.revisions import REVISIONS

RUNNER = "kvm-sea-gating-runner"
"""The name of the plugin in the process that runs tests."""


def configure(config: pytest.Config) -> None:
    """Register what the options ask for. Raises pytest.UsageError."""
    chosen = settings(config)
    if chosen.expect is None and chosen.expect_write is None:
        return
    is_worker = hasattr(config, "workerinput")
    runner = _runner(config, chosen, is_worker=is_worker)
    config.pluginmanager.register(runner, RUNNER)
    if is_worker:
        config.pluginmanager.register(Teller(config, runner), "kvm-sea-gating-teller")
    else:
        config.pluginmanager.register(Referee(config, runner, chosen.expect_write), GATING)


def _runner(config: pytest.Config, chosen: Settings, *, is_worker: bool) -> Gate | Recorder:
    if chosen.expect is None:
        if chosen.expect_write is not None and not is_worker:
            _check_new(config, chosen.expect_write)
        return Recorder(config)
    if chosen.expect_write is not None:
        raise pytest.UsageError(
            f"{EXPECT_WRITE.flag}: {chosen.expect_write} is written from a run that is judged by no file, and "
            f"{EXPECT.flag} gives {chosen.expect}; leave one of the two out "
            f"(-o {EXPECT.dest}= where the ini file has it)"
        )
    return Gate(config, chosen.expect, _load(config, chosen.expect))


def _load(config: pytest.Config, path: Path) -> Rules:
    ids = [target.id for target in targets(config)]
    try:
        rules = load(path, _shown(path, config), NEEDS)
        rules.check_targets(ids, _others())
    except GateError as error:
        hint = "" if path.exists() else f"; {EXPECT_WRITE.flag} writes a first one"
        raise pytest.UsageError(f"{EXPECT.flag}: {error}{hint}") from None
    return rules


def _others() -> list[str]:
    """Targets that a run may have without a file of the user's."""
    simulated = [f"sim-{name}-{load_bundled(name).kernel.uapi}" for name in bundled_names()]
    return [f"linux-{revision}" for revision in REVISIONS] + simulated


def _shown(path: Path, config: pytest.Config) -> str:
    """As short as it can be said from where pytest was started."""
    here = config.invocation_params.dir
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _check_new(config: pytest.Config, path: Path) -> None:
    if config.getoption("dist", "no") == "each":
        raise pytest.UsageError(
            f"{EXPECT_WRITE.flag}: with --dist each every machine has promises of its own; "
            "write the file on one machine at a time"
        )
    if path.exists():
        raise pytest.UsageError(f"{EXPECT_WRITE.flag}: {path} exists and is not overwritten; valid: a new file")
    if not path.parent.is_dir():
        raise pytest.UsageError(f"{EXPECT_WRITE.flag}: {path}: there is no directory {path.parent}; make it first")
