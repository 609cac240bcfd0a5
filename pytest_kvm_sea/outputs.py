# SPDX-License-Identifier: GPL-2.0-only
"""The files that a run writes: which option makes which, and what becomes of one that cannot be written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pytest_kvm_sea.command_line import EXPECT, EXPECT_WRITE, JSON, KCIDB, KTAP, REPORT, STDOUT, Option
from pytest_kvm_sea.options import Settings, settings

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm_sea.reports.record import Sink
    from pytest_kvm_sea.resume import Resume


class Output:
    """A sink, and what became of it: one that cannot be written is left alone, and told of at the end."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        """The option and its file, for messages."""
        self.problem = ""
        self._sink: Sink | None = sink

    def __call__(self, after: str, call: Callable[[Sink], None]) -> None:
        """Do something with the sink; ``after``: the place in the run, for the message if it fails."""
        if self._sink is None:
            return
        try:
            call(self._sink)
        except OSError as error:
            self.problem = f"{self.name}: {error.strerror or error}; what was written ends before {after}"
            self.abandon()

    def abandon(self) -> None:
        """Leave the sink alone from here on."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None


def make_outputs(config: pytest.Config, found: Resume | None = None) -> list[Output]:
    """What is to be written. Raises pytest.UsageError for a file that cannot be."""
    chosen = settings(config)
    _check_distinct(chosen)
    outputs: list[Output] = []
    for option, path, make in _writers(chosen):
        if path is None:
            continue
        try:
            outputs.append(Output(f"{option.flag}={path}", make(path, config, found)))
        except OSError as error:
            for output in outputs:
                output.abandon()
            raise pytest.UsageError(
                f"{option.flag}: {path}: cannot be written: {error.strerror}; valid: a file in a directory that exists"
                " and that you may write to"
            ) from None
    return outputs


# What writes a format is imported for those who want it.


def _ktap(path: Path, config: pytest.Config, _found: Resume | None) -> Sink:
    from pytest_kvm_sea import standard_output
    from pytest_kvm_sea.file_names import stable_names
    from pytest_kvm_sea.reports.ktap import Ktap
    from pytest_kvm_sea.reports.ktap_lines import STYLES, TAP13

    chosen = settings(config)
    style = STYLES[chosen.ktap_mode]
    out = standard_output.kept(config) if str(path) == STDOUT else io.FileIO(path, "w")
    # The kernel's C tests leave the header out inside of another test, which has printed one.
    header = style.header == TAP13 or "KSFT_TAP_LEVEL" not in os.environ
    return Ktap(out, style, header=header, file_name=stable_names(config), gate=chosen.expect is not None)


def _json(path: Path, _config: pytest.Config, found: Resume | None) -> Sink:
    from pytest_kvm_sea.reports.jsonl import JsonLines

    return JsonLines(path, found.earlier, found.now) if found else JsonLines(path)


def _kcidb(path: Path, config: pytest.Config, _found: Resume | None) -> Sink:
    from pytest_kvm_sea.reports.kcidb import KcidbSink, Submitter

    chosen = settings(config)
    assert chosen.kcidb_origin is not None, "the options were checked"
    return KcidbSink(path, Submitter(chosen.kcidb_origin, chosen.kcidb_build))


def _page(path: Path, _config: pytest.Config, _found: Resume | None) -> Sink:
    from pytest_kvm_sea.reports.page import Page

    return Page(path)


_Make: TypeAlias = "Callable[[Path, pytest.Config, Resume | None], Sink]"


def _check_distinct(chosen: Settings) -> None:
    """One file of two options would be torn, or the expectations lost. Devices and pipes are nobody's."""
    files = [(option, path) for option, path, _ in _writers(chosen)]
    taken: dict[str, Option] = {}
    for option, path in [(EXPECT, chosen.expect), (EXPECT_WRITE, chosen.expect_write), *files]:
        if path is None or str(path) == STDOUT or (path.exists() and not path.is_file()):
            continue
        first = taken.setdefault(os.path.realpath(path), option)
        if first is not option:
            raise pytest.UsageError(
                f"{option.flag}: {path}: {first.flag} names the same file; valid: a file of its own for each"
            )


def _writers(chosen: Settings) -> list[tuple[Option, Path | None, _Make]]:
    return [
        (KTAP, chosen.ktap, _ktap),
        (JSON, chosen.json, _json),
        (KCIDB, chosen.kcidb, _kcidb),
        (REPORT, chosen.report, _page),
    ]
