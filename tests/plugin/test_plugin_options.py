# SPDX-License-Identifier: GPL-2.0-only
"""Options and their ini twins: what is valid, where it came from, and what a usage error says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kvm_sea.command_line import OPTIONS
from pytest_kvm_sea.platforms.loader import bundled_names

USES = "def test_x(kvm_sea_target):\n    print(f'<{kvm_sea_target.id}>')\n"
UNRELATED = "def test_x():\n    pass\n"

BAD = {
    "host": (["--kvm-sea-host", "qemu"], "--kvm-sea-host: 'qemu': unknown host; valid values: sim, linux"),
    "host nearly": (
        ["--kvm-sea-host", "linus"],
        "--kvm-sea-host: 'linus': unknown host; nearest valid value: linux; valid values: sim, linux",
    ),
    "empty": (["--kvm-sea-host", ""], "--kvm-sea-host: '': unknown host; valid values: sim, linux"),
    "revision": (
        ["--kvm-sea-uapi", "series-v2"],
        "--kvm-sea-uapi: 'series-v2': unknown revision; nearest valid value: series-v1; "
        "valid values: mainline, series-v1",
    ),
    "platform": (
        ["--kvm-sea-platform", "ampereone", "--kvm-sea-platform", "neoverse-v3"],
        f"--kvm-sea-platform: 'neoverse-v3': unknown platform; nearest valid value: neoverse-v2; "
        f"valid values: {', '.join(bundled_names())}; or the path of a YAML file",
    ),
    "file that is not there": (
        ["--kvm-sea-platform", "absent.yaml"],
        "absent.yaml: cannot be read: No such file or directory",
    ),
    "file with a slip": (["--kvm-sea-platform", "slip.yaml"], "slip.yaml:3:1: unknown key 'kernal'; nearest valid key"),
    "two of one name": (
        ["--kvm-sea-platform", "ampereone", "--kvm-sea-platform", "mine.yaml"],
        "mine.yaml: the name 'ampereone' is taken by ampereone",
    ),
    "platform that does not speak the revision": (
        ["--kvm-sea-platform", "ampereone", "--kvm-sea-uapi", "series-v1"],
        "no chosen platform speaks the revision 'series-v1'; chosen: ampereone (mainline)",
    ),
    "platform of a real host": (
        ["--kvm-sea-host", "linux", "--kvm-sea-platform", "ampereone"],
        "--kvm-sea-platform: 'ampereone': a platform is simulated; leave it out with --kvm-sea-host linux",
    ),
    "time-out": (
        ["--kvm-sea-timeout", "soon"],
        "--kvm-sea-timeout: 'soon': not a time-out; valid: a number of seconds above 0",
    ),
    "time-out of nothing": (["--kvm-sea-timeout", "0"], "--kvm-sea-timeout: '0': not a time-out"),
    "time-out without end": (["--kvm-sea-timeout", "inf"], "--kvm-sea-timeout: 'inf': not a time-out"),
    "from the ini file": (
        ["-c", "bad.ini"],
        "kvm_sea_host in {path}/bad.ini: 'qemu': unknown host; valid values: sim, linux",
    ),
    "from the environment": (
        ["KVM_SEA_UAPI=seven"],
        "environment variable KVM_SEA_UAPI: 'seven': unknown revision; valid values: mainline, series-v1",
    ),
    "mode of KTAP": (
        ["--kvm-sea-ktap-mode=deep"],
        "--kvm-sea-ktap-mode: 'deep': unknown mode; valid values: nested, flat, tap13",
    ),
    "directory as a file": (["--kvm-sea-json=."], "--kvm-sea-json: '.': not a file; valid: the path of a file"),
    "file as a directory": (
        ["--kvm-sea-trace=mine.yaml"],
        "--kvm-sea-trace: 'mine.yaml': not a directory; valid: the path of a directory",
    ),
    "from an overridden ini value": (
        ["-o", "kvm_sea_uapi=seven"],
        "-o kvm_sea_uapi: 'seven': unknown revision; valid values: mainline, series-v1",
    ),
}


@pytest.fixture
def files(pytester: pytest.Pytester) -> Path:
    pytester.makefile(".yaml", slip="name: slip\ndescription: A slip.\nkernal: {}\n")
    pytester.makefile(".yaml", mine="name: ampereone\ndescription: Mine.\n")
    pytester.makefile(".ini", bad="[pytest]\nkvm_sea_host = qemu\n")
    return pytester.path


@pytest.mark.parametrize("case", BAD)
def test_bad_values_end_the_run_before_it_starts(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, files: Path, case: str
) -> None:
    arguments, message = BAD[case]
    if arguments[0].startswith("KVM"):
        monkeypatch.setenv(*arguments[0].split("=", 1))
        arguments = arguments[1:]
    pytester.makepyfile(UNRELATED)
    result = pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message.format(path=files) in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert "collected" not in result.stdout.str()


def ids(result: pytest.RunResult) -> list[str]:
    return re.findall(r"<([^<>]+)>$", result.stdout.str(), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kvm-sea-host", "linux"], ["linux-mainline"]),
        (["--kvm-sea-host=linux", "--kvm-sea-uapi=series-v1"], ["linux-series-v1"]),
        (["--kvm-sea-platform", "neoverse-v2"], ["sim-neoverse-v2-mainline"]),
        (
            ["--kvm-sea-platform", "series-v1", "--kvm-sea-platform", "ampereone"],
            ["sim-series-v1-series-v1", "sim-ampereone-mainline"],
        ),
        (["--kvm-sea-platform", "ampereone", "--kvm-sea-platform", "ampereone"], ["sim-ampereone-mainline"]),
        (["--kvm-sea-platform", "my box.yaml"], ["sim-box-series-v1"]),
        (["-o", "kvm_sea_platform=ampereone 'my box.yaml'"], ["sim-ampereone-mainline", "sim-box-series-v1"]),
        (["-o", "kvm_sea_platform=ampereone", "--kvm-sea-platform", "no-ras"], ["sim-no-ras-mainline"]),
        (["KVM_SEA_PLATFORM=ampereone 'my box.yaml'"], ["sim-ampereone-mainline", "sim-box-series-v1"]),
        (["KVM_SEA_PLATFORM=ampereone", "-o", "kvm_sea_platform=no-ras"], ["sim-ampereone-mainline"]),
        (["KVM_SEA_PLATFORM=ampereone", "--kvm-sea-platform=no-ras"], ["sim-no-ras-mainline"]),
        (["-o", "kvm_sea_platform=ampereone", "--kvm-sea-host=linux"], ["linux-mainline"]),
        (["-o", "kvm_sea_host=linux", "--kvm-sea-host=sim", "--kvm-sea-platform=no-ras"], ["sim-no-ras-mainline"]),
        (
            ["--kvm-sea-platform=series-v1", "--kvm-sea-platform=ampereone", "--kvm-sea-uapi=mainline"],
            ["sim-ampereone-mainline"],
        ),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith(("-", "KVM")) else "",
)
def test_targets_follow_the_options(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: list[str]
) -> None:
    """A first argument in capitals is a variable of the environment."""
    pytester.makepyfile(USES)
    if arguments[0].startswith("KVM"):
        monkeypatch.setenv(*arguments[0].split("=", 1))
        arguments = arguments[1:]
    (pytester.path / "my box.yaml").write_text("name: box\ndescription: Mine.\nkernel: {uapi: series-v1}\n")
    assert ids(pytester.runpytest_inprocess("-s", "-q", *arguments)) == expected


def test_without_a_choice_all_bundled_platforms(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES)
    found = ids(pytester.runpytest_inprocess("-s", "-q"))
    assert len(found) == len(bundled_names())
    assert all(one.startswith(f"sim-{name}-") for one, name in zip(found, bundled_names(), strict=True))


def test_a_path_in_the_ini_file_is_relative_to_it(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nkvm_sea_platform = boards/box.yaml\n")
    boards = pytester.mkdir("boards")
    (boards / "box.yaml").write_text("name: box\ndescription: Mine.\n")
    (boards / "test_it.py").write_text(USES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(boards)
        assert ids(pytester.runpytest_inprocess("-s", "-q")) == ["sim-box-mainline"]


def test_every_option_has_prefix_ini_twin_and_own_dest(pytester: pytest.Pytester) -> None:
    assert len({option.dest for option in OPTIONS}) == len(OPTIONS)
    text = pytester.runpytest_inprocess("--help").stdout.str()
    for option in OPTIONS:
        assert option.flag.startswith("--kvm-sea-")
        assert option.flag in text
        assert option.command or option.dest in text


def test_the_header_says_what_was_chosen(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNRELATED)
    result = pytester.runpytest_inprocess("--kvm-sea-platform=ampereone", "--kvm-sea-timeout=2.5")
    result.stdout.fnmatch_lines(
        ["kvm-sea: host sim, platforms ampereone, revision of the platform, time-out 2.5 s"],
    )
    result = pytester.runpytest_inprocess("--kvm-sea-host=linux")
    result.stdout.fnmatch_lines(["kvm-sea: host linux, revision mainline, time-out 10 s"])


def test_an_unrelated_run_does_not_see_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNRELATED)
    result = pytester.runpytest_inprocess("-v")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("kvm-sea:*")
    result.stdout.no_fnmatch_line("*= kvm-sea*")
