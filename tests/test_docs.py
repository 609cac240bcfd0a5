# SPDX-License-Identifier: GPL-2.0-only
"""The examples of the documentation run as they stand, and its tables are complete."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import pytest_kvm_sea
from pytest_kvm_sea import command_line, plugin, properties
from pytest_kvm_sea.gate import verdict
from pytest_kvm_sea.gate.loader import parse
from pytest_kvm_sea.gate.model import Expectations, Known, Promise, Skip
from pytest_kvm_sea.gating import gate as gating_gate
from pytest_kvm_sea.gating import promises
from pytest_kvm_sea.guest import cc
from pytest_kvm_sea.platforms.loader import bundled_names, load_platform
from pytest_kvm_sea.reports import trace
from pytest_kvm_sea.requirements import REQUIREMENTS

DOCS = Path(__file__).parents[1] / "docs"
SAID = ("but absent", "which needs it", "unexpected pass", "nothing ran", "tests were to run", "went down")
"""What the gate may say; all of it is in the table of docs/gate.md."""


def text(name: str) -> str:
    return (DOCS / name).read_text()


def block(name: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", text(name), re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("page", "tests"),
    [("fixtures.md", 3), ("guests.md", 1), ("injection.md", 1), ("firmware.md", 1), ("vmm.md", 1), ("fake-einj.md", 3)],
)
def test_python_examples(pytester: pytest.Pytester, page: str, tests: int) -> None:
    pytester.makepyfile(block(page, "python"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-platform=ampereone")
    result.assert_outcomes(passed=tests)


ZIG = shlex.join(("python", *cc.ZIG, *cc.ZIG_OPTIONS))


@pytest.mark.skipif(
    not cc.compilers(), reason="[c-compiler] no C compiler for AArch64: apt install gcc-aarch64-linux-gnu, or ziglang"
)
@pytest.mark.parametrize("kind", list(cc.compilers()) or ["none"])
def test_the_guest_in_c(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Built by the command of the page in a shell, by either of its compilers, and run."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(pytest_kvm_sea.__file__).parents[1]))
    (pytester.path / "guest.c").write_text(block("guests-in-c.md", "c"))
    command = block("guests-in-c.md", "sh")
    assert f"`{ZIG}`" in text("guests-in-c.md")
    if kind == "zig":
        command = command.replace("aarch64-linux-gnu-gcc", ZIG)
    subprocess.run(["sh", "-ec", command], check=True)
    pytester.makepyfile(block("guests-in-c.md", "python"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-platform=ampereone")
    result.assert_outcomes(passed=1)


_VARIES = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}\b|\d+\.\d{3}\b|Linux \S+|-[0-9a-f]{8}\.txt|\.pytest_cache/d/kvm-sea| {2,}"
)
"""Numbers of a run, and the blanks that keep columns."""


def shape(lines: Sequence[str]) -> list[str]:
    return [_VARIES.sub("*", line).strip() for line in lines]


def test_the_example_of_a_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=block("failures.md", "python"))
    result = pytester.runpytest_inprocess("--kvm-sea-platform=ampereone", "--kvm-sea-trace=.pytest_cache/d/kvm-sea")
    result.assert_outcomes(failed=1)
    first = next(number for number, line in enumerate(result.outlines) if "kvm-sea: what happened" in line)
    section = block("failures.md", "text").splitlines()
    assert shape(result.outlines[first : first + len(section)]) == shape(section)


def test_the_example_of_a_syndrome(pytester: pytest.Pytester) -> None:
    command, *lines = block("failures.md", "console").splitlines()
    result = pytester.runpytest_inprocess(*shlex.split(command)[2:])
    assert result.outlines == lines


def test_the_numbers_of_the_trace() -> None:
    assert f"the first {trace.FIRST} and the last {trace.LAST} steps" in text("failures.md")


def test_ktap_example(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_example=block("ktap.md", "python"))
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kvm-sea-platform=ampereone", "--kvm-sea-ktap=out")
    assert (pytester.path / "out").read_text() == block("ktap.md", "text")


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


def test_the_file_of_expectations(tmp_path: Path) -> None:
    needs = {name: requirement.needs for name, requirement in REQUIREMENTS.items()}
    rules = parse(block("gate.md", "yaml"), "gate.md", needs)
    rules.check_targets(["linux-mainline"], [])
    assert rules.known("x/test_vcpu_events.py::test_refused_as_a_whole[linux-mainline]", "linux-mainline", "6.17.3")


def test_every_key_of_expectations_is_listed() -> None:
    listed = set(re.findall(r"`([a-z_.]+)`", " ".join(re.findall(r"^\| (`.*?) \|", text("gate.md"), re.MULTILINE))))
    keys = {item.name for item in dataclasses.fields(Expectations)}
    for name, entry in (("promises", Promise), ("skips", Skip), ("known", Known)):
        keys |= {f"{name}.{item.name}" for item in dataclasses.fields(entry) if item.name != "line"}
    assert listed == keys


@pytest.mark.parametrize("module", [verdict, gating_gate, promises])
def test_what_the_gate_says_is_explained(module: ModuleType) -> None:
    source = inspect.getsource(module)
    said = [words for words in SAID if words in source]
    assert said
    table = text("gate.md").partition("| it says |")[2]
    for words in said:
        assert words in table


def test_every_bundled_platform_is_listed() -> None:
    listed = set(re.findall(r"`([a-z0-9.-]+)`", text("platforms.md").partition("Bundled:")[2]))
    assert listed == set(bundled_names())


def test_every_mark_is_explained() -> None:
    page = text("fixtures.md")
    for mark in plugin.MARKS:
        assert mark.partition("(")[0] in page


def test_requirements_that_are_named_exist() -> None:
    names = re.search(r"REQUIREMENTS`: (.*?), ….", text("fixtures.md"), re.DOTALL)
    assert names is not None
    assert set(re.findall(r"`([a-z0-9-]+)`", names[1])) <= set(REQUIREMENTS)


def _pattern(line: str) -> str:
    """What a page shows as a pattern: `...` is anything, rules of = are as long as the terminal is wide."""
    escaped = re.sub(r"[\[*?]", r"[\g<0>]", line)
    return re.sub(r"^=+|=+$", "*", escaped).replace("...", "*")


_FILE = re.compile(r"`([\w.-]+)`:\n\n```\w+\n(.*?)```|```console\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["tutorial.md"])
def test_walkthroughs(pytester: pytest.Pytester, page: str) -> None:
    """Worked through from top to bottom: files are made, commands run and print what the page shows."""
    commands = 0
    for name, content, console in _FILE.findall(text(page)):
        if name:
            (pytester.path / name).write_text(content)
            continue
        (command,) = [line for line in console.splitlines() if line.startswith("$ ")]
        _, program, *arguments = shlex.split(command)
        assert program == "pytest", command
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
        result.stdout.fnmatch_lines([_pattern(line) for line in console.splitlines() if line not in (command, "...")])
        commands += 1
    assert commands
    assert commands == text(page).count("```console")


def test_the_reference_is_what_the_code_says() -> None:
    """Stale pages: run `python docs/generate.py`."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, content in generate.pages().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name} is stale; run python docs/generate.py"
    assert {path.name for path in (DOCS / "reference").iterdir()} == {path.name for path in generate.pages()}


