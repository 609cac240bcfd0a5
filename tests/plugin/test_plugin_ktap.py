# SPDX-License-Identifier: GPL-2.0-only
"""--kvm-sea-ktap: the same file with and without xdist, standard output, names, and files that cannot be written."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvm_sea.reports.record import Outcome
from tests.reports.ktap_reader import Reader

MIXED = """
import os, pytest, sys

@pytest.fixture
def no_set_up():
    raise OSError("no set-up")

@pytest.fixture
def no_tear_down():
    yield
    raise OSError("no tear-down")

def test_pass(): print("not to be seen")

class TestIt:
    @pytest.mark.parametrize("value", [1, "a#b", "c d"])
    def test_fail(self, value):
        print("from the test", value)
        print("ok 1 from stderr", file=sys.stderr)
        assert value == object()

def test_set_up(no_set_up): pass
def test_tear_down(no_tear_down): pass
def test_both(no_tear_down): assert 0

@pytest.mark.skip(reason="[root] not root; run as root")
def test_skip(): pass

@pytest.mark.xfail(reason="[known] that")
def test_xfail(): assert 0

@pytest.mark.xfail(reason="[known] that", strict=False)
def test_xpass(): pass
"""
SUBTESTS = """
def test_subtests(subtests):
    for value in (1, "a"):
        with subtests.test("of", value=value):
            assert value == 1
"""
SIMPLE = "def test_good(): print('from a good test')\ndef test_bad(): print('from a bad test'); assert 0"
HAS_SUBTESTS = importlib.util.find_spec("_pytest.subtests") is not None
"""From pytest 9.0 on."""


@pytest.fixture(autouse=True)
def no_cache(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KSFT_TAP_LEVEL", raising=False)
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")


def ktap(pytester: pytest.Pytester, *arguments: str) -> str:
    pytester.runpytest_inprocess("--kvm-sea-ktap=out.ktap", *arguments)
    return (pytester.path / "out.ktap").read_text()


def test_mixed_and_the_same_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=MIXED + SUBTESTS * HAS_SUBTESTS, test_b=SIMPLE)
    text = ktap(pytester)
    first, second = Reader(text).top
    assert [(test.name, test.outcome, test.why) for test in first.children[:10]] == [
        ("test_pass", Outcome.PASS, ""),
        ("TestIt::test_fail[1]", Outcome.FAIL, ""),
        ("TestIt::test_fail[a\\x23b]", Outcome.FAIL, ""),
        ("TestIt::test_fail[c d]", Outcome.FAIL, ""),
        ("test_set_up", Outcome.ERROR, "set-up"),
        ("test_tear_down", Outcome.ERROR, "tear-down"),
        ("test_both", Outcome.FAIL, ""),
        ("test_skip", Outcome.SKIP, "[root] not root; run as root"),
        ("test_xfail", Outcome.XFAIL, "[known] that"),
        ("test_xpass", Outcome.XPASS, "[known] that"),
    ]
    if HAS_SUBTESTS:
        assert [(sub.name, sub.outcome) for sub in first.children[10].children] == [
            ("of value=1", Outcome.PASS),
            ("of value=a", Outcome.FAIL),
        ]
    assert [test.outcome for test in second.children] == [Outcome.PASS, Outcome.FAIL]
    told = "\n".join(first.children[1].diagnostics)
    assert "# Captured stdout call:\n# | from the test 1\n# Captured stderr call:\n# | ok 1 from stderr" in told
    assert "# failed in call: assert 1 == <object object at 0x>\n# | self = " in told
    assert "not to be seen" not in text
    assert ktap(pytester, "-n", "2") == text


GUEST = """
from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.guest.program import GuestProgram

def guest_code(g):
    g.assert_eq(g.read_u64(0x8000_0040), 2)
    g.done()

def test_guest(kvm_sea_vm, kvm_sea_einj):
    vm = kvm_sea_vm(GuestProgram.build(guest_code))
    vm.add_memory(GuestPA(0x8000_0000), 0x20_0000)
    vm.map(GuestVA(0x8000_0000), GuestPA(0x8000_0000), pages=512)
    vm.write_u64(GuestVA(0x8000_0040), 1)
    kvm_sea_einj.inject_at(vm.gva_to_hva(GuestVA(0x8000_0080)))
    vm.vcpus[0].expect_done()
