# SPDX-License-Identifier: GPL-2.0-only
"""The files of reports: each its own, and the last one stays where there is no new run."""

from __future__ import annotations

import pytest

REPORTS = ("ktap", "json", "report")


@pytest.mark.parametrize(
    "options",
    [("json", "report"), ("expect", "json"), ("expect", "ktap"), ("expect-write", "report")],
    ids="-and-".join,
)
def test_one_file_for_two_options(pytester: pytest.Pytester, options: tuple[str, str]) -> None:
    pytester.makepyfile("def test_x(): pass")
    content = "version: 1\npromises: [kvm]\n"
    if "expect-write" not in options:
        (pytester.path / "same").write_text(content)
    (pytester.path / "d").mkdir()
    first, second = options
    result = pytester.runpytest_inprocess(f"--kvm-sea-{first}=same", f"--kvm-sea-{second}=d/../same")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: --kvm-sea-{second}: *: --kvm-sea-{first} names the same file; *"])
    if "expect-write" not in options:
        assert (pytester.path / "same").read_text() == content


def test_a_device_may_be_named_twice(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): pass")
    result = pytester.runpytest_inprocess(*(f"--kvm-sea-{name}=/dev/null" for name in REPORTS))
    assert result.ret == 0


@pytest.mark.parametrize("option", ["--help", "--version", "--markers", "--fixtures", "--fixtures-per-test"])
def test_no_run_and_the_last_report_stays(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile("def test_x(): pass")
    for name in REPORTS:
        (pytester.path / name).write_text("of the last run")
    pytester.runpytest_inprocess(option, *(f"--kvm-sea-{name}={name}" for name in REPORTS))
    assert {(pytester.path / name).read_text() for name in REPORTS} == {"of the last run"}


@pytest.mark.parametrize("option", ["json", "trace", "expect"])
def test_a_name_that_is_too_long(pytester: pytest.Pytester, option: str) -> None:
    result = pytester.runpytest_inprocess(f"--kvm-sea-{option}={'x' * 300}")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: --kvm-sea-{option}: 'xxx*': cannot be used: File name too long"])
    result.stderr.no_fnmatch_line("*INTERNALERROR*")
