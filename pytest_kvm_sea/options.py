# SPDX-License-Identifier: GPL-2.0-only
"""The command line: every option, its ini twin, and what a value may be. Loaded in every pytest run, so it is light."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

TARGET = "kvm_sea_target"
"""The fixture that says what a test runs on; a test that uses it, even through other fixtures, is one of ours."""
HOSTS = ("sim", "linux")
REVISIONS = ("mainline", "series-v1")
"""The names in `uapi.revisions`, which must not be imported here (ctypes structures)."""
DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Option:
    """`--kvm-sea-NAME` and its ini twin `kvm_sea_NAME`."""

    name: str
    metavar: str
    help: str
    repeatable: bool = False

    @property
    def flag(self) -> str:
        return f"--kvm-sea-{self.name}"

    @property
    def dest(self) -> str:
        return f"kvm_sea_{self.name.replace('-', '_')}"


HOST = Option("host", "HOST", "where the VMs run: sim (default), a simulated arm64 host, or linux, this machine")
PLATFORM = Option(
    "platform",
    "PLATFORM",
    "host to simulate: a bundled name or a YAML file; repeatable (default: all bundled)",
    repeatable=True,
)
UAPI = Option(
    "uapi",
    "REVISION",
    "revision of KVM's user API, mainline or series-v1: with sim only the platforms that speak it (default: all), "
    "with linux the one that the kernel speaks (default: mainline)",
)
TIMEOUT = Option("timeout", "SECONDS", f"how long a guest may run before the test fails (default: {DEFAULT_TIMEOUT:g})")
OPTIONS = (HOST, PLATFORM, UAPI, TIMEOUT)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options after checking."""

    host: str = "sim"
    """`sim` or `linux`."""
    platforms: tuple[str, ...] = ()
    """Bundled names and absolute paths of files, as chosen; empty: all bundled."""
    uapi: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    """Seconds."""
    explicit: bool = False
    """Whether anything was chosen at all."""


SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


def add(parser: pytest.Parser) -> None:
    """Register all options and their ini twins."""
    group = parser.getgroup("kvm-sea", "memory errors in arm64 KVM guests")
    for option in OPTIONS:
        more: dict[str, Any] = {"action": "append"} if option.repeatable else {}
        group.addoption(option.flag, dest=option.dest, metavar=option.metavar, default=None, help=option.help, **more)
        kind: Any = "args" if option.repeatable else "string"
        parser.addini(option.dest, f"{option.flag}, as an ini value", type=kind, default=None)


def settings(config: pytest.Config) -> Settings:
    """The options of this run. Raises pytest.UsageError at the first value that is not valid."""
    if SETTINGS not in config.stash:
        config.stash[SETTINGS] = _read(config)
    return config.stash[SETTINGS]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it came from."""

    values: tuple[str, ...]
    origin: str
    directory: Path
    """What a relative path in the value is relative to."""
    from_ini: bool

    def fail(self, value: str, problem: str) -> NoReturn:
        raise pytest.UsageError(f"{self.origin}: {value!r}: {problem}")


def _read(config: pytest.Config) -> Settings:
    given = {option: found for option in OPTIONS if (found := _given(config, option))}
    if not given:
        return Settings()
    host = _one(given.get(HOST), HOSTS, "host") or "sim"
    return Settings(
        host=host,
        platforms=_platforms(given.get(PLATFORM), host),
        uapi=_one(given.get(UAPI), REVISIONS, "revision"),
        timeout=_timeout(given.get(TIMEOUT)),
        explicit=True,
    )


def _given(config: pytest.Config, option: Option) -> _Given | None:
    """What was chosen: the command line wins over the ini file."""
    value = config.getoption(option.dest)
    if value is not None:
        return _Given(_many(value), option.flag, config.invocation_params.dir, from_ini=False)
    value = config.getini(option.dest)
    if not value:
        return None
    if any(text.partition("=")[0] == option.dest for text in config.getoption("override_ini") or ()):
        return _Given(_many(value), f"-o {option.dest}", config.invocation_params.dir, from_ini=True)
    directory = config.inipath.parent if config.inipath else config.rootpath
    return _Given(_many(value), f"{option.dest} in {config.inipath}", directory, from_ini=True)


def _many(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)


def _one(given: _Given | None, valid: Sequence[str], noun: str) -> str | None:
    if given is None:
        return None
    (value,) = given.values
    if value not in valid:
        given.fail(value, f"unknown {noun}; {_choices()(value, valid, noun='value')}")
    return value


def _timeout(given: _Given | None) -> float:
    if given is None:
        return DEFAULT_TIMEOUT
    (value,) = given.values
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        given.fail(value, "not a time-out; valid: a number of seconds above 0, such as 10 or 0.5")
    return seconds


def _platforms(given: _Given | None, host: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if host == "linux":
        if given.from_ini:
            return ()  # the ini file says which platforms to simulate; this run simulates none
        given.fail(given.values[0], f"a platform is simulated; leave it out with {HOST.flag} linux")
    return tuple(dict.fromkeys(_platform(value, given) for value in given.values))


def _platform(value: str, given: _Given) -> str:
    from pytest_kvm_sea.platforms.names import bundled_names, is_path

    if is_path(value):
        return str(given.directory / value)
    if value not in bundled_names():
        hint = _choices()(value, bundled_names(), noun="value")
        given.fail(value, f"unknown platform; {hint}; or the path of a YAML file")
    return value


def _choices() -> Callable[..., str]:
    from pytest_kvm_sea.platforms.errors import choices

    return choices