"""


def test_the_story_of_a_failure_is_the_same_under_xdist(pytester: pytest.Pytester) -> None:
    """Without its times, and without where this process had its memory."""
    pytester.makepyfile(GUEST)
    text = ktap(pytester, "--kvm-sea-platform=ampereone")
    assert "kvm-sea: what happened" in text
    assert "host VA 0x >" in text
    assert ktap(pytester, "--kvm-sea-platform=ampereone", "-n", "2") == text


@pytest.mark.parametrize(("arguments", "header"), [((), True), (("--kvm-sea-ktap-mode=tap13",), False)])
def test_inside_of_a_kselftest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], *, header: bool
) -> None:
    pytester.makepyfile(SIMPLE)
    before = ktap(pytester, *arguments)
    monkeypatch.setenv("KSFT_TAP_LEVEL", "1")
    assert ktap(pytester, *arguments) == (before.partition("\n")[2] if header else before)


@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=" ".join)
def test_after_x(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_x(n): assert n != 1")
    (file,) = Reader(ktap(pytester, "-x", *arguments)).top
    assert {(test.outcome, test.why) for test in file.children[4:]} == {
        (Outcome.SKIP, "[not-run] stopping after 1 failures")
    }


@pytest.mark.parametrize("broken", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_broken_off(pytester: pytest.Pytester, broken: str) -> None:
    pytester.makepyfile(f"import pytest\ndef test_a(): pass\ndef test_b(): {broken}\ndef test_c(): pass")
    pytester.runpytest_inprocess("--kvm-sea-ktap=out.ktap", no_reraise_ctrlc=True)
    (file,) = Reader((pytester.path / "out.ktap").read_text()).top
    assert [(test.outcome, test.why.partition(":")[0]) for test in file.children] == [
        (Outcome.PASS, ""),
        (Outcome.ERROR, "unfinished"),
        (Outcome.ERROR, "not run"),
    ]


def test_collection_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="import nothing_of_this_name", test_b=SIMPLE)
    first, second = Reader(ktap(pytester)).top
    assert (first.name, first.outcome) == ("test_a.py", Outcome.ERROR)
    assert "# collection failed: ModuleNotFoundError: No module named 'nothing_of_this_name'" in first.diagnostics
    assert (second.name, second.outcome) == ("test_b.py", Outcome.FAIL)


@pytest.mark.parametrize(("argument", "skipped"), [("-k=nothing", True), ("no_such_file", False)])
def test_without_tests(pytester: pytest.Pytester, argument: str, *, skipped: bool) -> None:
    pytester.makepyfile(SIMPLE)
    reader = Reader(ktap(pytester, argument))
    assert bool(reader.skipped) == skipped
    assert [run.outcome for run in reader.top] == [Outcome.ERROR] * (not skipped)


def test_only_collected(pytester: pytest.Pytester) -> None:
    """No run, and nothing that a file should say of one."""
    pytester.makepyfile(SIMPLE)
    pytester.runpytest_inprocess("--collect-only", "--kvm-sea-ktap=out.ktap")
    assert not (pytester.path / "out.ktap").exists()


def test_each_host(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SIMPLE)
    hosts = Reader(ktap(pytester, "--dist=each", "--tx=2*popen")).top
    assert [host.name for host in hosts] == ["gw0", "gw1"]
    assert [test.name for host in hosts for file in host.children for test in file.children] == [
        "test_good",
        "test_bad",
    ] * 2


# Names


def test_names_do_not_depend_on_where_pytest_starts(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = pytester.mkdir("lib") / "site-packages"
    for directory in (packages / "a_package" / "inner", pytester.path / "elsewhere"):
        directory.mkdir(parents=True)
    for package in ("a_package", "a_package/inner"):
        (packages / package / "__init__.py").touch()
    (packages / "a_package/inner/test_it.py").write_text(SIMPLE)
    monkeypatch.syspath_prepend(packages)
    inner, away = packages / "a_package/inner", pytester.path / "elsewhere"
    starts = [
        (pytester.path, ("--pyargs", "a_package.inner")),
        (away, (f"--rootdir={away}", "--pyargs", "a_package.inner.test_it::test_good")),
        (away, (f"--rootdir={away}", str(inner))),
        (inner, (f"--rootdir={inner}",)),
        (packages, (f"--rootdir={packages}", "a_package")),
    ]
    names = set()
    for number, (directory, arguments) in enumerate(starts):
        monkeypatch.chdir(directory)
        pytester.runpytest_inprocess(f"--kvm-sea-ktap={pytester.path}/{number}", *arguments)
        names |= {file.name for file in Reader((pytester.path / str(number)).read_text()).top}
    assert names == {"a_package/inner/test_it.py"}


def test_names_in_a_project_are_those_of_pytest(pytester: pytest.Pytester) -> None:
    (pytester.mkpydir("sub") / "test_it.py").write_text(SIMPLE)
    pytester.mkdir("plain").joinpath("test_other.py").write_text(SIMPLE)
    assert [file.name for file in Reader(ktap(pytester)).top] == ["plain/test_other.py", "sub/test_it.py"]


# Standard output


@pytest.mark.parametrize("arguments", [("-q", "-s"), ("-p", "no:terminal"), ("-n", "1", "-v")], ids=" ".join)
def test_standard_output(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(SIMPLE, conftest="import os\nos.write(1, b'from a conftest')")
    result = pytester.runpytest_subprocess("--kvm-sea-ktap=-", *arguments)
    assert result.ret == 1
    (file,) = Reader(result.stdout.str() + "\n").top
    assert [test.outcome for test in file.children] == [Outcome.PASS, Outcome.FAIL]
    if "no:terminal" not in arguments:
        result.stderr.fnmatch_lines(["*1 failed, 1 passed in *"])
    assert ("from a good test" in result.stderr.str()) == ("-s" in arguments)


def test_standard_output_of_another_program(pytester: pytest.Pytester) -> None:
    """pytest.main() where stdout is no file; it is given back."""
    pytester.makepyfile(SIMPLE)
    before = sys.stdout
    result = pytester.runpytest_inprocess("--kvm-sea-ktap=-", "--kvm-sea-ktap-mode=flat")
    assert sys.stdout is before
    assert [test.name for test in Reader(result.stdout.str() + "\n").top][1].endswith("test_bad")
    result.stderr.fnmatch_lines(["*1 failed, 1 passed in *"])


def test_standard_output_is_given_back(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    program = "import pytest; pytest.main(['-q', '--kvm-sea-ktap=-']); print('after', flush=True)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    before, _, after = done.stdout.rpartition("after\n")
    assert not after
    assert Reader(before).counts() == {Outcome.PASS: 1}
    assert "1 passed in" in done.stderr


def test_standard_output_chosen_in_the_environment_or_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SIMPLE)
    for arguments in (("-o", "kvm_sea_ktap=-"), ()):
        if not arguments:
            monkeypatch.setenv("KVM_SEA_KTAP", "-")
        result = pytester.runpytest_inprocess(*arguments)
        assert result.stdout.lines[0] == "KTAP version 1"
    # The command line wins, and stdout stays pytest's.
    assert pytester.runpytest_inprocess("--kvm-sea-ktap=a-file").stdout.lines[0].startswith("=====")


def test_standard_output_that_could_not_be_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SIMPLE)
    pytester.makeconftest(
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_configure(config): config.option.kvm_sea_ktap = '-'"
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kvm-sea-ktap=-: the plugin was loaded too late*"])


@pytest.mark.parametrize("arguments", [("-q",), ("-p", "no:terminal")], ids=" ".join)
def test_a_pipe_that_is_closed(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_it(): pass")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pytest", "--kvm-sea-ktap=-", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr.count("--kvm-sea-ktap=-: Broken pipe; what was written ends before the first test\n") == 1
    assert "Traceback" not in done.stderr
    assert ("1 passed in" in done.stderr) == ("no:terminal" not in arguments)


# Files that cannot be written


def test_a_file_that_cannot_be_made(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SIMPLE)
    result = pytester.runpytest_inprocess("--kvm-sea-ktap=nowhere/out.ktap")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kvm-sea-ktap: *nowhere/out.ktap: cannot be written: No such file*"])
    result.stdout.no_fnmatch_line("*passed*")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not here")
def test_a_disk_that_is_full(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess("--kvm-sea-ktap=/dev/full")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["kvm-sea: --kvm-sea-ktap=/dev/full: No space left on device; *", "*1 passed in*"])
