# SPDX-License-Identifier: GPL-2.0-only
"""What JUnit XML says of the hosts, with workers and without."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pytest_kvm_sea import providers
from pytest_kvm_sea.hosts.contract import Host
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.properties import capabilities, firmware_tables, whole
from pytest_kvm_sea.requirements import REQUIREMENTS
from pytest_kvm_sea.sim.host import SimHost

JUNIT = ("--junitxml=junit.xml", "-p", "no:cacheprovider")
ONE, TWO = ("--kvm-sea-platform=ampereone",), ("--kvm-sea-platform=ampereone", "--kvm-sea-platform=no-einj-table")
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
TESTS = """
import pytest

def test_runs(kvm_sea_host): ...

def test_skips(kvm_sea_target):
    pytest.skip("[x] y; z")

@pytest.mark.skip(reason="never")
def test_never(kvm_sea_target): ...

@pytest.fixture
def broken(kvm_sea_target):
    raise RuntimeError

def test_breaks(broken): ...
"""


def properties(element: ET.Element | None) -> dict[str, str]:
    assert element is not None
    found = [(one.attrib["name"], one.attrib["value"]) for one in element.findall("properties/property")]
    assert len(dict(found)) == len(found), "a property twice"
    return dict(found)


def junit(pytester: pytest.Pytester) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The properties of the suite, and of each test."""
    suite = ET.parse(pytester.path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    return properties(suite), {case.attrib["name"]: properties(case) for case in suite.findall("testcase")}


@WORKERS
def test_every_test_says_what_it_ran_on(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess(*JUNIT, *TWO, *workers)
    suite, tests = junit(pytester)
    assert len(tests) == 8
    for name, found in tests.items():
        platform = "no-einj-table" if "no-einj-table" in name else "ampereone"
        names = found.pop("kvm_sea_capabilities").split(", ")
        assert set(names) <= set(REQUIREMENTS)
        assert {"kvm", "sea-to-user"} <= set(names)
        assert ("einj-module" in names) == (platform == "ampereone")
        assert found.pop("kvm_sea_firmware_tables", "none") == ("EINJ" if platform == "ampereone" else "none")
        assert found == {
            "kvm_sea_host": "sim",
            "kvm_sea_platform": platform,
            "kvm_sea_revision": "mainline",
            "kvm_sea_kernel": load_platform(platform).kernel.release,
        }
    assert suite.pop("kvm_sea_version")
    assert suite == {
        "kvm_sea_host": "sim",
        "kvm_sea_platform": "ampereone, no-einj-table",
        "kvm_sea_revision": "mainline",
        "kvm_sea_kernel": load_platform("ampereone").kernel.release,
    }


@WORKERS
def test_a_run_on_one_host_says_all_of_it_once_more(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess(*JUNIT, *ONE, *workers)
    suite, tests = junit(pytester)
    del suite["kvm_sea_version"]
    assert list(tests.values()) == [suite] * 4
    assert set(suite) == {f"kvm_sea_{name}" for name in ["host", "platform", "revision", "kernel", "capabilities"]} | {
        "kvm_sea_firmware_tables"
    }


@WORKERS
def test_a_run_without_tests_of_ours_is_left_alone(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_x(request):\n    request.node.user_properties.append(('own', 1))")
    pytester.runpytest_inprocess(*JUNIT, *workers).assert_outcomes(passed=1)
    suite, tests = junit(pytester)
    assert suite == {}
    assert tests == {"test_x": {"own": "1"}}


def test_properties_of_the_suite_that_others_set_stay(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_x(kvm_sea_target, record_testsuite_property):\n    record_testsuite_property('a', 'b')"
    )
    pytester.runpytest_inprocess(*JUNIT, *ONE).assert_outcomes(passed=1)
    suite, _ = junit(pytester)
    assert suite["a"] == "b"
    assert suite["kvm_sea_platform"] == "ampereone"


@pytest.mark.parametrize("arguments", [(), ("--junitxml=junit.xml", "--collect-only")], ids=" ".join)
def test_nothing_is_probed_for_nobody(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(providers, "make_host", lambda _target: pytest.fail("a host was made"))
    pytester.makepyfile("def test_x(kvm_sea_target, request):\n    assert len(request.node.user_properties) == 3")
    result = pytester.runpytest_inprocess(*ONE, *arguments, "-p", "no:cacheprovider")
    assert result.ret == 0


def test_each_target_is_probed_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = providers.make_host

    def note(target: object) -> Host:
        made.append(str(target))
        return make(target)  # type: ignore[arg-type] # as it comes

    monkeypatch.setattr(providers, "make_host", note)
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_x(kvm_sea_target, n): ...\n")
    pytester.runpytest_inprocess(*JUNIT, *TWO).assert_outcomes(passed=10)
    assert len(made) == 2


@pytest.fixture
def host() -> Iterator[Callable[[], SimHost]]:
    with ExitStack() as made:

        def make() -> SimHost:
            host = SimHost(load_platform("ampereone"))
            made.callback(host.close)
            return host

        yield make


def test_a_probe_that_fails_is_a_capability_less(host: Callable[[], SimHost], monkeypatch: pytest.MonkeyPatch) -> None:
    have = capabilities(host())
    assert "kvm" in have
    one = host()
    opened = one.open

    def refuse(path: str, flags: int, /) -> object:
        if path.endswith("available_error_type"):
            raise OSError(5, "Input/output error")
        return opened(path, flags)

    monkeypatch.setattr(one, "open", refuse)
    assert capabilities(one) == [name for name in have if name != "einj-memory-uer"]


def test_tables_are_told_from_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        def __init__(self) -> None:
            self.found: list[str] | None = ["HEST", "data", "EINJ", "SSDT12", "dynamic", "GH_S", "\N{SNOWMAN}"]

        def listdir(self, path: str) -> list[str]:
            assert path == "/sys/firmware/acpi/tables"
            if self.found is None:
                raise FileNotFoundError
            return self.found

    machine = Machine()
    assert firmware_tables(machine) == ["EINJ", "GH_S", "HEST", "SSDT12"]  # type: ignore[arg-type] # as far as it goes
    machine.found = None
    assert firmware_tables(machine) == []  # type: ignore[arg-type] # as above


def test_lists_that_differ_are_the_tests_own() -> None:
    found = whole({"kvm_sea_kernel": ["2", "", "1"], "kvm_sea_capabilities": ["a, b", "a"], "kvm_sea_node": [""]})
    del found["kvm_sea_version"]
    assert found == {"kvm_sea_kernel": "1, 2"}


# Whatever the guest printed

PRINTS = """
from pytest_kvm_sea.guest.program import GuestProgram

ALL = bytes(range(1, 256)).replace(b"%", b"").decode("latin-1")

def guest_code(g):
    g.printf("\\x01\\x08\\x0b\\x1b[31m ]]> <a> &b; \\x7f\\n")
    g.done()

def test_x(kvm_sea_vm, kvm_sea_ucalls, request):
    (vcpu,) = kvm_sea_vm(GuestProgram.build(guest_code)).vcpus
    text = "".join(ucall.text for ucall in kvm_sea_ucalls(vcpu))
    assert text.startswith("\\x01\\x08")
    print(text, "\\0\\ufffe" + ALL)
    request.node.user_properties.append(("guest", text))
    print("x" * (1 << 20))
    raise AssertionError(text + ALL + "\\0\\uffff" + "x" * (1 << 20))
"""


@WORKERS
def test_the_file_is_xml_whatever_the_guest_prints(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(PRINTS)
    result = pytester.runpytest_inprocess(*JUNIT, *ONE, "-o", "junit_logging=all", "--tb=line", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    suite, tests = junit(pytester)
    assert tests.popitem()[1]["kvm_sea_platform"] == suite["kvm_sea_platform"] == "ampereone"
    case = ET.parse(pytester.path / "junit.xml").getroot().find("testsuite/testcase")
    assert case is not None
    for name in ("failure", "system-out"):
        text = case.findtext(name) or ""
        assert len(text) > 1 << 20
        assert "]]> <a> &b;" in text
