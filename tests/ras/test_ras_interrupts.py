# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C in the middle of an injection, and whatever else ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.ras.interrupts import DEFERRED, deferred_interrupts
from pytest_kvm_sea.ras.journal import Journal
from pytest_kvm_sea.ras.retire import HARD_OFFLINE
from tests.ras.ras_hosts import KNOBS, Server, guarded


@pytest.fixture(autouse=True)
def ctrl_c_as_usual() -> Iterator[None]:
    """Whoever starts the tests in the background of a script has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def host() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def came() -> Iterator[list[int]]:
    """The signals that reached the handlers of the program."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: numbers.append(got)) for number in DEFERRED}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_wait_and_come_in_order(came: list[int]) -> None:
    with deferred_interrupts():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert came == []
    assert came == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    signal.raise_signal(signal.SIGHUP)
    assert came[-1] == signal.SIGHUP


def test_inside_another_one_they_wait_for_the_outer(came: list[int]) -> None:
    with deferred_interrupts():
        with deferred_interrupts():
            signal.raise_signal(signal.SIGINT)
        assert came == []
    assert came == [signal.SIGINT]


def test_an_exception_passes(came: list[int]) -> None:
    def fail() -> None:
        with deferred_interrupts():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert came == [signal.SIGINT]


def test_other_threads_have_nothing_to_wait_for() -> None:
    done: list[bool] = []

    def run() -> None:
        with deferred_interrupts():
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize("at", [*KNOBS, "clean_cache", "error_inject"])
def test_ctrl_c_waits_until_the_files_are_back(host: Server, tmp_path: Path, at: str) -> None:
    """And the page that was poisoned meanwhile is known, and goes out of service."""
    for name in KNOBS:
        host.put(name, "0x20" if name == "error_type" else "0x5")
    before = host.knobs()
    memory = host.filled()
    interrupted = False

    def interrupt(name: str, _text: str) -> None:
        nonlocal interrupted
        if name == at and not interrupted:
            interrupted = True
            signal.raise_signal(signal.SIGINT)

    host.before_write = interrupt
    with pytest.raises(KeyboardInterrupt), Einj(host, guarded(tmp_path)) as einj:
        einj.inject_at(memory.address)
    assert [injection.address for injection in einj.injections] == [host.hpa(memory)]
    assert host.knobs() == before
    assert host.physical.is_offline(host.hpa(memory))
    assert [entry.finished for entry in Journal(tmp_path / "journal").entries()] == [True]


def test_ctrl_c_waits_until_every_page_is_out_of_service(host: Server, tmp_path: Path) -> None:
    memories = [host.filled() for _ in range(3)]
    host.before_write = lambda name, _text: signal.raise_signal(signal.SIGINT) if name == HARD_OFFLINE else None
    einj = Einj(host, guarded(tmp_path))
    for memory in memories:
        einj.inject_at(memory.address)
    with pytest.raises(KeyboardInterrupt):
        einj.close()
    assert all(host.physical.is_offline(host.hpa(memory)) for memory in memories)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError, EinjError])
@pytest.mark.parametrize("at", [*KNOBS, "clean_cache", "error_inject"])
def test_any_exception_at_any_write(host: Server, tmp_path: Path, error: type[BaseException], at: str) -> None:
    """As a handler of another signal raises it: the files are put back, and where it cannot be known whether the error
    was injected, the page goes out of service.
    """
    for name in KNOBS:
        host.put(name, "0x20" if name == "error_type" else "0x5")
    before = host.knobs()
    memory = host.filled()

    def fail(name: str, _text: str) -> None:
        if name == at:
            host.before_write = lambda _name, _text: None
            raise error("stop")

    host.before_write = fail
    safeguards = guarded(tmp_path)
    with Einj(host, safeguards) as einj, pytest.raises(error, match="stop"):
        einj.inject_at(memory.address)
    assert host.knobs() == before
    assert host.physical.is_offline(host.hpa(memory)) == (at == "error_inject")
    assert [entry.finished for entry in Journal(tmp_path / "journal").entries()] == [True]
    assert safeguards.lock is not None
    assert not safeguards.lock.held
