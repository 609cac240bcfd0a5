# SPDX-License-Identifier: GPL-2.0-only
"""The command line: run the selftests, or install what `run_kselftest.sh` runs them by."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_kvm_sea.kselftest.install import InstallError, install
from pytest_kvm_sea.kselftest.run import FAIL, PASS, Failure, run

INSTALL = "--install"
USAGE = f"""\
usage: python -m pytest_kvm_sea.kselftest [PYTEST ARGUMENTS]
       python -m pytest_kvm_sea.kselftest {INSTALL} DIR

The first form runs the selftests of pytest-kvm-sea on this machine (--kvm-sea-host=linux) as one kselftest: KTAP on
stdout, all else on stderr. It exits with 0 where they passed, 4 where all were skipped, and 1 for everything else.
--kvm-sea-host=sim runs them on simulated hosts; `pytest --help` lists the rest.

The second form puts the collection kvm_sea into DIR, an installed tree of kselftests (make -C tools/testing/selftests
install), for run_kselftest.sh -c kvm_sea. It can be repeated.
"""


def main(arguments: Sequence[str]) -> int:
    """The exit code. Everything that is to be said has been said."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return PASS
    try:
        if INSTALL in arguments:
            return _install(arguments)
        return run(arguments)
    except (Failure, InstallError) as error:
        sys.stderr.write(f"kvm-sea: {error}\n")
        return FAIL


def _install(arguments: Sequence[str]) -> int:
    if len(arguments) != 2 or arguments[0] != INSTALL:
        raise InstallError(f"{INSTALL} takes one directory and nothing else: {INSTALL} DIR")
    directory = Path(arguments[1])
    for path in install(directory):
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(f"run: {directory / 'run_kselftest.sh'} -c kvm_sea | tee log\n")
    return PASS
