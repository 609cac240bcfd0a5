# SPDX-License-Identifier: GPL-2.0-only
"""--kvm-sea-decode-esr, --kvm-sea-doctor, --kvm-sea-list: no test runs, and nobody sees a traceback."""

from __future__ import annotations

import re
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea import fixtures, requirements
from pytest_kvm_sea.commands import GROUPS, SEA_TO_USER, originals, parse_esr
from pytest_kvm_sea.platforms.loader import bundled_names
from pytest_kvm_sea.selftests import scenario
from pytest_kvm_sea.uapi.revisions import REVISIONS


def run(pytester: pytest.Pytester, *arguments: str) -> tuple[int, list[str]]:
    pytester.makepyfile("def test_never(kvm_sea_vm):\n    raise AssertionError('a test ran')")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "a test ran" not in text
    return int(result.ret), text.splitlines()


@pytest.mark.parametrize(
    ("text", "esr"),
    [
        ("0x96000010", 0x9600_0010),
        ("0X9600001F", 0x9600_001F),
        ("9600001f", 0x9600_001F),
        ("2516582416", 2516582416),
        ("0", 0),
        (" 0xffffffffffffffff\n", (1 << 64) - 1),
        ("[   12.3] Internal error: synchronous external abort: ESR: 0x0000000096000210", 0x9600_0210),
        ("ARM_SEA: esr=0x92000010 flags=0x1 gva=0x80004b80 gpa=0xffffc04000", 0x9200_0010),
        ("Guest SEA esr_el1=0x96000010, far_el1=0x80004b80", 0x9600_0010),
    ],
)
def test_a_syndrome_is_found(text: str, esr: int) -> None:
    assert parse_esr(text) == esr


@given(st.integers(0, (1 << 64) - 1))
def test_every_way_to_write_a_number_is_read(esr: int) -> None:
    for text in (f"{esr:#x}", f"{esr:#018x}", f"{esr}", f"ESR: {esr:#x}"):
        assert parse_esr(text) == esr


@pytest.mark.parametrize(
    "text", ["", "zz", "-1", "0x", "1" + "0" * 20, "0x1ffffffffffffffff", "\x1b[31m", "\u0663", "9" * 9999]
)
def test_what_is_no_syndrome_is_refused(text: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        parse_esr(text)
    assert "--kvm-sea-decode-esr" in str(caught.value)
    assert "valid: a number of at most 64 bits" in str(caught.value)
    assert str(caught.value).isprintable()


def test_decode_esr(pytester: pytest.Pytester) -> None:
    code, lines = run(pytester, "--kvm-sea-decode-esr", "kvm: esr=0x92000610")
    assert code == 0
    assert lines[0] == (
        "ESR = 0x0000000092000610  data abort from a lower exception level; synchronous external abort, not on a table"
        " walk; read; FAR is not valid"
    )
    fields = [line.split(maxsplit=3) for line in lines[1:]]
    assert ["10", "FnV", "0x1", "FAR is not valid"] in fields
    assert sum(int(value, 16) << int(bits.rpartition(":")[2]) for bits, _, value, *_ in fields) == 0x9200_0610


def test_a_wrong_value_is_a_usage_error(pytester: pytest.Pytester) -> None:
    code, lines = run(pytester, "--kvm-sea-decode-esr", "zz")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert any(
        line.startswith("ERROR: --kvm-sea-decode-esr: 'zz': there is no syndrome in it; valid: ") for line in lines
    )


def test_list(pytester: pytest.Pytester) -> None:
    code, lines = run(pytester, "--kvm-sea-list", "-n", "2")
    assert code == 0
    words = {line.split()[0] for line in lines if line.startswith("  ")}
    assert words >= {*bundled_names(), *REVISIONS, *requirements.REQUIREMENTS}


def test_every_requirement_is_in_one_group() -> None:
    assert Counter(name for names in GROUPS.values() for name in names) == Counter(requirements.REQUIREMENTS.keys())


def test_what_the_originals_need_is_what_their_ports_need() -> None:
    assert set(SEA_TO_USER) == {*scenario.NEEDS, *fixtures.EINJ_NEEDS} - {"arm64"}
    assert originals(REVISIONS["series-v1"])["inject_iabt"] == ("kvm", "inject-ext-iabt")
    assert "inject-ext-iabt" not in originals(REVISIONS["mainline"])["inject_iabt"]


@pytest.mark.parametrize(
    ("platform", "code", "lacking"),
    [
        ("ampereone", 0, ""),
        ("series-v1", 0, ""),
        ("no-einj-table", 1, "einj-table"),
        ("no-ras", 1, "ras"),
        ("unprivileged", 1, "pagemap-pfn"),
    ],
)
def test_doctor(pytester: pytest.Pytester, platform: str, code: int, lacking: str) -> None:
    status, lines = run(pytester, "--kvm-sea-doctor", f"--kvm-sea-platform={platform}")
    assert status == code
    text = "\n".join(lines)
    verdict = re.search(r"^    sea_to_user: (.*)$", text, re.MULTILINE)
    assert verdict is not None
    assert verdict[1] == "can run" if not lacking else lacking in verdict[1].removeprefix("lacks ").split(", ")
    for name in requirements.REQUIREMENTS:
        assert re.search(rf"^    (ok|missing)\s+{re.escape(name)} ", text, re.MULTILINE)
    if lacking == "einj-table":
        assert "to get it: enable error injection in the firmware's set-up" in text


def test_doctor_of_several_hosts_says_what_they_lack_only(pytester: pytest.Pytester) -> None:
    status, lines = run(pytester, "--kvm-sea-doctor", "--kvm-sea-platform=ampereone", "--kvm-sea-platform=no-ras")
    assert status == 1
    assert not any(line.startswith("    ok ") for line in lines)
    assert lines[-1] == "1 of 2 hosts have all that the two original selftests need"


def test_doctor_of_this_machine(pytester: pytest.Pytester) -> None:
    status, lines = run(pytester, "--kvm-sea-doctor", "--kvm-sea-host=linux")
    assert status in (0, 1)
    assert lines[0].startswith("linux-mainline: ")
    assert any("--kvm-sea-einj-host=" in line for line in lines)


def test_doctor_where_there_is_no_linux(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    status, lines = run(pytester, "--kvm-sea-doctor", "--kvm-sea-host=linux")
    assert status == 1
    assert lines == ["[linux] this machine runs darwin; Linux on arm64, or --kvm-sea-host sim"]
