# SPDX-License-Identifier: GPL-2.0-only
"""What the processes of a run do: they import this module, and get chunks."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tests.oracle import strata
from tests.oracle.compare import Pair, Tally


class Chunk(NamedTuple):
    """What one process does at a time: a boot of QEMU, and the same cases simulated."""

    qemu: tuple[str, ...]
    """The start of QEMU's command line."""
    kind: str
    """Of `strata.KINDS`."""
    seed: int
    start: int
    stop: int


@cache
def pair(qemu: tuple[str, ...], kind: str) -> Pair:
    """The two processors for cases of this kind."""
    return Pair(qemu, strata.KINDS[kind].processor)


def run(chunk: Chunk) -> Tally:
    """Make the cases and compare."""
    cases = [strata.make(chunk.kind, chunk.seed, index) for index in range(chunk.start, chunk.stop)]
    return pair(chunk.qemu, chunk.kind).compare(cases, kind=chunk.kind)
