# SPDX-License-Identifier: GPL-2.0-only
"""One process for each mutant, several at a time: what a mutant does to its process is gone with it, and none hangs.

The processes are forked, so that they begin with everything imported and every guest program built.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from pytest_kvm_sea.mutants.change import ChangeError
from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.mutants.runner import Results
from pytest_kvm_sea.mutants.verdict import Verdict, judge

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

TIMEOUT = 60.0
"""Seconds that the selftests may take on one mutant. Guests that hang are ended long before."""
_FORK = multiprocessing.get_context("fork")


@dataclass(slots=True)
class _Job:
    mutant: Mutant
    process: ForkProcess
    answer: Connection
    deadline: float

    def end(self, problem: str) -> Verdict:
        """Its verdict, where it has sent one; otherwise the problem. The process is gone afterwards."""
        try:
            results: Results | None = self.answer.recv() if self.answer.poll() else None
        except EOFError:
            results = None
        if results is None:
            self.process.kill()
        self.process.join()
        self.answer.close()
        if results is not None:
            return Verdict(self.mutant, results, "\n".join(results.problems))
        return Verdict(self.mutant, Results(), problem)


def judge_all(mutants: Iterable[Mutant], workers: int, timeout: float = TIMEOUT) -> Iterator[Verdict]:
    """The verdict on each mutant, as they come."""
    waiting = list(mutants)[::-1]
    running: list[_Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(waiting.pop(), timeout))
            left = min(job.deadline for job in running) - time.monotonic()
            ready = wait([job.answer for job in running], max(0.0, left))
            for job in tuple(running):
                if job.answer in ready:
                    running.remove(job)
                    yield job.end("its process died")
                elif job.deadline < time.monotonic():
                    running.remove(job)
                    yield job.end(f"its process did not end within {timeout:g} s")
    finally:
        for job in running:
            job.end("")


def _start(mutant: Mutant, timeout: float) -> _Job:
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(mutant, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Job(mutant, process, ours, time.monotonic() + timeout)


def _work(mutant: Mutant, answer: Connection) -> None:
    gc.disable()  # what is not given back goes with the process
    try:
        verdict = judge(mutant)
        results = verdict.results
        if verdict.problem:
            results.problems = [verdict.problem]
    except ChangeError as error:
        results = Results(problems=[str(error)])
    answer.send(results)
    answer.close()
