# SPDX-License-Identifier: GPL-2.0-only
"""Run the selftests against hosts with one bug each, and print which test found it.

python -m pytest_kvm_sea.mutants                          all; exit status 1 if one is not found by the tests meant to
python -m pytest_kvm_sea.mutants stale-far pc-advanced    two, with every test that failed and what it said
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path

from pytest_kvm_sea.mutants import report
from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.mutants.runner import RunError
from pytest_kvm_sea.mutants.table import MUTANTS
from pytest_kvm_sea.mutants.verdict import KILLED, Verdict, sound
from pytest_kvm_sea.mutants.workers import judge_all

_PROGRAM = "python -m pytest_kvm_sea.mutants"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="of the mutants to run (default: all)")
    parser.add_argument(
        "--list", action="store_true", help="run nothing: show the mutants, and what ought to kill them"
    )
    parser.add_argument(
        "-j",
        dest="workers",
        metavar="N",
        type=int,
        default=os.cpu_count() or 1,
        help="so many at a time (default: CPUs)",
    )
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        type=Path,
        help="write the tables into this page (docs/mutants.md); all mutants only",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command; the exit status is 0, 1 where a mutant is not killed as expected, 2 for a mistake of the user's."""
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = [_mutant(parser, name) for name in dict.fromkeys(options.names)] or list(MUTANTS.values())
    if options.workers < 1:
        parser.error(f"-j {options.workers}: at least 1")
    if options.markdown and options.names:
        parser.error("--markdown writes the table of all mutants: leave the names away")
    if options.list:
        for mutant in chosen:
            _say(*report.description(mutant))
        return 0
    if not _sound(chosen):
        return 1
    verdicts = _judge(chosen, options.workers, at_length=bool(options.names))
    _say(report.summary(verdicts.values()))
    if options.markdown and not _write(options.markdown, verdicts):
        return 2
    return 0 if all(verdict.state == KILLED for verdict in verdicts.values()) else 1


def _mutant(parser: argparse.ArgumentParser, name: str) -> Mutant:
    if name not in MUTANTS:
        near = difflib.get_close_matches(name, MUTANTS, n=3)
        hint = f"do you mean {' or '.join(near)}? " if near else ""
        parser.error(f"there is no mutant {name!r}; {hint}{_PROGRAM} --list shows all")
    return MUTANTS[name]


def _sound(mutants: list[Mutant]) -> bool:
    """Where the tests fail without any bug, a mutant that they fail on proves nothing."""
    try:
        results = sound(mutants)
    except RunError as error:
        _say(f"the selftests do not run: {error}")
        return False
    for test in results.failed:
        _say(f"fails on a sound host, too: {test}", f"    {results.reasons.get(test, '')}")
    if not results.failed:
        _say(f"{len(results.outcomes)} tests on the sound hosts: none failed")
    return not results.failed


def _judge(mutants: list[Mutant], workers: int, *, at_length: bool) -> dict[str, Verdict]:
    """Run them and print each; the verdicts by name, those that are not as they should be printed again at the end."""
    width = max(len(mutant.name) for mutant in mutants)
    verdicts = {}
    for verdict in judge_all(mutants, workers):
        verdicts[verdict.mutant.name] = verdict
        _say(report.line(verdict, width), *(report.story(verdict) if at_length else ()))
    wrong = [verdict for verdict in verdicts.values() if verdict.state != KILLED]
    for verdict in wrong:
        _say("", report.line(verdict, width), *report.details(verdict))
    return verdicts


def _write(path: Path, verdicts: dict[str, Verdict]) -> bool:
    try:
        path.write_text(report.page(path.read_text(encoding="utf-8"), verdicts), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {path}: {error}\n")
        return False
    return True


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
