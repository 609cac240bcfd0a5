# SPDX-License-Identifier: GPL-2.0-only
"""The EINJ client: what it checks, what it writes, what it says, and that it cleans up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.hosts.contract import File
from pytest_kvm_sea.platforms.model import GIB, Einj, Firmware, Hugepages, Kernel, Lockdown, Platform, Process
from pytest_kvm_sea.ras import einj as client
from pytest_kvm_sea.ras import einj_errors, iomem
from pytest_kvm_sea.ras.einj_files import EinjFiles
from pytest_kvm_sea.ras.errors import EinjError, TranslationError, Untranslatable
from pytest_kvm_sea.ras.retire import is_offline
from pytest_kvm_sea.sim.files import SimFile, fail
from pytest_kvm_sea.sim.firmware import Status
from pytest_kvm_sea.sim.host import SimHost

DIRECTORY = client.DIRECTORY
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(0, 0))
KNOBS = ["error_type", "flags", "param1", "param2", "notrigger"]
TARGET = HostPA(0x8800_0123)


@contextmanager
def simulated(**changes: object) -> Iterator[SimHost]:
    host = SimHost(replace(BASE, **changes))  # type: ignore[arg-type]  # a platform's fields, by name
    try:
        yield host
    finally:
        host.close()


def with_einj(**fields: object) -> Firmware:
    return Firmware(einj=Einj(**fields))  # type: ignore[arg-type]  # as above


def contents(host: SimHost) -> dict[str, bytes]:
    """What the files of EINJ read, past the client."""
    names = [name for name in host.listdir(DIRECTORY) if name != "error_inject"]
    return {name: host.open(f"{DIRECTORY}/{name}", os.O_RDONLY).read() for name in names}


def set_files(host: SimHost, **texts: str) -> None:
    for name, text in texts.items():
        host.open(f"{DIRECTORY}/{name}", os.O_WRONLY).write(text.encode())


class FailingHost(SimHost):
    """A host where writing one of the EINJ files fails, from the n-th write of it on."""

    def __init__(self, name: str, code: int, after: int = 0) -> None:
        super().__init__(BASE)
        self.path = f"{DIRECTORY}/{name}"
        self.code = code
        self.left = after
        self.hook: Callable[[], None] = lambda: None

    def open(self, path: str, flags: int, /) -> File:
        if path != self.path or flags == os.O_RDONLY:
            return super().open(path, flags)
        self.hook()
        if self.left:
            self.left -= 1
            return super().open(path, flags)
        host = self

        class Refusing(SimFile):
            def write_at(self, data: bytes, offset: int) -> int:
                fail(host.code, self.path)

        return Refusing(path, flags)


# Injecting


@pytest.mark.parametrize("release", ["7.3.4", "6.12.48"])
def test_an_injection_poisons_the_granule_and_nothing_else(release: str) -> None:
    with simulated(kernel=Kernel(release=release)) as host:
        injection = client.Einj(host).inject_memory_error(TARGET)
        assert injection.address == TARGET
        assert injection.granule == TARGET // 64 * 64
        assert host.physical.poison_granules == (injection.granule,)
        assert not host.physical.is_offline(TARGET)


@pytest.mark.parametrize("page_size", [4 << 10, 16 << 10, 64 << 10])
def test_an_address_of_the_process_is_broken_where_it_lies(page_size: int) -> None:
    with simulated(kernel=Kernel(page_size=page_size)) as host:
        memory = host.map_memory(4 * page_size)
        memory.view[page_size + 0xBAD] = 1
        hva = HostVA(memory.address + page_size + 0xBAD)
        injection = client.Einj(host).inject_at(hva)
        assert injection.address == host.process.hpa_of(hva)
        assert host.physical.poisoned(injection.address, 1)
        assert len(host.physical.poison_granules) == 1


def test_without_notrigger_the_page_is_offline_at_once() -> None:
    with simulated() as host:
        injection = client.Einj(host).inject_memory_error(TARGET, notrigger=False)
        assert is_offline(host, injection.address)
        assert ("notrigger", "0") in [(write.file, write.text) for write in injection.writes]


def test_every_write_is_listed_in_order() -> None:
    with simulated() as host:
        set_files(host, error_type="0x20", notrigger="0x7", param1="0x1000")
        injection = client.Einj(host).inject_memory_error(TARGET)
        made = [(write.file, write.text) for write in injection.writes if not write.restoring]
        assert made == [
            ("error_type", "0x10"),
            ("flags", "0x2"),
            ("param1", "0x88000123"),
            ("param2", "0xffffffffffffffc0"),
            ("notrigger", "1"),
            ("error_inject", "1"),
        ]
        undone = [(write.file, write.text) for write in injection.writes if write.restoring]
        assert undone == [
            ("notrigger", "0x00000007"),
            ("param2", "0x0000000000000000"),
            ("param1", "0x0000000000001000"),
            ("flags", "0x00000000"),
            ("error_type", "0x20"),
        ]
        assert injection.unrestored == ()


# Restoring


@pytest.mark.parametrize("release", ["7.3.4", "6.12.48"])
def test_the_files_are_as_before(release: str) -> None:
    with simulated(kernel=Kernel(release=release)) as host:
        set_files(host, error_type="0x20", flags="1", param1="3", param2="4", param3="5", param4="6", notrigger="0")
        before = contents(host)
        injection = client.Einj(host).inject_memory_error(TARGET)
        # 7.3 keeps the text, 6.12 prints the number: the same value in both.
        assert contents(host) == before
        assert injection.unrestored == ()


@pytest.mark.parametrize("release", ["7.3.4", "6.12.48"])
def test_a_type_that_was_never_set_cannot_be_unset(release: str) -> None:
    with simulated(kernel=Kernel(release=release)) as host:
        before = contents(host)
        injection = client.Einj(host).inject_memory_error(TARGET)
        assert injection.unrestored == ("error_type",)
        after = contents(host)
        assert after.pop("error_type").strip() == b"0x10"
        del before["error_type"]
        assert after == before


def test_a_refused_text_is_there_again() -> None:
    with simulated() as host:
        set_files(host, error_type="0x20")
        with pytest.raises(OSError, match="Invalid argument"):
            set_files(host, error_type="rubbish")
        injection = client.Einj(host).inject_memory_error(TARGET)
        assert contents(host)["error_type"] == b"rubbish"
        assert injection.unrestored == ("error_type",)


@pytest.mark.parametrize("name", [*KNOBS, "error_inject"])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBUSY, errno.EIO])
def test_whatever_fails_the_files_are_as_before(name: str, code: int) -> None:
    host = FailingHost(name, code)
    others = {other: "0x20" if other == "error_type" else "0x5" for other in KNOBS if other != name}
    set_files(host, **others)
    before = contents(host)
    with pytest.raises(EinjError) as refused:
        client.Einj(host).inject_memory_error(TARGET)
    assert (refused.value.file, refused.value.errno) == (name, code)
    assert refused.value.injection is None
    after = contents(host)
    assert after == before
    assert not host.physical.poison_granules
    host.close()


def test_a_failure_to_clean_up_is_not_swallowed_and_not_taken_for_no_injection() -> None:
    host = FailingHost("notrigger", errno.EIO, after=1)
    with pytest.raises(EinjError, match=r"notrigger failed with EIO") as refused:
        client.Einj(host).inject_memory_error(TARGET)
    assert refused.value.injection is not None
    assert refused.value.injection.address == TARGET
    assert "notrigger" in refused.value.injection.unrestored
    assert host.physical.poison_granules
    assert contents(host)["param1"] == b"0x0000000000000000\n"  # the others are put back
    host.close()


def test_a_failure_to_clean_up_after_a_failure_is_a_note() -> None:
    host = FailingHost("flags", errno.EPERM, after=1)
    host.firmware.next_status = Status.FAILED
    with pytest.raises(EinjError, match="EBUSY") as refused:
        client.Einj(host).inject_memory_error(TARGET)
    assert [note for note in refused.value.__notes__ if "putting EINJ back failed" in note and "EPERM" in note]
    host.close()


def test_a_page_that_moves_is_not_injected_into() -> None:
    host = FailingHost("notrigger", errno.EIO, after=9)
    memory = host.process.map_memory(8192)
    memory.view[0] = 1
    set_files(host, error_type="0x20")
    before = contents(host)
    host.hook = lambda: host.process.migrate(memory)
    with pytest.raises(EinjError, match=r"moved from 0x[0-9a-f]+ to 0x[0-9a-f]+ during.*nothing was injected"):
        client.Einj(host).inject_at(memory.address)
    assert not host.physical.poison_granules
    assert contents(host) == before
    host.close()


# A second writer


class SharedHost(SimHost):
    """A host whose EINJ another process uses too: that one acts just before the error is injected."""

    def __init__(self, tree: Path, release: Kernel, other: Callable[[], None]) -> None:
        super().__init__(replace(BASE, kernel=release), tree=tree)
        self.other = other

    def clean_cache(self, address: HostVA, size: int, /) -> None:
        self.other()


RELEASES = [Kernel(), Kernel(release="6.12.48", einj_v2=False, einj_any_memory=False)]


@pytest.mark.parametrize("release", RELEASES, ids=["7.3", "6.12"])
@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("param1", "0x8a000000", "0x000000008a000000"),
        ("param2", "0xfffffffffffff000", "0xfffffffffffff000"),
        ("flags", "1", "0x00000001"),
        ("notrigger", "0", "0x00000000"),
        ("error_type", "0x20", "0x20"),
    ],
)
def test_what_somebody_else_wrote_in_between_is_not_injected(
    tmp_path: Path, release: Kernel, name: str, text: str, shown: str
) -> None:
    """Neither at their address nor at ours; their value stays, all others are put back."""
    second = SimHost(replace(BASE, kernel=release), tree=tmp_path)
    host = SharedHost(tmp_path, release, lambda: set_files(second, **{name: text}))
    set_files(host, error_type="0x8", param1="0x1234")
    before = contents(host)
    memory = host.map_memory(4096)
    memory.view[0] = 1
    einj = client.Einj(host)
    with pytest.raises(
        EinjError, match=rf"{name} holds '{shown}', and '.*' was written.*nothing was injected"
    ) as found:
        einj.inject_at(memory.address)
    assert (found.value.file, found.value.errno, einj.injections) == (name, None, [])
    assert not host.firmware.injections + second.firmware.injections
    assert contents(host) == before | {name: contents(host)[name]}
    assert contents(second)[name].strip() == shown.encode()
    for each in (host, second):
        each.close()


@pytest.mark.parametrize("release", RELEASES, ids=["7.3", "6.12"])
def test_somebody_else_who_writes_the_same_does_no_harm(tmp_path: Path, release: Kernel) -> None:
    second = SimHost(replace(BASE, kernel=release), tree=tmp_path)
    host = SharedHost(tmp_path, release, lambda: set_files(second, flags="2", notrigger="0x1"))
    memory = host.map_memory(4096)
    memory.view[0] = 1
    injection = client.Einj(host).inject_at(memory.address)
    assert (injection.certain, injection.unrestored) == (True, ("error_type",))
    for each in (host, second):
        each.close()


# Refusing


@pytest.mark.parametrize(
    ("hpa", "text"),
    [
        (0, r"PFN of 0 is what pagemap shows"),
        (-4096, r"no physical address"),
        (1 << 64, r"no physical address"),
        (0xBAD, r"0xbad is no physical address.*PFN of 0"),
        (0x1_0000, r"0x10000 is not System RAM, which is 0x80000000-0xbeffffff"),
        (0x0900_0000, r"not System RAM"),
        (0xBFFF_F000, r"not System RAM"),
    ],
)
def test_addresses_are_refused_before_anything_is_written(hpa: int, text: str) -> None:
    with simulated() as host:
        before = contents(host)
        with pytest.raises(EinjError, match=text) as refused:
            client.Einj(host).inject_memory_error(HostPA(hpa))
        assert refused.value.errno is None
        assert contents(host) == before
        assert not host.firmware.injections


def test_types_are_refused_before_anything_is_written() -> None:
    with simulated(firmware=with_einj(error_types=(8,))) as host:
        with pytest.raises(EinjError, match=r"does not offer error type 0x10; it offers 0x8 \(Memory Correctable\)"):
            client.Einj(host).inject_memory_error(TARGET)
        assert contents(host)["error_type"] == b""


def test_a_missing_notrigger_is_refused_unless_it_is_not_wanted() -> None:
    with simulated(firmware=with_einj(notrigger=False)) as host:
        before = contents(host)
        with pytest.raises(EinjError, match=r"notrigger failed with ENOENT.*inject with notrigger=False"):
            client.Einj(host).inject_memory_error(TARGET)
        assert contents(host) == before
        client.Einj(host).inject_memory_error(TARGET, notrigger=False)
        assert host.physical.is_offline(TARGET)


@pytest.mark.parametrize(
    ("changes", "file", "code", "text"),
    [
        ({"firmware": with_einj(table=False)}, "available_error_type", errno.ENOENT, "modprobe einj"),
        ({"firmware": with_einj(module=False)}, "available_error_type", errno.ENOENT, "modprobe einj"),
        ({"firmware": with_einj(parameters=False)}, "flags", errno.ENOENT, "SET_ERROR_TYPE_WITH_ADDRESS"),
        ({"process": Process(root=False)}, "available_error_type", errno.EACCES, "run as root"),
        ({"kernel": Kernel(lockdown=Lockdown.INTEGRITY)}, "error_type", errno.EPERM, "lockdown=none"),
    ],
    ids=["no table", "no module", "no parameters", "not root", "lockdown"],
)
def test_what_is_missing_is_named(changes: dict[str, object], file: str, code: int, text: str) -> None:
    with simulated(**changes) as host:
        with pytest.raises(EinjError, match=text) as refused:
            client.Einj(host).inject_memory_error(TARGET)
        assert (refused.value.file, refused.value.errno) == (file, code)


def test_an_address_without_a_page_is_not_injected_at() -> None:
    with simulated() as host:
        memory = host.map_memory(4096)
        with pytest.raises(TranslationError) as refused:
            client.Einj(host).inject_at(memory.address)
        assert refused.value.reason is Untranslatable.NOT_PRESENT


def test_the_page_of_zeros_is_refused_before_anything_is_written() -> None:
    with simulated() as host:
        before = contents(host)
        memory = host.map_memory(4096)
        assert memory.view[0] == 0
        with pytest.raises(EinjError, match=r"page of zeros.*write to the memory first.*nothing was injected"):
            client.Einj(host).inject_at(memory.address)
        assert contents(host) == before


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (Status.FAILED, errno.EBUSY, r"'1' to /sys/kernel/debug/apei/einj/error_inject failed with EBUSY.*busy"),
        (Status.TIMEOUT, errno.EIO, r"failed with EIO.*within a second"),
        (Status.INVALID, errno.EINVAL, r"failed with EINVAL.*compare param1 with /proc/iomem"),
    ],
)
def test_the_errno_of_the_kernel_is_kept_and_explained(status: Status, code: int, text: str) -> None:
    with simulated() as host:
        host.firmware.next_status = status
        with pytest.raises(EinjError, match=text) as refused:
            client.Einj(host).inject_memory_error(TARGET)
        assert (refused.value.file, refused.value.value, refused.value.errno) == ("error_inject", "1", code)
        assert isinstance(refused.value.__cause__, OSError)


@pytest.mark.parametrize("file", ["error_type", "flags", "param1", "param2", "notrigger", "error_inject"])
def test_every_errno_that_the_driver_gives_has_its_meaning(file: str) -> None:
    codes = {errno.EPERM, errno.EACCES, errno.ENOENT, errno.EINVAL, errno.ERANGE}
    if file == "error_inject":
        codes |= {errno.EBUSY, errno.EIO, errno.EADDRINUSE, errno.ENOMEM}
    meanings = {code: einj_errors.meaning(file, code) for code in codes}
    assert not any("not an errno" in what for what, _ in meanings.values())
    assert len(set(meanings.values())) == len(meanings)
    assert "not an errno" in einj_errors.meaning(file, errno.EXDEV)[0]


# Status


@pytest.mark.parametrize(
    ("changes", "problem", "table", "types"),
    [
        ({}, None, True, {0x08, 0x10, 0x20}),
        ({"firmware": with_einj(table=False)}, "einj-table", False, set()),
        ({"firmware": with_einj(module=False)}, "einj-module", True, set()),
        ({"firmware": with_einj(parameters=False)}, "einj-parameters", True, {0x08, 0x10, 0x20}),
        ({"firmware": with_einj(notrigger=False)}, "einj-notrigger", True, {0x08, 0x10, 0x20}),
        ({"firmware": with_einj(error_types=(1, 8))}, "einj-memory-uer", True, {1, 8}),
        ({"process": Process(root=False)}, "root", True, set()),
        ({"kernel": Kernel(lockdown=Lockdown.CONFIDENTIALITY)}, "lockdown", True, {0x08, 0x10, 0x20}),
    ],
    ids=["all", "table", "module", "parameters", "notrigger", "types", "root", "lockdown"],
)
def test_status(changes: dict[str, object], problem: str | None, table: bool, types: set[int]) -> None:
    with simulated(**changes) as host:
        status = client.Einj(host).status()
        assert [each.name for each in status.problems] == ([problem] if problem else [])
        assert status.usable == (problem is None)
        assert status.table == table
        assert set(status.error_types) == types
        assert [str(each).startswith(f"[{each.name}] ") for each in status.problems] == [True] * len(status.problems)


def test_types_of_v2_are_left_out() -> None:
    class V2(EinjFiles):
        def read(self, name: str) -> str:
            return "0x00000010\tMemory Uncorrectable non-fatal\nV2_0x00000002\tEINJV2 Memory Error\n"

    with simulated() as host:
        assert V2(host).available_types() == {0x10: "Memory Uncorrectable non-fatal"}


# iomem


def test_ram_is_found_at_any_depth_and_hidden_addresses_tell_nothing() -> None:
    text = "00000000-00000fff : Reserved\n40000000-7fffffff : System RAM\n  40210000-4fffffff : Kernel code\nrubbish\n"
    assert iomem.parse(text) == (
        (range(0x1000), "Reserved"),
        (range(0x4000_0000, 0x8000_0000), "System RAM"),
        (range(0x4021_0000, 0x5000_0000), "Kernel code"),
    )
    with simulated() as host:
        assert iomem.system_ram(host) == [range(0x8000_0000, 0xBF00_0000)]
    with simulated(process=Process(root=False)) as host:
        assert iomem.system_ram(host) is None
