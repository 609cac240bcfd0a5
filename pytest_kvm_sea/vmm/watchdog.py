# SPDX-License-Identifier: GPL-2.0-only
"""Ends a KVM_RUN that takes too long: one sleeping thread for the whole process, started by the first guest."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator


class Deadline:
    """One guarded KVM_RUN."""

    def __init__(self, when: float, kick: Callable[[], None]) -> None:
        self.when = when
        self._kick: Callable[[], None] | None = kick
        self._lock = threading.Lock()
        self.expired = False
        self.error: Exception | None = None
        """What the kick raised; it is raised again in the thread of the run."""

    def expire(self) -> None:
        """Interrupt the run, unless it has ended by itself."""
        with self._lock:
            if self._kick is None:
                return
            self.expired = True
            try:
                self._kick()
            except Exception as error:  # noqa: BLE001 - the watchdog has others to watch
                self.error = error

    def end(self) -> None:
        """The run is over: after this nobody is interrupted any more.

        The deadline stays in the queue until its time; it must not keep the VM alive until then.
        """
        with self._lock:
            self._kick = None

    @property
    def over(self) -> bool:
        return self._kick is None


class Watchdog:
    """Kicks runs whose deadline has passed; repeats it until they end, because a kick can come a moment too early."""

    REPEAT_SECONDS = 0.05

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")

    @contextlib.contextmanager
    def guard(self, seconds: float, kick: Callable[[], None]) -> Iterator[Deadline]:
        """Call ``kick`` from another thread once this has lasted ``seconds``."""
        deadline = Deadline(time.monotonic() + seconds, kick)
        self._add(deadline)
        try:
            yield deadline
        finally:
            deadline.end()
        if deadline.error is not None:
            raise deadline.error

    def _add(self, deadline: Deadline) -> None:
        with self._condition:
            heapq.heappush(self._queue, (deadline.when, next(self._order), deadline))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="kvm-sea-watchdog", daemon=True)
                self._thread.start()
            elif deadline.when < self._wakes_at:
                self._condition.notify()

    def _watch(self) -> None:
        while True:
            for deadline in self._wait():
                deadline.expire()

    def _wait(self) -> list[Deadline]:
        """Sleep until deadlines have passed; give those that are due."""
        with self._condition:
            now = time.monotonic()
            self._wakes_at = self._queue[0][0] if self._queue else float("inf")
            if self._wakes_at > now:
                self._condition.wait(min(self._wakes_at - now, threading.TIMEOUT_MAX))
            return self._take_due(time.monotonic())

    def _take_due(self, now: float) -> list[Deadline]:
        due: list[Deadline] = []
        while self._queue and self._queue[0][0] <= now:
            _, _, deadline = heapq.heappop(self._queue)
            if not deadline.over:
                due.append(deadline)
        for deadline in due:
            heapq.heappush(self._queue, (now + self.REPEAT_SECONDS, next(self._order), deadline))
        return due


WATCHDOG = Watchdog()
if hasattr(os, "register_at_fork"):
    # A forked child has the object, but not its thread.
    os.register_at_fork(after_in_child=WATCHDOG.__init__)  # type: ignore[misc]
