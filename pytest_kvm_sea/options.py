# SPDX-License-Identifier: GPL-2.0-only
"""The options after checking. A value that is not valid is a usage error: the value, its origin, what is valid."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_kvm_sea.command_line import (
    DEFAULT_TIMEOUT,
    DRY_RUN,
    EINJ_HOST,
    EXIT_CODES,
    EXIT_SYSTEMS,
    EXPECT,
    EXPECT_WRITE,
    HOST,
    HOSTS,
    JOURNAL,
    JSON,
    KCIDB,
    KCIDB_BUILD,
    KCIDB_ORIGIN,
    KTAP,
    KTAP_MODE,
    KTAP_MODES,
    OPTIONS,
    PLATFORM,
    REPORT,
    RESUME,
    REVISIONS,
    STDOUT,
    TIMEOUT,
    TRACE,
    UAPI,
    Option,
    each_host,
)
from pytest_kvm_sea.platforms.errors import choices
from pytest_kvm_sea.platforms.names import bundled_names, is_path

_KCIDB_ORIGIN = re.compile(r"[a-z0-9_]+")
_KCIDB_BUILD = re.compile(r"[a-z0-9_]+:.+")
"""The schema of KCIDB (5.3) has these patterns."""


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
    einj_host: str | None = None
    """The real host whose memory may be destroyed, as uname -n."""
    journal: Path | None = None
    dry_run: bool = False
    ktap: Path | None = None
    """`Path("-")` is stdout."""
    ktap_mode: str = "nested"
    exit_codes: str = "pytest"
    expect: Path | None = None
    expect_write: Path | None = None
    json: Path | None = None
    resume: bool = False
    kcidb: Path | None = None
    kcidb_origin: str | None = None
    kcidb_build: str | None = None
    trace: Path | None = None
    """A directory; None: in pytest's cache."""
    report: Path | None = None


_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}
_USES = {JOURNAL: "which is appended to or made", EXPECT: "which is read"}
"""What happens with the file of an option."""
_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


def settings(config: pytest.Config) -> Settings:
    """The options of this run; read once. Raises pytest.UsageError at the first value that is not valid."""
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = _read(config)
    return config.stash[_SETTINGS]


def exit_system(config: pytest.Config) -> str:
    """The value of `--kvm-sea-exit-codes` alone: it counts for errors in all others, too."""
    return _one(_given(config, EXIT_CODES), EXIT_SYSTEMS, "system") or EXIT_SYSTEMS[0]


def is_usable(config: pytest.Config) -> bool:
    """Whether `settings` raises nothing: in a worker of xdist, which tells of it in its own way."""
    try:
        settings(config)
    except pytest.UsageError:
        return False
    return True