def test_every_page_can_be_found() -> None:
    listed = re.findall(r"^([\w/-]+)$", text("index.md"), re.MULTILINE)
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)


def test_options_that_are_named_exist() -> None:
    flags = {option.flag for option in command_line.OPTIONS}
    for path in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        named = set(re.findall(r"--kvm-sea(?:-[a-z]+)+", path.read_text()))
        assert named <= flags, path.name


@pytest.mark.parametrize("index", range(2), ids=["GitHub Actions", "LAVA"])
def test_yaml_of_ci_systems(index: int) -> None:
    definition = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text("ci-systems.md"), re.DOTALL)[index])
    jobs = definition["run"]["steps"] if index else definition["jobs"]["simulated"]["steps"]
    steps = [job if isinstance(job, str) else job.get("run", "") for job in jobs]
    assert any("pytest --pyargs pytest_kvm_sea.selftests" in step for step in steps)


def test_results_for_lava(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example runs as it stands, with a `lava-test-case` that writes down what it is told."""
    pytester.makepyfile(
        test_x="""
        import pytest

        def test_passes(kvm_sea_target): pass

        def test_skips(kvm_sea_target): pytest.skip("[x] no")

        def test_fails(kvm_sea_target): assert 0
        """
    )
    pytester.runpytest_inprocess("--kvm-sea-platform=ampereone", "--kvm-sea-json=run.jsonl")
    command = pytester.path / "bin/lava-test-case"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {pytester.path}/told\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    done = subprocess.run([sys.executable, DOCS / "examples/lava_results.py", "run.jsonl"], check=False)
    assert done.returncode == 0
    assert (pytester.path / "told").read_text().splitlines() == [
        "test_x.py_test_passes_sim-ampereone-mainline --result pass",
        "test_x.py_test_skips_sim-ampereone-mainline --result skip",
        "test_x.py_test_fails_sim-ampereone-mainline --result fail",
    ]


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
