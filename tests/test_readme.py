# SPDX-License-Identifier: GPL-2.0-only
"""What the README shows is true: its example runs as it stands, its links lead somewhere, its commands are CI's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_example(pytester: pytest.Pytester) -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) < 25
    pytester.makepyfile(example)
    result = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_exit?sim-ampereone-mainline? PASSED*"])


def test_example_notices_when_there_is_no_exit(pytester: pytest.Pytester) -> None:
    """The example's assertion can fail: without the capability the guest gets an SError that it has no handler for."""
    (example,) = blocks("python")
    assert "    vm.enable_sea_to_user()\n" in example
    pytester.makepyfile(example.replace("    vm.enable_sea_to_user()\n", ""))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-timeout=0.05")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the guest did not end within 0.05 s*guest_code*g.read_u64(CELL)*"])


def test_links() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_two_commands_and_ci_calls_the_second() -> None:
    first, second = blocks("sh")
    assert first.strip().endswith("pytest --pyargs pytest_kvm_sea.selftests")
    assert second.strip().endswith("tox run")
    assert "tox run" in (ROOT / ".ci/run").read_text().replace('/bin/tox" run', "/bin/tox run").replace('"', "")
