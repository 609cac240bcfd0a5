# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog: late runs are interrupted, and only they; nothing is kept alive for it."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

from pytest_kvm_sea.vmm.watchdog import WATCHDOG, Watchdog


def test_a_run_in_time_is_left_alone() -> None:
    kicked = threading.Event()
    with Watchdog().guard(0.03, kicked.set) as deadline:
        pass
    assert not kicked.wait(0.08)
    assert not deadline.expired


def test_a_late_run_is_kicked_until_it_ends() -> None:
    """A kick can come before the run has reached the point where it is noticed."""
    kicks: list[float] = []
    with Watchdog().guard(0.01, lambda: kicks.append(time.monotonic())) as deadline:
        started = time.monotonic()
        while len(kicks) < 3 and time.monotonic() - started < 5:
            time.sleep(0.005)
    assert deadline.expired
    assert len(kicks) >= 3
    count = len(kicks)
    time.sleep(0.12)
    assert len(kicks) == count


def test_a_kick_that_fails_is_told_to_the_run_and_to_nobody_else() -> None:
    watchdog = Watchdog()

    def fail() -> None:
        raise RuntimeError("the host is gone")

    def run() -> None:
        with watchdog.guard(0.01, fail) as deadline:
            started = time.monotonic()
            while deadline.error is None and time.monotonic() - started < 5:
                time.sleep(0.005)

    with pytest.raises(RuntimeError, match="the host is gone"):
        run()
    kicked = threading.Event()
    with watchdog.guard(0.01, kicked.set):
        assert kicked.wait(5)


def test_deadlines_do_not_wait_for_each_other() -> None:
    watchdog = Watchdog()
    late, early = threading.Event(), threading.Event()
    with watchdog.guard(30, late.set), watchdog.guard(0.01, early.set):
        assert early.wait(5)
    assert not late.is_set()


def test_what_a_finished_run_used_can_go() -> None:
    class Vm:
        def kick(self) -> None:
            raise AssertionError("nobody is late")

    vm = Vm()
    gone = weakref.ref(vm)
    with WATCHDOG.guard(60, vm.kick):
        pass
    del vm
    gc.collect()
    assert gone() is None


def test_one_thread_for_all() -> None:
    before = sum(thread.name == "kvm-sea-watchdog" for thread in threading.enumerate())
    watchdog = Watchdog()
    for _ in range(5):
        with watchdog.guard(60, lambda: None):
            pass
    after = sum(thread.name == "kvm-sea-watchdog" for thread in threading.enumerate())
    assert after == before + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="[fork] the system has no fork; nothing to get")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    with WATCHDOG.guard(60, lambda: None):
        pass
    child = os.fork()
    if child == 0:
        kicked = threading.Event()
        with WATCHDOG.guard(0.01, kicked.set):
            os._exit(0 if kicked.wait(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
