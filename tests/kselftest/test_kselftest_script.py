# SPDX-License-Identifier: GPL-2.0-only
"""What run_kselftest.sh starts: the shell script, run as it is, and what it says with which exit code."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import pytest_kvm_sea
from pytest_kvm_sea.kselftest.install import install

PACKAGE = Path(pytest_kvm_sea.__file__).parent
SIM = ("--kvm-sea-host=sim", "--kvm-sea-platform=ampereone", "-q", "-p", "no:cacheprovider")
RUNS: dict[str, tuple[Sequence[str], int, str]] = {
    "passed": (("-k", "test_refused_as_a_whole"), 0, "1 xfailed"),
    "failed": (("-k", "test_refused_as_a_whole", "--runxfail"), 1, "1 failed"),
    "skipped": (("-k", "test_parity"), 4, "5 skipped"),
    "usage error": (("--kvm-sea-timeout=soon",), 1, "--kvm-sea-timeout: 'soon': not a time-out"),
    "usage error of pytest": (("--bogus",), 1, "no test ran to its end: pytest ended with 4"),
    "nothing left": (("-k", "nothing_like_it"), 1, "deselected"),
    "a plugin that is not there": (("-p", "absent_plugin"), 1, "kvm-sea: "),
}
"""Further arguments, the exit code, and what is said on stdout or stderr."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the runner starts the script: in an installed tree, below which there is a venv of this Python."""
    (tmp_path / "run_kselftest.sh").touch()
    install(tmp_path)
    make_venv(tmp_path / "kvm_sea/venv", f'exec {shlex.quote(sys.executable)} "$@"')
    return tmp_path / "kvm_sea"


def make_venv(path: Path, command: str) -> None:
    python = path / "bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{command}\n")
    python.chmod(0o755)


def environment(**more: str) -> Mapping[str, str]:
    """Of a kernel developer: nothing of pytest's own, and the package of this tree."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "KVM_SEA_"))}
    return kept | {"PYTHONPATH": str(PACKAGE.parent)} | more


def run(directory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """As the runner does it: in the script's directory."""
    return subprocess.run(
        ["./pytest_kvm_sea.sh", *arguments],
        cwd=directory,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("case", RUNS)
def test_exit_codes(directory: Path, case: str) -> None:
    arguments, code, text = RUNS[case]
    done = run(directory, *SIM, *arguments)
    assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "PytestAssertRewriteWarning" not in done.stdout + done.stderr


def test_surroundings_change_nothing(directory: Path) -> None:
    """An ini file above the tree is somebody else's; plugins that are not loaded by themselves are those of others."""
    (directory.parent / "pytest.ini").write_text("[pytest]\naddopts = --bogus\n")
    done = run(directory, *SIM, "-k", "test_refused_as_a_whole", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_variables_of_options_count(directory: Path) -> None:
    arguments = ("-q", "-p", "no:cacheprovider", "-k", "test_parity")
    done = run(directory, *arguments, KVM_SEA_HOST="sim", KVM_SEA_PLATFORM="series-v1-parity")
    assert (done.returncode, "# Totals: pass:5 fail:0" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_timeout_ends_it_like_an_interrupt(directory: Path) -> None:
    """The runner sends SIGTERM, and its second timeout another one amid the tear-down, which must not be cut short."""
    plugin = (
        "import os, time, pathlib, pytest, signal\n"
        "@pytest.fixture(autouse=True)\ndef retire():\n    yield\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    pathlib.Path('retired').touch()\n"
        "def pytest_runtest_call():\n    pathlib.Path('begun').touch(); time.sleep(60)\n"
        "def pytest_sessionfinish(exitstatus):\n    pathlib.Path(f'finished-{int(exitstatus)}').touch()\n"
    )
    (directory / "slow.py").write_text(plugin)
    arguments = (*SIM, "-p", "slow", "-k", "test_refused_as_a_whole")
    path = f"{PACKAGE.parent}{os.pathsep}{directory}"
    with subprocess.Popen(
        ["./pytest_kvm_sea.sh", *arguments],
        cwd=directory,
        env=environment(PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while not (directory / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the time is up (SIGTERM)" in said
    assert (directory / "retired").exists()
    assert (directory / "finished-2").exists()


SKIPS = {
    "no python3": ({"PATH": "/nonexistent"}, "", "[python3] there is no python3; install Python 3.11 or later"),
    "no packages": (
        {},
        "-I -S",
        "it has no pytest pytest_kvm_sea; python3 -m venv DIR && DIR/bin/pip install pytest-kvm-sea",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_without_what_it_needs_it_skips_and_says_how_to_get_it(tmp_path: Path, case: str) -> None:
    variables, switches, text = SKIPS[case]
    (tmp_path / "run_kselftest.sh").touch()
    install(tmp_path)
    if switches:
        make_venv(tmp_path / "mine", f'exec {shlex.quote(sys.executable)} {switches} "$@"')
        variables = {**variables, "KVM_SEA_VENV": str(tmp_path / "mine")}
    done = run(tmp_path / "kvm_sea", **variables)
    assert (done.returncode, done.stderr) == (4, "")
    version, plan = done.stdout.splitlines()
    assert version == "KTAP version 1"
    assert plan.startswith("1..0 # SKIP [")
    assert text in plan


BROKEN = {
    "not there": (None, "has no bin/python3; make it: python3 -m venv "),
    "does not run": ("exit 3", "does not run"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_venv_that_was_named_and_does_not_work_is_no_skip(directory: Path, tmp_path: Path, case: str) -> None:
    command, text = BROKEN[case]
    if command is not None:
        make_venv(tmp_path / "mine", command)
    done = run(directory, KVM_SEA_VENV=str(tmp_path / "mine"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].startswith("Bail out! ")
    assert text in done.stdout


def test_a_dependency_that_is_missing_is_no_skip(directory: Path) -> None:
    """The package is there, so somebody wants the tests."""
    hidden = directory / "hidden"
    hidden.mkdir()
    (hidden / "yaml.py").write_text("raise ImportError('no yaml here')\n")
    done = run(directory, *SIM, PYTHONPATH=f"{hidden}{os.pathsep}{PACKAGE.parent}")
    assert done.returncode == 1
    assert "no yaml here" in done.stderr
