# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's EINJ driver against a firmware whose answers can be chosen: its files, its checks, its errno.

Runs where the firmware behind EINJ can be asked: on the emulated host over einj.ko, and on simulated hosts.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.ras.einj import FLAG_MEMORY, GRANULE_MASK, MEMORY_CE, MEMORY_UER, Einj
from pytest_kvm_sea.ras.einj_files import EinjFiles
from pytest_kvm_sea.ras.errors import EinjError
from pytest_kvm_sea.ras.journal import Journal
from pytest_kvm_sea.ras.retire import is_offline
from pytest_kvm_sea.ras.safeguards import Safeguards

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.ras.firmware import Firmware
    from pytest_kvm_sea.ras.pagemap import Pagemap

KNOBS = ("error_type", "flags", "param1", "param2", "notrigger")
EARLIER = {"flags": "0x1", "param1": "0x1234", "param2": "0xfff", "notrigger": "0x0"}
"""What somebody else has left in the files."""
OUTCOMES = [
    pytest.param("failed", errno.EBUSY, id="busy"),
    pytest.param("invalid", errno.EINVAL, id="invalid"),
    pytest.param("timeout", errno.EIO, id="time-out"),
]

pytestmark = [
    pytest.mark.kvm_sea_requires("firmware-einj", "einj-parameters", "einj-notrigger", "pagemap-pfn", "lockdown"),
    # The driver is the kernel's; what is missing of EINJ is told by test_sea_to_user.
    pytest.mark.kvm_sea_distinct("kernel.sea_to_user", "kernel.page_size"),
]


@pytest.fixture
def firmware(kvm_sea_firmware: Firmware) -> Iterator[Firmware]:
    """The firmware; it is well again afterwards."""
    kvm_sea_firmware.set_einj_outcome("success")
    yield kvm_sea_firmware
    kvm_sea_firmware.set_einj_outcome("success")


@pytest.fixture
def page(kvm_sea_host: Host) -> Iterator[HostVA]:
    """A page of this process. To be asked for before `kvm_sea_einj`, which retires it while it is still mapped."""
    with closing(kvm_sea_host.map_memory(kvm_sea_host.page_size)) as memory:
        memory.view[0] = 1
        yield memory.address


@pytest.fixture
def files(kvm_sea_host: Host) -> EinjFiles:
    """The driver's files, with what somebody else has left in them."""
    files = EinjFiles(kvm_sea_host)
    for name, text in EARLIER.items():
        files.write(name, text)
    files.write("error_type", f"{MEMORY_CE:#x}")
    return files


def knobs(files: EinjFiles) -> dict[str, int]:
    """What the files hold, as numbers."""
    return {name: int(files.read(name).strip(), 16) for name in KNOBS}


def test_what_the_firmware_is_told(
    page: HostVA, kvm_sea_einj: Einj, firmware: Firmware, kvm_sea_pagemap: Pagemap, files: EinjFiles
) -> None:
    """Type, address and mask arrive in the firmware as the client meant them, and the files are put back."""
    before, earlier = knobs(files), len(firmware.einj_injections())
    address = HostPA(kvm_sea_pagemap.translate(page) + 64)
    injection = kvm_sea_einj.inject_at(HostVA(page + 64))
    assert (injection.address, injection.certain, injection.unrestored) == (address, True, ())
    told = firmware.einj_injections()
    assert len(told) == min(earlier + 1, 8)
    asked = {name: told[-1][name] for name in ("type", "flags", "address", "mask")}
    assert asked == {"type": MEMORY_UER, "flags": FLAG_MEMORY, "address": address, "mask": GRANULE_MASK}
    assert knobs(files) == before


@pytest.mark.parametrize(("outcome", "code"), OUTCOMES)
def test_the_firmware_refuses(
    page: HostVA, kvm_sea_einj: Einj, firmware: Firmware, files: EinjFiles, outcome: str, code: int
) -> None:
    """The errno of each status, whether something may have been injected, and the files as they were before."""
    before, told = knobs(files), firmware.einj_injections()
    firmware.set_einj_outcome(outcome)
    with pytest.raises(EinjError) as caught:
        kvm_sea_einj.inject_at(page)
    assert caught.value.errno == code
    assert [injection.certain for injection in kvm_sea_einj.injections] == ([False] if code == errno.EIO else [])
    assert knobs(files) == before
    assert firmware.einj_injections() == told


def test_after_a_time_out_the_next_injection_succeeds(
    page: HostVA, kvm_sea_einj: Einj, firmware: Firmware, files: EinjFiles
) -> None:
    """The driver does not stay in the command that was never ended."""
    firmware.set_einj_outcome("timeout")
    with pytest.raises(EinjError) as caught:
        kvm_sea_einj.inject_at(page)
    assert caught.value.errno == errno.EIO
    firmware.set_einj_outcome("success")
    assert kvm_sea_einj.inject_at(HostVA(page + 64)).certain
    assert knobs(files)["error_type"] == MEMORY_CE


