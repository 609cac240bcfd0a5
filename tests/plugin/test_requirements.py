# SPDX-License-Identifier: GPL-2.0-only
"""Requirements: what is missing on each platform, root causes only, and what odd hosts answer."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_kvm_sea import requirements
from pytest_kvm_sea.hosts.contract import Backing, Host, Memory
from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.platforms.loader import bundled_names, load_bundled
from pytest_kvm_sea.requirements import REQUIREMENTS, missing, reason, unknown
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.uapi import kvm as uapi
from pytest_kvm_sea.uapi.revisions import REVISIONS

IABT, ESR = "inject-ext-iabt", "abort-esr"

LACKING = {
    "ampereone": [IABT],
    "apei-claims": [IABT],
    "apei-claims-unhandled": [IABT],
    "double-fault2": [IABT, "einj-table"],
    "einj-no-notrigger": [IABT],
    "einj-no-parameters": [IABT, "einj-parameters"],
    "einj-no-poison": [IABT],
    "einj-not-loaded": [IABT, "einj-module"],
    "follow-up": [],
    "einj-v2": [IABT],
    "host-64k": [IABT, "hugetlb-1g"],
    "locked-down": [IABT, "lockdown"],
    "mainline-6.19": [IABT],
    "neoverse-v2": [IABT],
    "nested": [IABT],
    "nested-series-v1": [ESR],
    "no-einj-table": [IABT, "einj-table"],
    "no-ras": ["ras", IABT],
    "no-ras-parity": ["ras", IABT],
    "no-sea-capability": ["sea-to-user", IABT],
    "series-v1": [ESR],
    "series-v1-neoverse-v2": [ESR],
    "series-v1-parity": ["ras", ESR],
    "unprivileged": [IABT, "root"],
    "userfault": [IABT],
}
"""All that a platform lacks: root causes, so no-einj-table does not lack the module as well."""
RARE = {"userfault": "userfault", "virtual-el2": "nested", "double-fault2": "double-fault2"}
"""What only platforms have whose name begins like this; last in the order of requirements."""


@pytest.fixture
def simulate() -> Iterator[Callable[[str], SimHost]]:
    made = []

    def make(name: str) -> SimHost:
        made.append(SimHost(load_bundled(name)))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.mark.parametrize("name", bundled_names())
def test_what_a_platform_lacks(simulate: Callable[[str], SimHost], name: str) -> None:
    expected = [*LACKING[name], *(rare for rare, owner in RARE.items() if not name.startswith(owner))]
    assert [one.name for one in missing(simulate(name), REQUIREMENTS)] == expected


def test_a_kernel_without_notrigger() -> None:
    """Before 3.15; no bundled platform is that old."""
    platform = load_bundled("ampereone")
    einj = replace(platform.firmware.einj, notrigger=False)
    host = SimHost(replace(platform, firmware=replace(platform.firmware, einj=einj)))
    assert [one.name for one in missing(host, REQUIREMENTS)] == [IABT, "einj-notrigger", *RARE]
    host.close()


def test_all_that_is_missing_is_said_at_once(simulate: Callable[[str], SimHost]) -> None:
    found = missing(simulate("no-einj-table"), [IABT, "einj-memory-uer", "einj-notrigger", "einj-table"])
    assert reason(found) == (
        "[inject-ext-iabt] the revision mainline cannot inject an instruction abort by KVM_SET_VCPU_EVENTS; "
        "a kernel with the series, and --kvm-sea-uapi series-v1 | "
        "[einj-table] the firmware has no EINJ table; enable error injection in the firmware's set-up, or another host"
    )


def test_a_test_is_skipped_with_the_reason(simulate: Callable[[str], SimHost]) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"^\[einj-module\] the EINJ module is not loaded; modprobe einj$"):
        requirements.require(simulate("einj-not-loaded"), ["kvm", "einj-parameters"])
    requirements.require(simulate("ampereone"), ["kvm", "einj-parameters"])


def test_unknown_requirements_are_refused(simulate: Callable[[str], SimHost]) -> None:
    with pytest.raises(ValueError, match="unknown requirement 'einj'; nearest valid requirement: einj-"):
        missing(simulate("ampereone"), ["kvm", "einj"])
    assert unknown(list(REQUIREMENTS)) is None


def test_the_table_is_in_order() -> None:
    seen: set[str] = set()
    for name, requirement in REQUIREMENTS.items():
        assert name == requirement.name
        assert set(requirement.needs) <= seen, "a need comes first, so there is no circle"
        seen.add(name)


def test_probes_leave_the_host_as_it_was(simulate: Callable[[str], SimHost]) -> None:
    host = simulate("ampereone")
    missing(host, REQUIREMENTS)
    for _ in range(load_bundled("ampereone").hugepages.free_1g):
        host.map_memory(1 << 30, backing=Backing.HUGETLB_1G)  # ENOMEM, had the probe kept one


class Stubborn:
    """A simulated host, except for the calls that a test replaces. Counts what is opened."""

    def __init__(self, host: SimHost, **replaced: object) -> None:
        self._host = host
        self._replaced = replaced
        self.opened: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._host, name)

    def open(self, path: str, flags: int) -> Any:
        self.opened[path] += 1
        denied = self._replaced.get("denied", {})
        assert isinstance(denied, dict)
        if path in denied:
            if isinstance(denied[path], int):
                raise OSError(denied[path], os.strerror(denied[path]), path)
            return denied[path]
        return self._host.open(path, flags)


class Content:
    """A file with a content."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, size: int = -1) -> bytes:
        return self.content

    def pread(self, size: int, offset: int) -> bytes:
        return self.content

    def close(self) -> None: ...


