# SPDX-License-Identifier: GPL-2.0-only
"""Run the selftests as a kselftest, with an exit code that is never better than what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

PASS, FAIL, SKIP = 0, 1, 4
"""Of kselftest. It has 2 and 3 as well, which pytest has for other things."""
DEFAULTS = {"KVM_SEA_HOST": "--kvm-sea-host=linux", "KVM_SEA_KTAP": "--kvm-sea-ktap=-"}
"""Arguments, each unless its variable is set."""
TESTS = ("--pyargs", "pytest_kvm_sea.selftests")
PLUGIN = "kvm-sea"
"""The entry point."""
_LOADED = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
"""It has no assertion."""


class Failure(Exception):
    """Why there is no result. A text for people."""


class _Witness:
    """Sees whether the session went to its end: what pytest returns does not tell a usage error from a skip."""

    def __init__(self) -> None:
        self.finished = False

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.finished = exitstatus == 0


def run(arguments: Sequence[str]) -> int:
    """Run pytest with further ``arguments``. kselftest's exit code; raises Failure where pytest cannot even begin."""
    try:
        version("pytest-kvm-sea")
        import pytest  # noqa: PLC0415 - that it is there is part of the question
    except PackageNotFoundError:
        raise Failure(
            "the package is there but not installed, and pytest finds plugins only where pip has been"
        ) from None
    except ImportError as error:
        raise Failure(f"pytest cannot be loaded: {error}; pip install pytest-kvm-sea") from None
    witness = _Witness()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = int(pytest.main(command(arguments), plugins=[witness]))
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever a plugin does
        raise Failure(f"pytest could not run: {type(error).__name__}: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code == FAIL or (witness.finished and code in (PASS, SKIP)):
        return code
    raise Failure(f"no test ran to its end: pytest ended with {code}, and that is a failure here")


def command(arguments: Sequence[str]) -> list[str]:
    """pytest's arguments."""
    defaults = [argument for variable, argument in DEFAULTS.items() if variable not in os.environ]
    # An ini file that happens to lie above the tree of the tests says nothing about them. The plugin is named for where
    # PYTEST_DISABLE_PLUGIN_AUTOLOAD is set.
    isolation = ["-c", os.devnull, "--rootdir", ".", "-p", PLUGIN, "-W", _LOADED]
    return [*isolation, *TESTS, *defaults, *arguments, "--kvm-sea-exit-codes=kselftest"]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """The runner's time is up: end as after Ctrl-C, so that EINJ is put back, poison retired and reports are whole.

    Once: the runner's two timeouts send two signals, and the second must not break what the first began.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt("the time is up (SIGTERM)")
