# SPDX-License-Identifier: GPL-2.0-only
"""The gate with workers of xdist: what they convert, what is counted over all of them, each with a file of its own."""

from __future__ import annotations

import pytest

PLATFORM = "--kvm-sea-platform=ampereone"
TESTS = """
    import os
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_passes(n): ...
    def test_later(): pytest.skip("later")
    def test_broken(): assert 1 == 2, "broken"
    def test_crash():
        if "CRASH" in os.environ: os._exit(3)
"""
EXPECTED = """\
version: 1
promises: [kvm, einj-table]
skips: [{{id: "*", tests: "test_it.py::test_later", reason: r}}]
known: [{{tests: "test_it.py::test_broken", reason: r, link: "https://example.org"}}]
at_least: {}
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_it=TESTS)
    pytester.makefile(".yaml", e=EXPECTED.format(6), many=EXPECTED.format(7), none="version: 1", bad="version: 2")
    pytester.makefile(".yaml", absent=EXPECTED.format(6).replace("test_broken", "test_borken"))
    return pytester


def workers(run: pytest.Pytester, *options: str) -> pytest.RunResult:
    return run.runpytest_inprocess("-p", "no:cacheprovider", *options)


def each(run: pytest.Pytester, *files: str) -> pytest.RunResult:
    variables = ("//env:KVM_SEA_PLATFORM=ampereone", "//env:KVM_SEA_PLATFORM=no-einj-table")
    gateways = [
        f"--tx=popen{variable}//env:KVM_SEA_EXPECT={run.path / file}" if file else f"--tx=popen{variable}"
        for variable, file in zip(variables, files, strict=True)
    ]
    return workers(run, "--dist=each", *gateways)


def test_all_workers_together(run: pytest.Pytester) -> None:
    result = workers(run, "-n2", PLATFORM, "--kvm-sea-expect=many.yaml", "-rA", "--deselect=test_it.py::test_crash")
    result.assert_outcomes(passed=6, skipped=1, xfailed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "many.yaml: 2 promises tested, 5 tests ran (at least 7), 1 skip allowed, 1 known failure",
            "FAILED: many.yaml:5: at_least: 7 tests were to run, and 5 did",
            "PASSED many.yaml::sim-ampereone-mainline-einj-table",
        ]
    )
    assert workers(run, "-n2", PLATFORM, "--kvm-sea-expect=e.yaml").ret == 0


def test_what_a_worker_converts_is_a_failure(run: pytest.Pytester) -> None:
    result = workers(run, "-n2", PLATFORM, "--kvm-sea-expect=none.yaml", "-k", "later")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["skip that none.yaml does not allow: later", "FAILED: nothing ran: *"])


def test_a_mistake_that_a_worker_finds_is_a_usage_error(run: pytest.Pytester) -> None:
    result = workers(run, "-n2", PLATFORM, "--kvm-sea-expect=absent.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "absent.yaml:4: tests: 'test_it.py::test_borken' matches no test of this run; nearest: test_it.py::test_b"
        in (result.stderr.str())
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_a_worker_that_goes_down_takes_the_green_with_it(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH", "1")
    result = workers(run, "-n1", PLATFORM, "--kvm-sea-expect=e.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED: the worker gw0 went down, and what it had seen with it"])


def test_each_machine_has_its_own_file(run: pytest.Pytester) -> None:
    result = each(run, "many.yaml", "e.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*promised by *e.yaml:2 but absent: [[]einj-table]*",
            "gw0: *many.yaml: 2 promises tested, 6 tests ran (at least 7), 1 skip allowed, 1 known failure",
            "gw1: *e.yaml: 2 promises tested, 6 tests ran (at least 6), 1 skip allowed, 1 known failure",
            "FAILED: gw0: *many.yaml:5: at_least: 7 tests were to run, and 6 did",
        ]
    )
    assert "FAILED: gw1" not in result.stdout.str()


def test_one_machine_without_a_file(run: pytest.Pytester) -> None:
    result = each(run, "e.yaml", "")
    result.stdout.fnmatch_lines(["note: gw1 has no file of expectations, so nothing that it ran was judged by one"])
    assert result.ret == 1  # what is known in one file is a failure without


def test_one_machine_with_a_bad_file(run: pytest.Pytester) -> None:
    result = each(run, "e.yaml", "bad.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "bad.yaml:1:10: version: 2 is not known; valid values: 1" in result.stderr.str()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("KVM_SEA_PLATFORM=nonsense", "environment variable KVM_SEA_PLATFORM: 'nonsense': unknown platform; "),
        ("KVM_SEA_EXPECT=absent/e.yaml", "absent/e.yaml: cannot be read: No such file or directory"),
    ],
)
def test_one_machine_with_a_bad_option(run: pytest.Pytester, variable: str, message: str) -> None:
    # xdist takes the error for a crash, and would start workers that crash for ever.
    result = workers(run, "--dist=each", f"--tx=popen//env:{variable}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_first_file_from_two_workers(run: pytest.Pytester) -> None:
    options = ("-n2", PLATFORM, "--deselect=test_it.py::test_broken", "--deselect=test_it.py::test_crash")
    run.makepyfile(test_ours="def test_ours(kvm_sea_vm): ...")
    assert workers(run, *options, "--kvm-sea-expect-write=new.yaml").ret == 0
    again = workers(run, *options, "--kvm-sea-expect=new.yaml")
    assert again.ret == 0
    again.stdout.fnmatch_lines(["new.yaml: 2? promises tested, 5 tests ran (at least 5), 1 skip allowed*"])


def test_a_first_file_is_of_one_machine(run: pytest.Pytester) -> None:
    result = workers(run, "--dist=each", "--tx=2*popen", "--kvm-sea-expect-write=new.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "with --dist each every machine has promises of its own" in result.stderr.str()
    result = workers(run, "--dist=each", f"--tx=popen//env:KVM_SEA_EXPECT_WRITE={run.path / 'new.yaml'}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "gw0 has it and this process has not; give it on the command line" in result.stderr.str()
