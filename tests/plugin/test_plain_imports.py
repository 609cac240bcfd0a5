# SPDX-License-Identifier: GPL-2.0-only
"""Which modules pytest rewrites."""

from __future__ import annotations

import pytest

TEST = """
from importlib.machinery import SourceFileLoader
import pytest_kvm_sea.sim.host
import pytest_kvm_sea.selftests.scenario

def test_loaders():
    assert type(pytest_kvm_sea.sim.host.__loader__) is SourceFileLoader
    assert type(pytest_kvm_sea.selftests.scenario.__loader__) is not SourceFileLoader
"""


def test_only_the_selftests_are_rewritten(pytester: pytest.Pytester) -> None:
    # An editable installation has no list of files, by which pytest finds what it rewrites.
    pytester.makeconftest("import pytest; pytest.register_assert_rewrite('pytest_kvm_sea')")
    pytester.makepyfile(TEST)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_second_run_of_one_process_adds_no_second_finder(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n"
        "from pytest_kvm_sea.plain_imports import PlainImports\n"
        "def test_one():\n"
        "    assert sys.meta_path.count(PlainImports) == 1\n"
    )
    for _ in range(2):
        pytester.runpytest_inprocess().assert_outcomes(passed=1)
