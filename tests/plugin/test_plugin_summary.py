# SPDX-License-Identifier: GPL-2.0-only
"""The summary at the end of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.reports.summary import Result, lines, title

TESTS = """
import pytest

@pytest.mark.parametrize("size", range(3))
def test_skips(kvm_sea_target, size):
    if kvm_sea_target.name == "no-einj-table":
        pytest.skip("[einj-table] the firmware has no EINJ table; enable it | [root] not root; run as root")

@pytest.mark.kvm_sea_platforms("neoverse-v2", "ampereone")
def test_xfails(kvm_sea_target):
    if kvm_sea_target.name == "neoverse-v2":
        pytest.xfail("[mainline-fnv] " + "FnV is never set " * 20)

@pytest.mark.xfail(reason="[by-mark] known", strict=True)
def test_marked(kvm_sea_target):
    assert kvm_sea_target.name == ""

def test_own():
    pytest.skip("[not-ours] nothing to do with it")
"""

EXPECTED = [
    "*= kvm-sea: 14 tests on 3 platforms: 7 passed, 3 skipped, 4 xfailed =*",
    "3 skipped  [[]einj-table] the firmware has no EINJ table; enable it  (no-einj-table)",
    "3 skipped  [[]root] not root; run as root  (no-einj-table)",
    "3 xfailed  [[]by-mark] known  (ampereone, neoverse-v2, no-einj-table)",
    f"1 xfailed  [[]mainline-fnv] {'FnV is never set ' * 20}  (neoverse-v2)",
]


@pytest.mark.parametrize("arguments", [(), ("-q",), ("-v", "--no-header"), ("-n", "2")], ids=" ".join)
def test_skips_and_xfails_are_grouped_by_reason(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(TESTS)
    chosen = [f"--kvm-sea-platform={name}" for name in ("ampereone", "neoverse-v2", "no-einj-table")]
    result = pytester.runpytest_inprocess(*chosen, *arguments)
    result.assert_outcomes(passed=7, skipped=4, xfailed=4)
    result.stdout.fnmatch_lines(EXPECTED, consecutive=True)
    result.stdout.no_fnmatch_line("*skipped  [[]not-ours]*")


def test_everything_skipped_is_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\ndef test_x(kvm_sea_target):\n    pytest.skip('[root] not root; run as root')")
    result = pytester.runpytest_inprocess("--kvm-sea-host=linux")
    result.stdout.fnmatch_lines(
        [
            "*= kvm-sea: 1 test on 1 platform: 1 skipped =*",
            "1 skipped  [[]root] not root; run as root  (linux)",
            "nothing was tested: every test was skipped",
        ],
        consecutive=True,
    )


def test_a_skip_in_a_fixture_counts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def host(kvm_sea_target):
            pytest.skip("[kvm] there is no /dev/kvm; a kernel with it")

        def test_x(host): ...
        def test_y(kvm_sea_target): ...
        """
    )
    result = pytester.runpytest_inprocess("--kvm-sea-platform=ampereone")
    result.stdout.fnmatch_lines(
        ["*kvm-sea: 2 tests on 1 platform: 1 passed, 1 skipped*", "1 skipped  [[]kvm] there is no /dev/kvm; *"]
    )
    result.stdout.no_fnmatch_line("nothing was tested*")


def test_no_summary_without_a_test_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\ndef test_x():\n    pytest.skip('[root] something else')")
    result = pytester.runpytest_inprocess("--kvm-sea-host=linux")
    result.stdout.no_fnmatch_line("*kvm-sea: [0-9]*")


REASONS = st.sampled_from(["[a] x; y", "[b] z; w", "[c] p | q; r"])
RESULTS = st.builds(
    Result,
    test=st.integers(0, 20).map("test_{}".format),
    outcome=st.sampled_from(["passed", "failed", "skipped", "xfailed"]),
    reason=st.lists(REASONS, min_size=1, max_size=3, unique=True).map(" | ".join),
    platform=st.sampled_from(["one", "two"]),
)


@given(st.lists(RESULTS))
def test_every_skip_is_counted_under_each_of_its_reasons(results: list[Result]) -> None:
    text = lines(results)
    for outcome in ("skipped", "xfailed"):
        for reason in ("[a] x; y", "[b] z; w", "[c] p | q; r"):
            members = [one for one in results if one.outcome == outcome and reason in one.reason]
            found = [
                line.split(None, 1) for line in text if line.split(None, 1)[1].startswith(f"{outcome}  {reason}  (")
            ]
            assert [int(count) for count, _ in found] == ([len(members)] if members else [])
    assert title(results).startswith("kvm-sea: ")
