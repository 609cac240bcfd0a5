# SPDX-License-Identifier: GPL-2.0-only
"""The oracle: the simulated processor against qemu-system-aarch64.

python -m tests.oracle --cases 1000000 --words 100000 --jobs 2
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pytest_kvm_sea.emulated.errors import EmulationError
from tests.oracle import listing, qemu, report, strata, work
from tests.oracle.compare import Mismatch, Tally
from tests.oracle.shrink import shrink
from tests.oracle.work import Chunk

AGREE, DIFFER, USAGE = 0, 1, 2
"""Exit codes."""
_CHUNK: Final = 5000
"""Cases per boot of QEMU."""
_LATER: Final = 16
"""One case of so many is of the kind `later`."""
_SHOWN: Final = 10
"""Mismatches that are shrunk and printed."""


def _chunks(command: tuple[str, ...], options: argparse.Namespace) -> Iterator[Chunk]:
    if options.only:
        kind, _, index = options.only.partition(":")
        yield Chunk(command, kind, options.seed, int(index), int(index) + 1)
        return
    later = options.cases // _LATER
    counts = {"cases": options.cases - later, "later": later, "simd": options.simd, strata.WORDS: options.words}
    for kind, count in counts.items():
        for start in range(0, count, _CHUNK):
            yield Chunk(command, kind, options.seed, start, min(start + _CHUNK, count))


def _all(chunks: Sequence[Chunk], jobs: int) -> Iterator[Tally]:
    if jobs == 1 or len(chunks) == 1:
        yield from map(work.run, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(work.run, chunks)


def _number(value: str, least: int = 0) -> int:
    if not value.isdecimal() or int(value) < least:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from {least} on")
    return int(value)


def _at_least_one(value: str) -> int:
    return _number(value, 1)


def _only(value: str) -> str:
    kind, _, index = value.partition(":")
    if kind not in strata.KINDS or not index.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not KIND:INDEX; kinds: {', '.join(strata.KINDS)}")
    return value


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.oracle",
        description="Compare the simulated processor with qemu-system-aarch64, which is fetched with apt if need be.",
        epilog=f"exit codes: {AGREE} they agree, {DIFFER} they do not, {USAGE} usage error, or there is no QEMU",
    )
    parser.add_argument("--cases", type=_number, default=20_000, help="cases, by encoding class (default %(default)s)")
    parser.add_argument("--simd", type=_number, default=20_000, help="words of FP and SIMD (default %(default)s)")
    parser.add_argument("--words", type=_number, default=100_000, help="random words (default %(default)s)")
    parser.add_argument("--seed", type=_number, default=0, help="what the cases are made from (default %(default)s)")
    jobs = min(2, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=_at_least_one, default=jobs, help="processes (default %(default)s)")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write down the words that differ for a known reason")
    parser.add_argument("--only", type=_only, metavar="KIND:INDEX", help="one case, as a mismatch names it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        command = tuple(qemu.command(lambda line: print(line, file=sys.stderr)))
    except EmulationError as error:
        print(f"the oracle needs {qemu.PROGRAM}: {error}; install it", file=sys.stderr)
        return USAGE
    if options.list and not _writable(options.list):
        return USAGE
    begun = time.monotonic()
    chunks = list(_chunks(command, options))
    total = Tally()
    for number, tally in enumerate(_all(chunks, options.jobs), 1):
        total.add(tally)
        if number % max(1, len(chunks) // 10) == 0:
            seconds = time.monotonic() - begun
            print(f"{total.cases.total():,} cases, {total.differing.total():,} differ, {seconds:.0f} s", flush=True)
    for line in report.summary(total):
        print(line)
    if options.list:
        _write_list(options, total)
    _show(command, options.seed, total.mismatches)
    seconds = time.monotonic() - begun
    print(
        f"{total.cases.total():,} cases in {seconds:.1f} s: {total.differing.total():,} differ, "
        f"{total.explained.total():,} do so for a known reason"
    )
    return DIFFER if total.differing else AGREE


def _writable(path: Path) -> bool:
    """Before a long run rather than after it."""
    try:
        path.write_text("", encoding="utf-8")
    except OSError as error:
        print(f"cannot write the list to {path}: {error.strerror}", file=sys.stderr)
        return False
    return True


def _write_list(options: argparse.Namespace, total: Tally) -> None:
    command = f"python -m tests.oracle --words {options.words} --seed {options.seed} --list FILE"
    undefined = total.undefined[strata.WORDS]
    same = total.cases[strata.WORDS] - undefined - total.differing[strata.WORDS] - len(total.listed)
    lines = listing.page(total.listed, undefined=undefined, same=same, command=command)
    options.list.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(total.listed):,} words that differ for a known reason are in {options.list}")


def _show(command: tuple[str, ...], seed: int, mismatches: Sequence[Mismatch]) -> None:
    """One of each sort."""
    sorts: dict[tuple[str, tuple[str, ...]], Mismatch] = {}
    for each in mismatches:
        sorts.setdefault(each.sort(), each)
    for each in list(sorts.values())[:_SHOWN]:
        small = shrink(work.pair(command, each.kind), each)
        again = f"python -m tests.oracle --seed {seed} --only {each.kind}:{each.case.index}"
        for line in report.mismatch(small, again):
            print(line)
        print()
    if len(sorts) > _SHOWN:
        print(f"and {len(sorts) - _SHOWN} more sorts of mismatches\n")


if __name__ == "__main__":
    sys.exit(main())
