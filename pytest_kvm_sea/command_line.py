# SPDX-License-Identifier: GPL-2.0-only
"""The command line: every option and its ini twin.

Loaded in every pytest run, so it is light: no dataclass (making one takes longer than all the rest). What values mean
is in `options`, which is imported when a value is given or a fixture asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

TARGET = "kvm_sea_target"
"""The fixture that says what a test runs on; a test that uses it, even through other fixtures, is one of ours."""
HOSTS = ("sim", "linux")
REVISIONS = ("mainline", "series-v1")
"""The names in `uapi.revisions`, which must not be imported here (ctypes structures)."""
DEFAULT_TIMEOUT = 10.0
"""Seconds."""


class Option:
    """`--kvm-sea-NAME` and its ini twin `kvm_sea_NAME`."""

    def __init__(self, name: str, metavar: str, text: str, *, repeatable: bool = False, switch: bool = False) -> None:
        self.flag = f"--kvm-sea-{name}"
        self.dest = f"kvm_sea_{name.replace('-', '_')}"
        self.metavar = metavar
        self.text = text
        self.repeatable = repeatable
        self.switch = switch
        """On the command line without a value; in the ini file true or false."""


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
OPTIONS = (HOST, PLATFORM, UAPI, TIMEOUT, EINJ_HOST, JOURNAL, DRY_RUN)


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
        kind: Any = "args" if option.repeatable else "string"
        parser.addini(option.dest, f"{option.flag}, as an ini value", type=kind, default=None)


def given(config: pytest.Config) -> bool:
    """Whether any option was given, on the command line or in the ini file."""
    return any(config.getoption(option.dest) is not None or config.getini(option.dest) for option in OPTIONS)