class OtherKvm(Content):
    """A /dev/kvm that gives one answer to everything that is asked."""

    def __init__(self, answers: dict[int, int], version: int = 12) -> None:
        super().__init__(b"")
        self.answers = answers
        self.version = version

    def ioctl(self, request: int, argument: object = 0) -> int:
        if request == uapi.KVM_GET_API_VERSION:
            return self.version
        if request == uapi.KVM_CHECK_EXTENSION and isinstance(argument, int):
            return self.answers.get(argument, 0)
        if request == uapi.KVM_CREATE_VM:
            return 9
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def only(host: Host, name: str) -> str:
    """The reason for the one thing that is missing."""
    (found,) = missing(host, [name])
    return str(found)


def test_each_probe_runs_once_per_host(simulate: Callable[[str], SimHost]) -> None:
    host: Any = Stubborn(simulate("no-ras"))
    assert missing(host, ["ras", "ras"]) == missing(host, ["serror-esr"])
    opened = Counter(host.opened)
    missing(host, ["ras", "serror-esr"])
    assert host.opened == opened


CASES: dict[str, tuple[str, dict[str, object], str]] = {
    "not arm64": ("sea-to-user", {"machine": "x86_64"}, "[arm64] the machine is x86_64; an arm64 host, or "),
    "no device": (
        "ras",
        {"denied": {"/dev/kvm": errno.ENOENT}},
        "[kvm] there is no /dev/kvm; a kernel with CONFIG_KVM",
    ),
    "no permission": ("kvm", {"denied": {"/dev/kvm": errno.EACCES}}, "[kvm] /dev/kvm may not be opened; "),
    "busy": ("kvm", {"denied": {"/dev/kvm": errno.EBUSY}}, "[kvm] /dev/kvm cannot be used: EBUSY, Device or resource"),
    "old API": ("kvm", {"denied": {"/dev/kvm": OtherKvm({}, 11)}}, "[kvm] KVM speaks version 11 of its API; "),
    "no capability": (
        "nisv-to-user",
        {"denied": {"/dev/kvm": OtherKvm({})}},
        "[nisv-to-user] KVM has no KVM_CAP_ARM_NISV_TO_USER (177); a newer kernel",
    ),
    "the number of another revision": (
        "sea-to-user",
        {
            "denied": {"/dev/kvm": OtherKvm({240: 1, 241: 1})},
            "revision": REVISIONS["series-v1"],
            "adopt": lambda descriptor: OtherKvm({}),
        },
        "[sea-to-user] the kernel cannot enable capability 240 (EINVAL, Invalid argument), which is not its "
        "KVM_CAP_ARM_SEA_TO_USER; the kernel does not speak the revision series-v1: choose another with --kvm-sea-uapi",
    ),
    "iabt of another revision": (
        IABT,
        {
            "denied": {"/dev/kvm": OtherKvm({240: 1, 241: 1})},
            "revision": REVISIONS["series-v1"],
            "adopt": lambda descriptor: OtherKvm({}),
        },
        "[inject-ext-iabt] the kernel cannot enable capability 240",
    ),
    "no pagemap": (
        "pagemap-pfn",
        {"denied": {"/proc/self/pagemap": errno.ENOENT}},
        "[pagemap-pfn] /proc/self/pagemap cannot be read: ENOENT, No such file or directory; a kernel with",
    ),
    "short pagemap": (
        "pagemap-pfn",
        {"denied": {"/proc/self/pagemap": Content(b"1234")}},
        "[pagemap-pfn] /proc/self/pagemap cannot be read: EIO, short read; ",
    ),
    "debugfs not mounted": (
        "einj-parameters",
        {"denied": {"/proc/self/mounts": Content(b"sysfs /sys sysfs rw 0 0\n")}},
        "[debugfs] nothing is mounted at /sys/kernel/debug; mount -t debugfs none /sys/kernel/debug",
    ),
    "no uncorrectable error": (
        "einj-memory-uer",
        {
            "denied": {
                "/sys/kernel/debug/apei/einj/available_error_type": Content(
                    b"0x00000008\tMemory Correctable\n0x00000020\tMemory Uncorrectable fatal\nV2_0x00000010\tx\n"
                )
            }
        },
        "[einj-memory-uer] EINJ offers no uncorrectable non-fatal memory error (0x10): 0x00000008, 0x00000020; ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_hosts(simulate: Callable[[str], SimHost], case: str) -> None:
    name, replaced, expected = CASES[case]
    host: Any = Stubborn(simulate("series-v1"), **replaced)
    assert only(host, name).startswith(expected)


def test_debugfs_is_mounted(simulate: Callable[[str], SimHost]) -> None:
    mounts = Content(b"debugfs /sys/kernel/debug debugfs rw,nosuid 0 0\n")
    host: Any = Stubborn(simulate("ampereone"), denied={"/proc/self/mounts": mounts})
    assert missing(host, ["debugfs", "einj-module"]) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOMEM, "no hugetlb page of 1 GiB is free; echo 1 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_"),
        (errno.EINVAL, "this kernel has no hugetlb pages of 1 GiB (EINVAL, Invalid argument; its pages are 4 KiB); a "),
    ],
)
def test_huge_pages(simulate: Callable[[str], SimHost], code: int, expected: str) -> None:
    def map_memory(size: int, *, backing: Backing) -> Memory:
        assert (size, backing) == (1 << 30, Backing.HUGETLB_1G)
        raise OSError(code, os.strerror(code))

    host: Any = Stubborn(simulate("ampereone"), map_memory=map_memory)
    assert only(host, "hugetlb-1g").startswith(f"[hugetlb-1g] {expected}")


def test_a_small_ipa_space_is_asked_for_by_its_size(simulate: Callable[[str], SimHost]) -> None:
    created = []

    class SmallKvm(OtherKvm):
        def ioctl(self, request: int, argument: object = 0) -> int:
            if request == uapi.KVM_CREATE_VM:
                created.append(argument)
            return super().ioctl(request, argument)

    kvm = SmallKvm({uapi.KVM_CAP_ARM_VM_IPA_SIZE: 36, 245: 1})
    host: Any = Stubborn(simulate("ampereone"), denied={"/dev/kvm": kvm}, adopt=lambda descriptor: OtherKvm({}))
    only(host, "sea-to-user")
    assert created == [36]


def test_missing_reads_as_a_skip_reason() -> None:
    assert str(Missing("root", "what", "how")) == "[root] what; how"