@pytest.mark.parametrize(
    ("outcome", "events"),
    [
        ("success", ["begin", "injected", "restored", "retired"]),
        ("failed", ["begin", "failed", "restored"]),
        ("timeout", ["begin", "failed", "restored", "retired"]),
    ],
)
def test_journal(
    page: HostVA,
    kvm_sea_einj: Einj,
    kvm_sea_host: Host,
    firmware: Firmware,
    tmp_path: Path,
    outcome: str,
    events: list[str],
) -> None:
    """What the journal says of each outcome; an injection that may have happened ends with its page out of service."""
    kvm_sea_einj.inject_at(page)  # a dry run ends here
    firmware.set_einj_outcome(outcome)
    journal = Journal(tmp_path / "journal")
    safeguards = Safeguards(named=kvm_sea_host.node, journal=journal)
    with Einj(kvm_sea_host, safeguards) as einj, contextlib.suppress(EinjError):
        einj.inject_at(HostVA(page + 64))
    lines = [json.loads(line) for line in journal.path.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == events
    (entry,) = journal.entries()
    assert (entry.finished, entry.writes[-1][0]) == (True, "error_type")


@pytest.mark.parametrize("text", ["0x200", "0x18", "0x0", "garbage", "0x100000010"])
def test_error_types_that_the_driver_refuses(firmware: Firmware, files: EinjFiles, text: str) -> None:
    """Not offered, two at once, none, no number, more than 32 bits: EINVAL, and what was chosen before stays chosen."""
    told = firmware.einj_injections()
    with pytest.raises(EinjError) as caught:
        files.write("error_type", text)
    assert caught.value.errno == errno.EINVAL
    assert firmware.einj_injections() == told


def test_the_client_knows_what_is_not_offered(page: HostVA, kvm_sea_einj: Einj) -> None:
    """An error type that the firmware does not have does not get as far as the files."""
    assert 0x200 not in kvm_sea_einj.available_types()
    with pytest.raises(EinjError, match="does not offer error type 0x200") as caught:
        kvm_sea_einj.inject_at(page, error_type=0x200)
    assert caught.value.errno is None


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"param2": "0x0"}, id="no-mask"),
        pytest.param({"param2": "0xffffffff00000000"}, id="wide-mask"),
        pytest.param({"param1": "0x1000"}, id="no-memory"),
        pytest.param({"flags": "0x10"}, id="unknown-flag"),
    ],
)
def test_parameters_that_the_driver_refuses(
    firmware: Firmware, kvm_sea_pagemap: Pagemap, files: EinjFiles, page: HostVA, wrong: dict[str, str]
) -> None:
    """The files take any number; the write to error_inject finds out, and the firmware hears nothing of it."""
    told, before = firmware.einj_injections(), {name: files.read(name) for name in KNOBS}
    right = {
        "error_type": f"{MEMORY_UER:#x}",
        "flags": f"{FLAG_MEMORY:#x}",
        "param1": f"{kvm_sea_pagemap.translate(page):#x}",
        "param2": f"{GRANULE_MASK:#x}",
        "notrigger": "0x1",
    }
    try:
        for name, text in (right | wrong).items():
            files.write(name, text)
        with pytest.raises(EinjError) as caught:
            files.write("error_inject", "1")
    finally:
        for name, text in before.items():
            files.write(name, text.strip())
    assert caught.value.errno == errno.EINVAL
    assert firmware.einj_injections() == told


@pytest.mark.parametrize("text", ["0x40", "garbage"])
def test_what_was_chosen_stays_chosen(
    firmware: Firmware, kvm_sea_pagemap: Pagemap, files: EinjFiles, page: HostVA, text: str
) -> None:
    """Neither a type that is refused nor an injection changes what was chosen: the next injection is the same again."""
    before = {name: files.read(name) for name in KNOBS}
    chosen = {"flags": FLAG_MEMORY, "address": kvm_sea_pagemap.translate(page), "mask": GRANULE_MASK}
    try:
        for name, value in zip(("flags", "param1", "param2"), chosen.values(), strict=True):
            files.write(name, f"{value:#x}")
        files.write("notrigger", "1")
        with pytest.raises(EinjError):
            files.write("error_type", text)
        for _ in range(2):
            files.write("error_inject", "1")
    finally:
        for name, text_before in before.items():
            files.write(name, text_before.strip())
    told = [{name: injection[name] for name in ("type", *chosen)} for injection in firmware.einj_injections()[-2:]]
    assert told == [{"type": MEMORY_CE, **chosen}] * 2


def test_notrigger(page: HostVA, kvm_sea_einj: Einj, kvm_sea_host: Host) -> None:
    """The kernel is not told of an error that was not triggered: its page stays in service until somebody hits it."""
    injection = kvm_sea_einj.inject_at(page)
    assert not is_offline(kvm_sea_host, injection.address)


def test_formats(files: EinjFiles, firmware: Firmware) -> None:
    """How the driver shows its numbers, and that it shows what is written, also where that was refused."""
    assert files.read("flags") == "0x00000001\n"
    assert files.read("notrigger") == "0x00000000\n"
    assert files.read("param1") == "0x0000000000001234\n"
    assert files.available_types()[MEMORY_UER] == "Memory Uncorrectable non-fatal"
    assert firmware.einj_injections() is not None
