# SPDX-License-Identifier: GPL-2.0-only
"""The command line: every option, its variable of the environment and its ini twin.

Loaded in every pytest run, so it is light: no dataclass (making one takes longer than all the rest). What values mean
is in `options`, which is imported when a value is given or a fixture asks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

TARGET = "kvm_sea_target"
"""The fixture that says what a test runs on; a test that uses it, even through other fixtures, is one of ours."""
HOSTS = ("sim", "linux")
REVISIONS = ("mainline", "series-v1", "follow-up")
"""The names in `uapi.revisions`, which must not be imported here (ctypes structures)."""
KTAP_MODES = ("nested", "flat", "tap13")
EXIT_SYSTEMS = ("pytest", "kselftest")
"""The first of each is the default."""
STDOUT = "-"
DEFAULT_TIMEOUT = 10.0
"""Seconds."""


class Option:
    """`--kvm-sea-NAME`, its variable `KVM_SEA_NAME` and its ini twin `kvm_sea_NAME`; the first that is given wins."""

    def __init__(
        self,
        name: str,
        metavar: str,
        text: str,
        *,
        repeatable: bool = False,
        switch: bool = False,
        command: bool = False,
    ) -> None:
        self.flag = f"--kvm-sea-{name}"
        self.dest = f"kvm_sea_{name.replace('-', '_')}"
        self.variable = self.dest.upper()
        self.metavar = metavar
        self.text = text
        self.repeatable = repeatable
        self.switch = switch
        """On the command line without a value; in the ini file true or false."""
        self.command = command
        """Does something else in place of a test run: on the command line only."""


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
    "revision of KVM's user API, mainline, series-v1 or follow-up: with sim only the platforms that speak it (default: "
    "all), with linux the one that the kernel speaks (default: mainline)",
)
TIMEOUT = Option("timeout", "SECONDS", f"how long a guest may run before the test fails (default: {DEFAULT_TIMEOUT:g})")
EINJ_HOST = Option(
    "einj-host",
    "NAME",
    "leave to destroy memory of the real host of this name (uname -n); without it no error is injected there",
)
JOURNAL = Option(
    "journal",
    "PATH",
    "where every injection is written down before it is made (default: with linux einj-journal.jsonl below "
    "/var/lib/pytest-kvm-sea, with sim nowhere)",
)
DRY_RUN = Option(
    "dry-run",
    "",
    "read and translate everything, show each write that an injection would make, make none, skip the test",
    switch=True,
)
KTAP = Option("ktap", "FILE", "write KTAP, test by test; - for stdout, and pytest's own output goes to stderr")
KTAP_MODE = Option(
    "ktap-mode",
    "MODE",
    "nested (default): KTAP version 1, by file and test; flat: one level, for parsers that lose nesting; "
    "tap13: flat, with the header TAP version 13",
)
EXIT_CODES = Option(
    "exit-codes",
    "SYSTEM",
    "pytest (default), or kselftest: 0 passed, 1 failed or did not end well, 4 everything was skipped",
)
EXPECT = Option("expect", "FILE", "YAML of what this machine promises: capabilities, skips, known failures")
EXPECT_WRITE = Option("expect-write", "FILE", "write a first file for --kvm-sea-expect from what this run finds")
JSON = Option("json", "FILE", "write JSON lines, one per event, safe against a crash")
RESUME = Option(
    "resume",
    "",
    "go on with the run that the file of --kvm-sea-json ends in the middle of: what has a result is not run again, "
    "and what was running is a failure",
    switch=True,
)
KCIDB = Option("kcidb", "FILE", "write a report for KCIDB (JSON, schema 5.3)")
KCIDB_ORIGIN = Option("kcidb-origin", "NAME", "the CI system that the report for KCIDB comes from")
KCIDB_BUILD = Option(
    "kcidb-build", "ID", "the build in KCIDB of the kernel that is tested, ORIGIN:ID; only with --kvm-sea-host linux"
)
TRACE = Option(
    "trace",
    "DIR",
    "where the whole story of a failed test is written (default: kvm-sea in the directory of pytest's cache)",
)
REPORT = Option(
    "report", "FILE", "write one self-contained HTML page: every test, and what happened in it, as a picture"
)
DOCTOR = Option(
    "doctor", "", "run no test: say what the host can do, what is missing and how to get it", switch=True, command=True
)
LIST = Option("list", "", "run no test: list platforms, revisions and requirements", switch=True, command=True)
DECODE_ESR = Option("decode-esr", "VALUE", "run no test: explain a syndrome, field by field", command=True)
OPTIONS = (
    HOST,
    PLATFORM,
    UAPI,
    TIMEOUT,
    EINJ_HOST,
    JOURNAL,
    DRY_RUN,
    KTAP,
    KTAP_MODE,
    EXIT_CODES,
    EXPECT,
    EXPECT_WRITE,
    JSON,
    RESUME,
    KCIDB,
    KCIDB_ORIGIN,
    KCIDB_BUILD,
    TRACE,
    REPORT,
    DOCTOR,
    LIST,
    DECODE_ESR,
)


def add(parser: pytest.Parser) -> None:
    """Register all options and their ini twins."""
    group = parser.getgroup("kvm-sea", "memory errors in arm64 KVM guests")
    for option in OPTIONS:
        more: dict[str, Any] = (
            {"action": "store_const", "const": "true"} if option.switch else {"metavar": option.metavar}
        )
        if option.repeatable:
            more["action"] = "append"
        group.addoption(option.flag, dest=option.dest, default=None, help=option.text, **more)
        if not option.command:
            kind: Any = "args" if option.repeatable else "string"
            parser.addini(option.dest, f"{option.flag}, as an ini value", type=kind, default=None)


def given(config: pytest.Config) -> bool:
    """Whether any option was given, on the command line, in the environment or in the ini file."""
    return any(is_given(config, option) for option in OPTIONS)


def is_given(config: pytest.Config, option: Option) -> bool:
    """Whether this option was given, on the command line, in the environment or in the ini file."""
    return config.getoption(option.dest) is not None or (
        not option.command and (option.variable in os.environ or bool(config.getini(option.dest)))
    )


def takes_stdout(early_config: pytest.Config) -> bool:
    """Whether a report goes to standard output; before the command line is parsed for good."""
    value = getattr(early_config.known_args_namespace, KTAP.dest, None)
    if value is None:
        value = os.environ.get(KTAP.variable)
    if value is None:
        value = early_config.getini(KTAP.dest)
    return bool(value == STDOUT)


def each_host(config: pytest.Config) -> bool:
    """Whether every worker of xdist runs all tests (`--dist each`), as workers on several hosts do."""
    return bool(config.getoption("dist", "no") == "each")
