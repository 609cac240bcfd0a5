# SPDX-License-Identifier: GPL-2.0-only
"""The wrapper's exit code is 0 or 4 only where a session went to its end, whatever pytest returns."""

from __future__ import annotations

import importlib.metadata
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_kvm_sea.kselftest import cli, run

ENDS = [
    # what pytest's session ends with (None: there was none), what pytest returns, the exit code
    (0, 0, 0),
    (0, 4, 4),
    (0, 1, 1),
    (1, 1, 1),
    (2, 1, 1),
    (4, 4, 1),
    (2, 2, 1),
    (3, 3, 1),
    (5, 5, 1),
    (0, 2, 1),
    (0, 137, 1),
    (1, 0, 1),
    (None, 0, 1),
    (None, 4, 1),
    (None, 1, 1),
]


@pytest.mark.parametrize(("session", "returned", "code"), ENDS)
def test_codes(monkeypatch: pytest.MonkeyPatch, session: int | None, returned: int, code: int) -> None:
    def main(_arguments: Sequence[str], plugins: Sequence[Any]) -> int:
        for plugin in plugins:
            if session is not None:
                plugin.pytest_sessionfinish(exitstatus=session)
        return returned

    monkeypatch.setattr(pytest, "main", main)
    assert cli.main([]) == code


@pytest.mark.parametrize("error", [ImportError("no yaml"), SystemExit(0), KeyboardInterrupt(), MemoryError()])
def test_what_pytest_raises_is_a_failure_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def main(*_arguments: object, **_more: object) -> int:
        raise error

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pytest, "main", main)
    assert cli.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"kvm-sea: pytest could not run: {type(error).__name__}: ")
    assert said.err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_package_without_its_metadata_is_no_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(run, "version", version)
    assert cli.main([]) == 1
    assert "not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "absent"),
    [
        ({}, []),
        ({"KVM_SEA_HOST": "sim"}, ["--kvm-sea-host=linux"]),
        ({"KVM_SEA_KTAP": "log"}, ["--kvm-sea-ktap=-"]),
    ],
)
def test_arguments(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], absent: list[str]) -> None:
    for name in run.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = run.command(["--kvm-sea-host=sim", "--kvm-sea-exit-codes=pytest"])
    assert set(run.DEFAULTS.values()) - set(given) == set(absent)
    # The last one counts: the user's choice of a host, but never of exit codes.
    assert [one for one in given if one.startswith("--kvm-sea-host")][-1] == "--kvm-sea-host=sim"
    assert given[-1] == "--kvm-sea-exit-codes=kselftest"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == cli.USAGE
