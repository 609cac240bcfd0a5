# SPDX-License-Identifier: GPL-2.0-only
"""What a test ran on, as properties of its reports and of the whole JUnit file.

Light: in place where a run writes JUnit XML, whatever its tests are. Probing takes time, and happens when a test of
ours runs, once for each target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvm_sea.command_line import TARGET, given

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.targets import Target

NAMES = ("kvm_sea_host", "kvm_sea_node", "kvm_sea_platform", "kvm_sea_revision", "kvm_sea_kernel")
LISTS = ("kvm_sea_capabilities", "kvm_sea_firmware_tables")
SEPARATOR = ", "
ACPI_TABLES = "/sys/firmware/acpi/tables"
_WANTED = "kvm_sea_properties"
"""What the controller tells its workers."""
_TABLE = re.compile(r"[A-Z0-9_]{4}[0-9]*")
"""A signature of four characters, and a number where there are several; the directories there are in lower case."""


def configure(config: pytest.Config) -> None:
    """Register what this process has to do, if anything."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        wanted = worker.get(_WANTED, False)
    else:
        junit = config.getoption("xmlpath", None) is not None
        wanted = junit or _in_a_report(config)
        if wanted:
            config.pluginmanager.register(Controller(junit=junit), "kvm-sea-properties-of-the-run")
    if wanted:
        config.pluginmanager.register(Tests(), "kvm-sea-properties-of-tests")


def _in_a_report(config: pytest.Config) -> bool:
    if not given(config):
        return False
    from pytest_kvm_sea.options import settings

    return settings(config).kcidb is not None


class Tests:
    """In the process that runs the tests: says of each what it runs on."""

    __test__ = False

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[str, str]]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        # Before the first report of the test, and not while collecting: what is not run is not probed.
        callspec = getattr(item, "callspec", None)
        target: Target | None = callspec.params.get(TARGET) if callspec is not None else None
        if target is None:
            return
        if target.id not in self._known:
            self._known[target.id] = list(describe(item.config, target).items())
        # A test that is run again has them already.
        item.user_properties += [found for found in self._known[target.id] if found not in item.user_properties]


class Controller:
    """In the process that writes the files: has the workers look, and tells of the whole run what its tests told."""

    def __init__(self, *, junit: bool) -> None:
        self._junit = junit
        self._found: dict[str, list[str]] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_WANTED] = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._junit and report.when == "setup":
            properties = dict(report.user_properties)
            for name in (*NAMES, *LISTS) if "kvm_sea_host" in properties else ():
                values = self._found.setdefault(name, [])
                value = str(properties.get(name, ""))
                if value not in values:
                    values.append(value)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Now, because before the tests it is not known what they run on: workers may be on other machines. The fixture
        # record_testsuite_property would be lost in a worker.
        if not self._found:
            return
        for add in _junit_files(session.config):
            for name, value in whole(self._found).items():
                add(name, value)


def whole(found: Mapping[str, list[str]]) -> dict[str, str]:
    """The properties of a run, of all values of each. Lists are left out where targets differ: the tests have them."""
    from importlib.metadata import version

    common = {name: SEPARATOR.join(sorted(filter(None, values))) for name, values in found.items() if name in NAMES}
    common |= {name: values[0] for name, values in found.items() if name in LISTS and len(values) == 1}
    return {"kvm_sea_version": version("pytest-kvm-sea")} | {name: value for name, value in common.items() if value}


def _junit_files(config: pytest.Config) -> list[Callable[[str, object], None]]:
    """The method by which `record_testsuite_property` adds to the file; there is no public way to it."""
    plugins = config.pluginmanager.get_plugins()
    return [plugin.add_global_property for plugin in plugins if hasattr(type(plugin), "add_global_property")]


def describe(config: pytest.Config, target: Target) -> dict[str, str]:
    """What is to be said of a target beyond its name; nothing for what cannot be found out."""
    from pytest_kvm_sea.injection import taking_turns
    from pytest_kvm_sea.providers import probe_host

    host = probe_host(config, target)
    with taking_turns(config, host, "the properties of a report"):
        properties = {
            "kvm_sea_node": "" if host.name == "sim" else host.node,
            "kvm_sea_kernel": host.release,
            "kvm_sea_capabilities": SEPARATOR.join(capabilities(host)),
            "kvm_sea_firmware_tables": SEPARATOR.join(firmware_tables(host)),
        }
    return {name: value for name, value in properties.items() if value}


def capabilities(host: Host) -> list[str]:
    """The names in REQUIREMENTS of all that the host has."""
    from pytest_kvm_sea.ras.errors import EinjError
    from pytest_kvm_sea.requirements import REQUIREMENTS, missing

    found = []
    for name in REQUIREMENTS:
        try:
            has = not missing(host, [name])
        except (OSError, EinjError):
            has = False  # a test that needs it fails with the reason; a report must not end the run
        if has:
            found.append(name)
    return found


def firmware_tables(host: Host) -> list[str]:
    """The ACPI tables that the kernel shows: EINJ, HEST and so on. Empty without ACPI."""
    try:
        return sorted(name for name in host.listdir(ACPI_TABLES) if _TABLE.fullmatch(name))
    except OSError:
        return []
