# SPDX-License-Identifier: GPL-2.0-only
"""A test that is over keeps nothing: hosts, VMs and their memory go with it, not with the run."""

from __future__ import annotations

import gc
import weakref

import pytest

from pytest_kvm_sea.sim.host import SimHost


def test_hosts_do_not_outlive_their_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[SimHost]] = []
    original = SimHost.__init__

    def note(self: SimHost, *arguments: object, **options: object) -> None:
        made.append(weakref.ref(self))
        original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SimHost, "__init__", note)
    alive: list[int] = []

    class Count:
        def pytest_sessionfinish(self) -> None:
            gc.collect()
            alive.append(sum(host() is not None for host in made))

    selected = "test_access and el1 or test_sea_to_user and anonymous"
    result = pytester.runpytest_inprocess(
        "--pyargs", "pytest_kvm_sea.selftests.test_sea_to_user", "-k", selected, "--kvm-sea-platform=ampereone",
        "-p", "no:cacheprovider", plugins=[Count()],
    )  # fmt: skip
    assert result.parseoutcomes()["passed"] >= 20
    assert len(made) >= 20
    assert alive == [1]  # the one that requirements are looked up on
