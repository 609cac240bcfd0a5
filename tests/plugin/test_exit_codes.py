# SPDX-License-Identifier: GPL-2.0-only
"""kselftest's exit codes: what did not end well is never a skip (4) or an expected failure (2)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

FLAG = "--kvm-sea-exit-codes=kselftest"
PASS = "def test_pass(): pass\n"
FAIL = "def test_fail(): assert 0\n"
SKIP = "import pytest\n@pytest.mark.skip\ndef test_skip(): pass\n"
SKIP_INSIDE = "import pytest\ndef test_skip_inside(): pytest.skip('no')\n"
XFAIL = "import pytest\n@pytest.mark.xfail\ndef test_xfail(): assert 0\n"
XFAIL_SETUP = "import pytest\n@pytest.mark.xfail(run=False)\ndef test_not_even_run(): assert 0\n"
XPASS = "import pytest\n@pytest.mark.xfail\ndef test_xpass(): pass\n"
EXIT = "import pytest\ndef test_exit(): pytest.exit('enough', returncode={})\n"
TEARDOWN = "import pytest\n@pytest.fixture\ndef broken():\n    yield\n    1/0\n\ndef test_x(broken): pytest.skip()\n"
MISUSED = "import pytest\n@pytest.mark.kvm_sea_requires('nothing')\ndef test_x(kvm_sea_host): pass\n"

CASES: dict[str, tuple[str, Sequence[str], int, int]] = {
    "passed": (PASS, [], 0, 0),
    "passed and skipped": (PASS + SKIP, [], 0, 0),
    "failed": (PASS + FAIL, [], 1, 1),
    "failed and skipped": (FAIL + SKIP, [], 1, 1),
    "all skipped": (SKIP + SKIP_INSIDE, [], 0, 4),
    "a skip with a broken tear-down": (TEARDOWN, [], 1, 1),
    "expected failures only": (XFAIL, [], 0, 0),
    "expected failures, not even run": (XFAIL_SETUP, [], 0, 0),
    "expected failures and skips": (XFAIL + SKIP, [], 0, 0),
    "passed unexpectedly": (XPASS, [], 0, 0),
    "passed unexpectedly, and that is strict": (XPASS, ["-o", "xfail_strict=true"], 1, 1),
    "interrupted": (PASS + "def test_k(): raise KeyboardInterrupt\n", [], 2, 1),
    "an exit that says 0": (PASS + EXIT.format(0), [], 0, 1),
    "an exit that says 4": (SKIP + EXIT.format(4), [], 4, 1),
    "nothing collected": ("", [], 5, 1),
    "nothing left": (PASS, ["-k", "nothing"], 5, 1),
    "nothing but a look": (PASS, ["--collect-only"], 0, 1),
    "a file that cannot be collected": ("1/0", [], 2, 1),
    "a file that is skipped": ("import pytest\npytest.skip('no', allow_module_level=True)", [], 5, 1),
    "a usage error of ours": (PASS, ["--kvm-sea-host=qemu"], 4, 1),
    "a usage error of ours in collecting": (MISUSED, ["--kvm-sea-platform=ampereone"], 4, 1),
    "a usage error of pytest": (PASS, ["absent.py"], 4, 1),
    "an internal error": (PASS, ["-p", "breaking"], 3, 1),
    "no session": (PASS, ["--help"], 0, 0),
}


@pytest.fixture
def breaking(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(breaking="def pytest_runtestloop():\n    raise RuntimeError('broken')\n")
    pytester.syspathinsert()


@pytest.mark.parametrize("case", CASES)
def test_codes(pytester: pytest.Pytester, breaking: None, case: str) -> None:
    body, arguments, status, code = CASES[case]
    pytester.makepyfile(test_x=body)
    assert pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True).ret == status
    assert pytester.runpytest_inprocess(*arguments, FLAG, no_reraise_ctrlc=True).ret == code


@pytest.mark.parametrize("case", ["passed", "all skipped", "failed", "a usage error of ours in collecting"])
def test_codes_of_distributed_runs(pytester: pytest.Pytester, case: str) -> None:
    body, arguments, _status, code = CASES[case]
    pytester.makepyfile(test_x=body)
    assert pytester.runpytest_inprocess(*arguments, "-n1", FLAG).ret == code


def test_stopping_at_a_failure_of_a_worker_is_no_expected_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_x=FAIL + PASS)
    assert pytester.runpytest_inprocess("-x", "-n2").ret == pytest.ExitCode.INTERRUPTED
    assert pytester.runpytest_inprocess("-x", "-n2", FLAG).ret == 1


def test_a_usage_error_is_said_as_pytest_says_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASS)
    said = [pytester.runpytest_inprocess("--kvm-sea-host=qemu", *more).stderr.str() for more in ([], [FLAG])]
    assert said[0] == said[1]
    assert said[0].startswith("ERROR: --kvm-sea-host: 'qemu'")


@pytest.mark.parametrize("given", ["ini", "environment"])
def test_given_otherwise(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    pytester.makepyfile(SKIP)
    if given == "ini":
        pytester.makeini("[pytest]\nkvm_sea_exit_codes = kselftest\n")
    else:
        monkeypatch.setenv("KVM_SEA_EXIT_CODES", "kselftest")
    assert pytester.runpytest_inprocess().ret == 4
    assert pytester.runpytest_inprocess("--kvm-sea-exit-codes=pytest").ret == 0


@pytest.mark.parametrize(("first", "code"), [(SKIP, 4), (PASS, 0), (FAIL, 1)], ids=["skipped", "passed", "failed"])
def test_the_earlier_half_of_a_resumed_run_counts(pytester: pytest.Pytester, first: str, code: int) -> None:
    pytester.makepyfile(test_x=first)
    arguments = ("--kvm-sea-json=log", "--kvm-sea-resume", FLAG)
    assert pytester.runpytest_inprocess(*arguments).ret == code
    path = pytester.path / "log"
    *lines, _end = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines))
    pytester.makepyfile(test_y=SKIP)
    assert pytester.runpytest_inprocess(*arguments).ret == code
    assert pytester.runpytest_inprocess(*arguments).ret == code
