# SPDX-License-Identifier: GPL-2.0-only
"""python -m pytest_kvm_sea.mutants, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvm_sea.mutants import __main__ as command
from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.mutants.report import BEGIN, END, line, page
from pytest_kvm_sea.mutants.runner import FAILED, PASSED, Results
from pytest_kvm_sea.mutants.table import MUTANTS
from pytest_kvm_sea.mutants.verdict import KILLED, MISSED, SURVIVED, Verdict

OTHERS = """
import sys
from pytest_kvm_sea.mutants import __main__ as command, workers
from pytest_kvm_sea.mutants.change import Edit
from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.mutants.table import MUTANTS

workers.TIMEOUT = 1.0
CAPABILITY = ("test_sea_to_user::test_capability",)
WHERE = "sim.kvm.vm:Vm._enable_cap"
MUTANTS.clear()
for name, new, killers in (
    ("harmless", "if flags != 0:", CAPABILITY),
    ("for-another-test", "if False:", ("test_sea_to_user::test_capability_off",)),
    ("for-no-test", "if False:", ("test_sea_to_user::test_nothing",)),
    ("dies", "__import__('os')._exit(3)\\n    if flags:", CAPABILITY),
    ("as-expected", "if False:", CAPABILITY),
):
    MUTANTS[name] = Mutant(name, f"The bug {name}.", (Edit(WHERE, "if flags:", new),), killers)
MUTANTS["unfit"] = Mutant("unfit", "The bug unfit.", (Edit(WHERE, "no such text", ""),), CAPABILITY)
sys.exit(command.main(["-j", "2"]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # What the user has set for pytest must not count.
    environment = {**os.environ, "PYTEST_ADDOPTS": "-k nothing", "KVM_SEA_HOST": "linux"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_named_mutants_are_shown_at_length() -> None:
    done = run("-m", "pytest_kvm_sea.mutants", "capability-flags-ignored", "-j", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "tests on the sound hosts: none failed" in lines[0]
    assert lines[1] == "capability-flags-ignored  killed    test_sea_to_user::test_capability"
    assert "    - if flags:" in lines
    assert "    expected  test_sea_to_user::test_capability[sim-ampereone-mainline]" in lines
    assert any("DID NOT RAISE" in text for text in lines)
    assert lines[-1] == "1 mutants: 1 killed"


def test_what_is_not_as_it_should_be_is_said_aloud() -> None:
    done = run("-c", OTHERS)
    assert done.returncode == 1, done.stderr
    first, _, last = done.stdout.partition("\n\n")
    states = dict(text.split()[:2] for text in first.splitlines()[1:])
    assert states == {
        "harmless": "SURVIVED",
        "for-another-test": "MISSED",
        "for-no-test": "MISSED",
        "dies": "BROKEN",
        "as-expected": "killed",
        "unfit": "BROKEN",
    }
    for text in (
        "expected to fail: test_sea_to_user::test_capability_off[sim-ampereone-mainline-el1] passed",
        "expected to fail: test_sea_to_user::test_nothing did not run",
        "its process died",
        "sim.kvm.vm:Vm._enable_cap has 'no such text' 0 times, and not once",
    ):
        assert f"    {text}" in last.splitlines()
    total, _, counts = done.stdout.splitlines()[-1].partition(": ")
    assert total == "6 mutants"
    assert set(counts.split(", ")) == {"1 SURVIVED", "2 MISSED", "2 BROKEN", "1 killed"}


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    text = capsys.readouterr().out
    for mutant in MUTANTS.values():
        assert f"{mutant.name}: {mutant.bug}\n" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["stale-fra"], "there is no mutant 'stale-fra'; do you mean stale-far"),
        (["no"], "there is no mutant 'no'; python -m pytest_kvm_sea.mutants --list shows all"),
        (["-j", "0"], "-j 0: at least 1"),
        (["stale-far", "--markdown", "x.md"], "leave the names away"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


MUTANT = Mutant("some-bug", "A | bug.", (), ("test_a::test_b[x]",))


def verdict(mutant: Mutant, outcomes: dict[str, str]) -> Verdict:
    """Outcomes of test_b[sim-NAME]."""
    return Verdict(mutant, Results({f"test_a::test_b[sim-{name}]": end for name, end in outcomes.items()}))


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ({"x": FAILED}, KILLED),
        ({"x": FAILED, "y": FAILED}, KILLED),
        ({"x": PASSED, "y": FAILED}, MISSED),
        ({"y": FAILED}, MISSED),
        ({"x": PASSED}, SURVIVED),
        ({}, SURVIVED),
    ],
)
def test_states(outcomes: dict[str, str], state: str) -> None:
    found = verdict(MUTANT, outcomes)
    assert found.state == state
    assert state in line(found, 10)


def test_the_page_keeps_what_is_written_by_hand() -> None:
    name, mutant = next(iter(MUTANTS.items()))
    text = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", {name: verdict(mutant, {})})
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert f"| `{name}` | {mutant.bug} " in text
    assert "**SURVIVED**" in text
    with pytest.raises(ValueError, match="has no part between"):
        page("nothing", {})


def test_the_page_is_written_where_it_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not command._write(tmp_path / "none.md", {})
    assert "none.md" in capsys.readouterr().err