def header(config: pytest.Config) -> str:
    """The line at the start of a run that says what was chosen."""
    chosen = settings(config)
    revision = chosen.uapi or ("mainline" if chosen.host == "linux" else "of the platform")
    platforms = "" if chosen.host == "linux" else f", platforms {', '.join(chosen.platforms) or 'all bundled'}"
    injection = f", memory errors on {chosen.einj_host}" if chosen.einj_host else ""
    dry = ", dry run" if chosen.dry_run else ""
    # The workers read their own environment, and say at the end what they found there.
    each = "; each worker as its own environment says" if each_host(config) else ""
    end = f"time-out {chosen.timeout:g} s{injection}{dry}{each}"
    return f"kvm-sea: host {chosen.host}{platforms}, revision {revision}, {end}"


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it came from."""

    option: Option
    values: tuple[str, ...]
    origin: str
    directory: Path
    """What a relative path in the value is relative to."""
    from_ini: bool

    def fail(self, value: str, problem: str) -> NoReturn:
        raise pytest.UsageError(f"{self.origin}: {value!r}: {problem}")


def _read(config: pytest.Config) -> Settings:
    given = {option: found for option in OPTIONS if (found := _given(config, option))}
    host = _one(given.get(HOST), HOSTS, "host") or "sim"
    _check_kcidb(given, host)
    return Settings(
        host=host,
        platforms=_platforms(given.get(PLATFORM), host),
        uapi=_one(given.get(UAPI), REVISIONS, "revision"),
        timeout=_timeout(given.get(TIMEOUT)),
        einj_host=_name(given.get(EINJ_HOST)),
        journal=_path(given.get(JOURNAL)),
        dry_run=_switch(given.get(DRY_RUN)),
        ktap=_path(given.get(KTAP)),
        ktap_mode=_one(given.get(KTAP_MODE), KTAP_MODES, "mode") or KTAP_MODES[0],
        exit_codes=_one(given.get(EXIT_CODES), EXIT_SYSTEMS, "system") or EXIT_SYSTEMS[0],
        expect=_path(given.get(EXPECT)),
        expect_write=_path(given.get(EXPECT_WRITE)),
        json=_path(given.get(JSON)),
        resume=_switch(given.get(RESUME)),
        kcidb=_path(given.get(KCIDB)),
        kcidb_origin=_origin(given.get(KCIDB_ORIGIN)),
        kcidb_build=_build(given.get(KCIDB_BUILD), host),
        trace=_directory(given.get(TRACE)),
        report=_path(given.get(REPORT)),
    )


def _given(config: pytest.Config, option: Option) -> _Given | None:
    """What was chosen: the command line wins over the environment, and that over the ini file."""
    value = config.getoption(option.dest)
    if value is not None:
        return _Given(option, _many(value), option.flag, config.invocation_params.dir, from_ini=False)
    if option.command:
        return None
    value = os.environ.get(option.variable)
    if value is not None:
        values = tuple(shlex.split(value)) if option.repeatable else (value,)
        return _Given(
            option, values, f"environment variable {option.variable}", config.invocation_params.dir, from_ini=False
        )
    value = config.getini(option.dest)
    if not value:
        return None
    if any(text.partition("=")[0] == option.dest for text in config.getoption("override_ini") or ()):
        return _Given(option, _many(value), f"-o {option.dest}", config.invocation_params.dir, from_ini=True)
    directory = config.inipath.parent if config.inipath else config.rootpath
    return _Given(option, _many(value), f"{option.dest} in {config.inipath}", directory, from_ini=True)


def _many(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)


def _one(given: _Given | None, valid: Sequence[str], noun: str) -> str | None:
    if given is None:
        return None
    (value,) = given.values
    if value not in valid:
        given.fail(value, f"unknown {noun}; {choices(value, valid, noun='value')}")
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


def _name(given: _Given | None) -> str | None:
    if given is None:
        return None
    (value,) = given.values
    if not value.strip() or value != value.strip():
        given.fail(value, "not the name of a host; valid: what uname -n prints")
    return value


def _path(given: _Given | None) -> Path | None:
    if given is None:
        return None
    (value,) = given.values
    if value == STDOUT and given.option is KTAP:
        return Path(STDOUT)
    path = given.directory / value
    if not value or _stands(path, Path.is_dir, given):
        given.fail(value, f"not a file; valid: the path of a file, {_USES.get(given.option, 'which is made anew')}")
    return path


def _stands(path: Path, what: Callable[[Path], bool], given: _Given) -> bool:
    """What `Path` says of it; a usage error where it cannot be looked at, as of a name that is too long."""
    try:
        return what(path)
    except OSError as error:
        given.fail(given.values[0], f"cannot be used: {error.strerror}")


def _directory(given: _Given | None) -> Path | None:
    if given is None:
        return None
    (value,) = given.values
    path = given.directory / value
    if not value or (_stands(path, Path.exists, given) and not path.is_dir()):
        given.fail(value, "not a directory; valid: the path of a directory, which is made if it is not there")
    return path


def _check_kcidb(given: Mapping[Option, _Given], host: str) -> None:
    """A report for KCIDB says whom it comes from, and which kernel it is about."""
    report = given.get(KCIDB)
    if report is None:
        return
    if KCIDB_ORIGIN not in given:
        report.fail(report.values[0], f"a report needs the name of the CI system: {KCIDB_ORIGIN.flag}=NAME")
    if host == "linux" and KCIDB_BUILD not in given:
        report.fail(
            report.values[0],
            f"a report on this machine's kernel needs the build in KCIDB that it is: {KCIDB_BUILD.flag}=ORIGIN:ID",
        )


def _origin(given: _Given | None) -> str | None:
    if given is None:
        return None
    (value,) = given.values
    if not _KCIDB_ORIGIN.fullmatch(value):
        given.fail(value, "not the name of a CI system; valid: lower-case letters a to z, digits and _, such as my_lab")
    return value


def _build(given: _Given | None, host: str) -> str | None:
    if given is None:
        return None
    (value,) = given.values
    if host == "sim":
        if given.from_ini:
            return None  # the ini file says which kernel is tested; this run tests none
        given.fail(value, f"a simulated run tests no kernel's build; leave it out, or add {HOST.flag} linux")
    if not _KCIDB_BUILD.fullmatch(value) or not value.isprintable():
        given.fail(
            value,
            "not the id of a build; valid: the name of a CI system (a to z, digits, _), a colon, and that system's"
            " own id of the build, such as maestro:6512c0ffee",
        )
    return value


def _switch(given: _Given | None) -> bool:
    if given is None:
        return False
    (value,) = given.values
    if value.lower() not in _TRUTH:
        given.fail(value, f"neither true nor false; valid values: {', '.join(_TRUTH)}")
    return _TRUTH[value.lower()]


def _platforms(given: _Given | None, host: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if host == "linux":
        if given.from_ini:
            return ()  # the ini file says which platforms to simulate; this run simulates none
        given.fail(given.values[0], f"a platform is simulated; leave it out with {HOST.flag} linux")
    return tuple(dict.fromkeys(_platform(value, given) for value in given.values))


def _platform(value: str, given: _Given) -> str:
    if is_path(value):
        return str(given.directory / value)
    if value not in bundled_names():
        hint = choices(value, bundled_names(), noun="value")
        given.fail(value, f"unknown platform; {hint}; or the path of a YAML file")
    return value
