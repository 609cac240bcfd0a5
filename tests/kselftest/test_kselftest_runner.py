# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own runner, where a kernel's source is: KVM_SEA_KERNEL_TREE names its top directory."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_kvm_sea
from pytest_kvm_sea.kselftest.install import install

VARIABLE = "KVM_SEA_KERNEL_TREE"
SIM = "--kvm-sea-host=sim --kvm-sea-platform=ampereone -q -p no:cacheprovider "
TITLE = "1 selftests: kvm_sea: pytest_kvm_sea.sh"
RUNS = {
    "passed": ("-k test_refused_as_a_whole", (), f"ok {TITLE}", 0),
    "failed": ("-k test_refused_as_a_whole --runxfail", (), f"not ok {TITLE} # exit=1", 1),
    "skipped": ("-k test_parity", (), f"ok {TITLE} # SKIP", 0),
    "usage error": ("--kvm-sea-timeout=soon", (), f"not ok {TITLE} # exit=1", 1),
    "usage error of pytest": ("--bogus", (), f"not ok {TITLE} # exit=1", 1),
    "nothing left": ("-k nothing_like_it", (), f"not ok {TITLE} # exit=1", 1),
    "stopped": ("-k test_refused_as_a_whole --runxfail -x -n2", (), f"not ok {TITLE} # exit=1", 1),
    "out of time": ("-p slow", ("-o", "2"), f"not ok {TITLE} # TIMEOUT 2 seconds", 1),
}
"""Arguments of pytest, those of the runner, its line for the test, and its exit code."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An installed tree, as the Makefile of the kselftests makes it, with our collection in it."""
    if VARIABLE not in os.environ:
        pytest.skip(f"[kernel-tree] {VARIABLE} names no kernel's source, whose run_kselftest.sh this test runs; set it")
    selftests = Path(os.environ[VARIABLE]) / "tools/testing/selftests"
    shutil.copy(selftests / "run_kselftest.sh", tmp_path)
    shutil.copytree(selftests / "kselftest", tmp_path / "kselftest")
    for path in (tmp_path / "run_kselftest.sh", *(tmp_path / "kselftest").iterdir()):
        path.chmod(0o744)
    install(tmp_path)
    python = tmp_path / "kvm_sea/venv/bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    slow = "import time\ndef pytest_runtest_call():\n    time.sleep(60)\n"
    (tmp_path / "slow.py").write_text(slow)
    return tmp_path


@pytest.mark.parametrize("case", RUNS)
def test_what_the_runner_makes_of_it(tree: Path, case: str) -> None:
    arguments, options, line, code = RUNS[case]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "KVM_SEA_"))}
    done = subprocess.run(
        [tree / "run_kselftest.sh", *options, "-c", "kvm_sea"],
        env=kept
        | {
            "PYTHONPATH": f"{Path(pytest_kvm_sea.__file__).parents[1]}{os.pathsep}{tree}",
            "KSELFTEST_PYTEST_KVM_SEA_SH_ARGS": SIM + arguments,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["TAP version 13", "1..1"]
    assert line in lines, done.stdout
    assert done.returncode == code
    assert "Traceback" not in done.stdout
    assert f"# timeout set to {600}" in lines or options
