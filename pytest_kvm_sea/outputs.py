# SPDX-License-Identifier: GPL-2.0-only
"""The files that a run writes: which option makes which, and what becomes of one that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.command_line import JSON, REPORT, Option
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
    outputs: list[Output] = []
    for option, path, make in _writers(chosen):
        if path is None:
            continue
        try:
            outputs.append(Output(f"{option.flag}={path}", make(path, chosen, found)))
        except OSError as error:
            for output in outputs:
                output.abandon()
            raise pytest.UsageError(
                f"{option.flag}: {path}: cannot be written: {error.strerror}; valid: a file in a directory that exists"
                " and that you may write to"
            ) from None
    return outputs


# What writes a format is imported for those who want it.


def _json(path: Path, _chosen: Settings, found: Resume | None) -> Sink:
    from pytest_kvm_sea.reports.jsonl import JsonLines

    return JsonLines(path, found.earlier, found.now) if found else JsonLines(path)


def _page(path: Path, _chosen: Settings, _found: Resume | None) -> Sink:
    from pytest_kvm_sea.reports.page import Page

    return Page(path)


def _writers(chosen: Settings) -> list[tuple[Option, Path | None, Callable[[Path, Settings, Resume | None], Sink]]]:
    return [
        (JSON, chosen.json, _json),
        (REPORT, chosen.report, _page),
    ]
