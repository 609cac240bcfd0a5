# SPDX-License-Identifier: GPL-2.0-only
"""A report that cannot be written is a usage error before the first test, or one line at the end and no success."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pytest_kvm_sea.reports.jsonl_reader import read

TESTS = "def test_a(): pass\ndef test_b(): pass\n"
BEFORE = {
    "no such directory": ("absent/log", "absent/log: cannot be written: No such file or directory"),
    "below a file": ("file/log", "file/log: cannot be written: Not a directory"),
    "a directory": (".", "'.': not a file"),
    "a file system that takes no files": ("/proc/log", "/proc/log: cannot be written: "),
}


def problems(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("kvm-sea: --kvm-sea-json=")]


@pytest.mark.parametrize("case", BEFORE)
def test_what_is_known_before_the_first_test_is_a_usage_error(pytester: pytest.Pytester, case: str) -> None:
    value, message = BEFORE[case]
    pytester.makepyfile(TESTS)
    (pytester.path / "file").touch()
    result = pytester.runpytest_inprocess(f"--kvm-sea-json={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert "collected" not in result.stdout.str()


def test_a_full_disk(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("--kvm-sea-json=/dev/full")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert problems(result) == [
        "kvm-sea: --kvm-sea-json=/dev/full: No space left on device; what was written ends before the first test"
    ]


def test_a_disk_that_fills_up_leaves_what_was_written(pytester: pytest.Pytester) -> None:
    """The limit of the size of a file is a full disk that needs no disk."""
    pytester.makepyfile(
        test_x="import resource, signal\n"
        "def test_a(): pass\n"
        "def test_b():\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    size = __import__('os').stat('log').st_size + 30\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
    )
    result = pytester.runpytest_subprocess(
        "--kvm-sea-json=log", "--kvm-sea-platform=ampereone", "-p", "no:cacheprovider"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (problem,) = problems(result)
    assert problem.endswith("/log: File too large; what was written ends before test_x.py::test_b")
    run = read(pytester.path / "log")
    assert run is not None
    assert [record.test.name for record in run.records] == ["test_a"]
    assert [test.name for test in run.running] == ["test_b"]


def test_a_pipe_whose_reader_goes_away(pytester: pytest.Pytester) -> None:
    pipe = pytester.path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []

    def read_some() -> None:
        with Path(pipe).open("rb", buffering=0) as file:
            got.append(file.readline())

    # The test waits until the reader is gone, so that the next line finds nobody.
    pytester.makepyfile(
        test_x="import threading\n"
        "def test_a():\n"
        "    for thread in threading.enumerate():\n"
        "        if thread.name == 'reader':\n"
        "            thread.join()\n"
    )
    reader = threading.Thread(target=read_some, name="reader")
    reader.start()
    result = pytester.runpytest_inprocess("--kvm-sea-json=pipe", "--kvm-sea-platform=ampereone")
    reader.join()
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert got[0].startswith(b'{"event":"start"')
    (problem,) = problems(result)
    assert problem.startswith(f"kvm-sea: --kvm-sea-json={pipe}: Broken pipe; what was written ends before ")


def test_a_pipe_that_is_read_to_the_end(pytester: pytest.Pytester) -> None:
    pipe = pytester.path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    pytester.makepyfile(test_x=TESTS)
    assert pytester.runpytest_inprocess("--kvm-sea-json=pipe").ret == pytest.ExitCode.OK
    reader.join()
    (pytester.path / "log").write_bytes(got[0])
    run = read(pytester.path / "log")
    assert run is not None
    assert run.is_over


def test_a_failure_stays_the_failure_that_it_is(pytester: pytest.Pytester) -> None:
    """The exit status says most of what went wrong first."""
    pytester.makepyfile(test_x="def test_k(): raise KeyboardInterrupt\n")
    result = pytester.runpytest_inprocess("--kvm-sea-json=/dev/full", no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(problems(result)) == 1
