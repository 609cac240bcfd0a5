# SPDX-License-Identifier: GPL-2.0-only
"""What a run consists of, for every format: tests that were planned, started, finished, and how the run ended.

A `Sink` writes one format. It gets the tests in the order in which they finish, which under xdist is not the order in
which they were collected.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

GATE = "kvm-sea-expect"
"""The name under which reports tell what the gate says of the run as a whole (`RunEnd.findings`)."""


class Outcome(enum.Enum):
    """How a test ended. The value is the word in reports of our own formats."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    ERROR = "error"
    """Outside of the test itself: in its set-up or tear-down, in collecting it, or its process or host went down."""
    SKIP = "skip"
    XFAIL = "xfail"
    XPASS = "xpass"
    """Passed although a failure was expected, and the expectation is not strict."""
    TIMEOUT = "timeout"

    @property
    def is_bad(self) -> bool:
        """Whether a run with this in it has failed."""
        return self in (Outcome.FAIL, Outcome.ERROR, Outcome.TIMEOUT)


@dataclass(frozen=True, slots=True, order=True)
class TestId:
    """A test of a run."""

    __test__ = False

    nodeid: str
    """As pytest writes it: `tests/test_x.py::TestY::test_z[sim-ampereone-mainline-el0]`."""
    host: str = ""
    """Where several hosts run all tests each (`--dist each`): the id of the gateway. Otherwise empty."""

    @property
    def file(self) -> str:
        """The part before the first `::`."""
        return self.nodeid.partition("::")[0]

    @property
    def name(self) -> str:
        """The part after the file; the whole where there is none."""
        return self.nodeid.partition("::")[2] or self.nodeid

    def __str__(self) -> str:
        return f"{self.host}: {self.nodeid}" if self.host else self.nodeid


@dataclass(frozen=True, slots=True)
class Subtest:
    """One subtest of a test (the fixture `subtests` of pytest)."""

    name: str
    outcome: Outcome
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A test that has ended."""

    test: TestId
    outcome: Outcome
    phase: str = "call"
    """Where it was decided: setup, call, teardown; collect; or crash, where the process that ran it is gone."""
    reason: str = ""
    """Of a skip or an expected failure, without pytest's prefix."""
    message: str = ""
    """Of a failure: the last word of it, one line as a rule."""
    detail: str = ""
    """Of a failure: all that pytest tells in the terminal."""
    output: Mapping[str, str] = field(default_factory=dict)
    """What was captured, by pytest's name of the section ("Captured stdout call")."""
    start: float = 0.0
    """Seconds since the epoch."""
    duration: float = 0.0
    """Seconds, set-up and tear-down included."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """`user_properties` of the test: kvm_sea_host, kvm_sea_platform, kvm_sea_revision; empty for tests of others."""
    subtests: Sequence[Subtest] = ()
    worker: str = ""
    """The xdist worker that ran it."""
    story: Mapping[str, Any] | None = None
    """What happened in the test, as `reports.story` gives it: JSON values only."""

    @property
    def is_simulated(self) -> bool:
        """Whether the test ran on a simulated host. Tests that are not ours are not."""
        return self.properties.get("kvm_sea_host") == "sim"


@dataclass(frozen=True, slots=True)
class RunStart:
    """What is known of a run before its first test."""

    time: float
    """Seconds since the epoch."""
    version: str
    """Of this plugin."""
    host: str
    """`sim` or `linux`."""
    command: Sequence[str] = ()
    """The arguments of pytest."""
    targets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the tests run on, by the id that their names start with; the value as `Record.properties` has it."""
    machine: str = ""
    """With host linux: the machine's name, the release and the version of its kernel. Otherwise empty."""


@dataclass(frozen=True, slots=True)
class CollectionError:
    """A file that could not be collected."""

    nodeid: str
    message: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended."""

    time: float
    exit_status: int
    """Pytest's, 0 to 5."""
    stopped: str = ""
    """Why tests that were planned did not run: -x, a keyboard interrupt, an internal error. Empty: nothing did."""
    broken: bool = False
    """Stopped by something that is no result of a test: an interrupt, an internal error."""
    findings: Sequence[str] = ()
    """What the gate has to say of the run as a whole (`--kvm-sea-expect`)."""


class Sink(Protocol):
    """Writes one format. Every method may raise OSError, after which no other is called but `abandon`."""

    def start(self, run: RunStart) -> None: ...

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        """All tests of the run in the order of collection, and what could not be collected. Once, before any test."""
        ...

    def started(self, test: TestId) -> None:
        """A test begins. Not called with `--dist each`."""
        ...

    def finished(self, record: Record) -> None: ...

    def end(self, run: RunEnd) -> None:
        """The last call. Files are complete and closed afterwards."""
        ...

    def abandon(self) -> None:
        """In place of `end`, after an error: close what is open, raise nothing."""
        ...
