# SPDX-License-Identifier: GPL-2.0-only
"""The examples of the documentation run as they stand, and its tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pytest_kvm_sea import command_line, plugin, properties
from pytest_kvm_sea.platforms.loader import bundled_names, load_platform
from pytest_kvm_sea.requirements import REQUIREMENTS

DOCS = Path(__file__).parents[1] / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text()


def block(name: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", text(name), re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("page", "tests"), [("fixtures.md", 3), ("guests.md", 1), ("injection.md", 1), ("firmware.md", 1)]
)
def test_python_examples(pytester: pytest.Pytester, page: str, tests: int) -> None:
    pytester.makepyfile(block(page, "python"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-platform=ampereone")
    result.assert_outcomes(passed=tests)


def test_the_examples_run_or_skip_everywhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(block("fixtures.md", "python"))
    outcomes = pytester.runpytest_inprocess("-p", "no:cacheprovider").parseoutcomes()
    # A warning is pytest's own, about the plugin that this process has loaded already.
    assert set(outcomes) <= {"passed", "skipped", "warnings"}
    assert outcomes["passed"] > 2 * len(bundled_names())


def test_yaml_example(tmp_path: Path) -> None:
    file = tmp_path / "my-server.yaml"
    file.write_text(block("platforms.md", "yaml"))
    platform = load_platform(file)
    assert (platform.name, platform.kernel.page_size, platform.cpu.sea_far) == ("my-server", 65536, False)


def test_every_bundled_platform_is_listed() -> None:
    listed = set(re.findall(r"`([a-z0-9.-]+)`", text("platforms.md").partition("Bundled:")[2]))
    assert listed == set(bundled_names())


def test_every_option_and_mark_is_listed() -> None:
    page = text("fixtures.md")
    listed = set(re.findall(r"^\| `(--kvm-sea-[a-z-]+)[=`]", page, re.MULTILINE))
    assert listed == {option.flag for option in command_line.OPTIONS}
    for mark in plugin.MARKS:
        assert mark.partition("(")[0] in page


def test_requirements_that_are_named_exist() -> None:
    names = re.search(r"REQUIREMENTS`: (.*?), ….", text("fixtures.md"), re.DOTALL)
    assert names is not None
    assert set(re.findall(r"`([a-z0-9-]+)`", names[1])) <= set(REQUIREMENTS)


def test_properties_of_junit_are_listed() -> None:
    listed = re.findall(r"^\| `(kvm_sea_[a-z_]+)` \|", text("reports.md"), re.MULTILINE)
    assert listed == [*properties.NAMES, *properties.LISTS]


def test_the_example_of_several_hosts(pytester: pytest.Pytester) -> None:
    example = re.findall(r"```sh\n(.*?)```", text("xdist.md"), re.DOTALL)[0]
    program, *arguments = shlex.split(example.replace("\\\n", ""))
    assert (program, arguments[:2]) == ("pytest", ["--pyargs", "pytest_kvm_sea.selftests"])
    pytester.makepyfile("def test_x(kvm_sea_target): ...")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments[2:])
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["one: kvm-sea: *platforms ampereone,*", "two: kvm-sea: *platforms neoverse-v2,*"])
