# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C and SIGTERM that wait until something that must not be cut in two is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Signals that end a run take effect when the context ends, in the order in which they came.

    Signals reach handlers in the main thread alone, so in any other thread there is nothing to put off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    # None: a handler that was not installed from Python and cannot be put back from here.
    before = {number: handler for number in DEFERRED if (handler := signal.getsignal(number)) is not None}
    for handled in before:
        signal.signal(handled, note)
    try:
        yield
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
        for number in came:
            signal.raise_signal(number)
