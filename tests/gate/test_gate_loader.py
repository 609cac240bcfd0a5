# SPDX-License-Identifier: GPL-2.0-only
"""Reading expectations: what is accepted, and where and how everything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvm_sea.gate.errors import GateError
from pytest_kvm_sea.gate.loader import load, parse
from pytest_kvm_sea.gate.model import Known, Promise, Skip
from pytest_kvm_sea.gate.rules import Entry
from tests.gate.gate_files import NEEDS, rules

WHOLE = """\
version: 1
targets: [linux-mainline]
promises:
  - kvm
  - {name: table, targets: [sim-a-*]}
skips:
  - id: no-power
    reason: >
      There is none,
      on Sundays.
  - {id: "*", tests: test_x.py, reason: whatever}
known:
  - tests: "test_x.py::test_y[*]"
    reason: broken
    link: https://example.org/1
    kernel: ">=6.17,<7.4"
at_least: 158
"""

BAD = {
    "empty": ("", "e.yaml: the file is empty; required key: version"),
    "no YAML": ("version: [\n", "e.yaml:2:1: not YAML: "),
    "no mapping": ("- kvm", "e.yaml:1:1: a file of expectations: wrong type, a list; expected a mapping"),
    "no version": ("promises: [kvm]", "e.yaml:1:1: required key missing: version"),
    "unknown version": ("version: 2", "e.yaml:1:10: version: 2 is not known; valid values: 1"),
    "unknown key": (
        "version: 1\nat-least: 3",
        "e.yaml:2:1: unknown key 'at-least'; nearest valid key: at_least; valid keys: version, targets, promises,",
    ),
    "the line is no key": ("version: 1\nskips: [{id: a, reason: b, line: 3}]", "e.yaml:2:28: unknown key 'line' in"),
    "unknown requirement": (
        "version: 1\npromises: [machine, kvn]",
        "e.yaml:2:21: promises[1].name: unknown requirement 'kvn'; nearest valid requirement: kvm; valid requirements: "
        "machine, kvm, ras, table",
    ),
    "unknown requirement in a mapping": (
        "version: 1\npromises:\n  - targets: [x]\n    name: kvn",
        "e.yaml:4:11: promises[0].name: unknown requirement 'kvn'; nearest",
    ),
    "promised twice": ("version: 1\npromises: [kvm, kvm]", "e.yaml:2:17: promises: kvm is listed twice"),
    "the same skip twice": (
        "version: 1\nskips:\n- {id: a, reason: b}\n- {id: a, reason: b}",
        "e.yaml:4:3: skips: the same is listed twice",
    ),
    "no targets": ("version: 1\ntargets: []", "e.yaml:2:10: targets: the list is empty; name something, or leave"),
    "skip without a reason": ("version: 1\nskips:\n- id: a", "e.yaml:3:3: required key missing: reason"),
    "skip with an empty reason": (
        'version: 1\nskips:\n- {id: a, reason: " "}',
        "e.yaml:3:19: skips[0].reason:   is not a reason",
    ),
    "id in brackets": ('version: 1\nskips: [{id: "[a]", reason: b}]', "e.yaml:2:14: skips[0].id: [a] is not the [id]"),
    "every skip": (
        'version: 1\nskips: [{id: "*", reason: b}]',
        "e.yaml:2:14: skips[0].id: '*' allows every skip of every test; name the tests: add `tests`",
    ),
    "known without a link": ("version: 1\nknown:\n- {tests: a, reason: b}", "e.yaml:3:3: required key missing: link"),
    "known without a reason": (
        "version: 1\nknown:\n- {tests: a, link: https://b}",
        "e.yaml:3:3: required key missing: reason",
    ),
    "no link": ("version: 1\nknown:\n- {tests: a, reason: b, link: c}", "e.yaml:3:31: known[0].link: c is not a link"),
    "bad range": (
        'version: 1\nknown:\n- {tests: a, reason: b, link: "https://c", kernel: "7.x"}',
        "e.yaml:3:52: known[0].kernel: '7.x' is not a range of kernel releases; valid: bounds with commas",
    ),
    "no test at all": ("version: 1\nat_least: 0", "e.yaml:2:11: at_least: 0 is out of range; valid: 1 to 1000000"),
}


def test_everything_that_can_be_said() -> None:
    read = parse(WHOLE, "e.yaml", NEEDS)
    given = read.given
    assert given.promises == (Promise("kvm"), Promise("table", ("sim-a-*",)))
    assert given.skips == (Skip("no-power", "There is none, on Sundays.\n"), Skip("*", "whatever", tests="test_x.py"))
    assert given.known == (Known("test_x.py::test_y[*]", "broken", "https://example.org/1", ">=6.17,<7.4"),)
    assert (given.targets, given.at_least, read.lines) == (("linux-mainline",), 158, {"targets": 2, "at_least": 17})


def test_every_entry_knows_its_line() -> None:
    read = parse(WHOLE, "e.yaml", NEEDS)
    given = read.given
    entries: list[Entry] = [*given.promises, *given.skips, *given.known]
    assert [read.place(entry) for entry in entries] == [f"e.yaml:{number}" for number in (4, 5, 7, 11, 13)]


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_refused_with_place_and_hint(text: str, message: str) -> None:
    with pytest.raises(GateError) as caught:
        parse(text, "e.yaml", NEEDS)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"^e\.yaml: cannot be read: No such file or directory$"):
        load(tmp_path / "absent.yaml", "e.yaml", NEEDS)
    large = tmp_path / "large.yaml"
    large.write_text("#" * (1024 * 1024 + 1))
    with pytest.raises(GateError, match=r"^e\.yaml: larger than 1024 KiB; not a file of expectations$"):
        load(large, "e.yaml", NEEDS)


CONTRADICTIONS = {
    "the same": ("promises: [kvm]\nskips: [{id: kvm, reason: r}]", "3: a skip for [kvm] is allowed on t, where it is "),
    "what it needs": (
        "promises:\n- ras\nskips: [{id: machine, tests: x, reason: r}]",
        "4: a skip for [machine] is allowed on t, where it is needed by ras, which is promised at line 3; take one",
    ),
    "on one of two": (
        "promises: [{name: kvm, targets: [u]}]\nskips: [{id: kvm, reason: r, targets: [u, t]}]",
        "3: a skip for [kvm] is allowed on u, where it is promised at line 2; take one of the two out, or give",
    ),
}


@pytest.mark.parametrize(("text", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions(text: str, message: str) -> None:
    with pytest.raises(GateError) as caught:
        rules(text).check_targets(["t", "u"], [])
    assert str(caught.value).startswith(f"e.yaml:{message}")


@pytest.mark.parametrize(
    "text",
    [
        "promises: [{name: kvm, targets: [t]}]\nskips: [{id: kvm, reason: r, targets: [u]}]",
        "promises: [kvm]\nskips: [{id: ras, reason: r}]",  # what needs it is not promised with it
        'promises: [kvm]\nskips: [{id: "*", tests: x, reason: r}]',
        "promises: [{name: kvm, targets: [elsewhere]}]\nskips: [{id: kvm, reason: r}]",
    ],
)
def test_no_contradictions(text: str) -> None:
    rules(text).check_targets(["t", "u"], ["elsewhere"])


def test_targets_that_nothing_has() -> None:
    with pytest.raises(GateError, match=r"^e\.yaml:3: targets: 'linux-m' is no target; nearest .*: linux-mainline; "):
        rules("promises:\n- {name: kvm, targets: [linux-m]}").check_targets(["t"], ["linux-mainline"])
    with pytest.raises(GateError, match=r"^e\.yaml:2: targets: linux-\*: this run has none of them; it has t, u$"):
        rules("targets: [linux-*]").check_targets(["t", "u"], ["linux-mainline"])
