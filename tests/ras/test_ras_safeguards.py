# SPDX-License-Identifier: GPL-2.0-only
"""What is refused before anything is written, and how the parts work together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import HostPA, HostVA
from pytest_kvm_sea.ras import kpageflags
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.einj_files import Write
from pytest_kvm_sea.ras.errors import EinjError, LockTimeoutError
from pytest_kvm_sea.ras.kpageflags import PageFlag
from pytest_kvm_sea.ras.lock import HostLock
from pytest_kvm_sea.ras.retire import HARD_OFFLINE
from pytest_kvm_sea.ras.safeguards import Safeguards, not_named
from pytest_kvm_sea.ras.target import GRANULE_MASK, check_mask, extent
from pytest_kvm_sea.sim.host import SimHost
from tests.processes import run_at_once
from tests.ras.ras_hosts import BASE, KNOBS, NAME, Server, guarded

ROOT = Path(__file__).parents[2]


@pytest.fixture
def host() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def written(host: Server) -> list[str]:
    names: list[str] = []
    host.before_write = lambda name, _text: names.append(name)
    return names


# The name


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (None, f"which is '{NAME}', and no host was named; --kvm-sea-einj-host={NAME}"),
        ("server-2", f"which is '{NAME}', and --kvm-sea-einj-host names 'server-2'; --kvm-sea-einj-host={NAME}"),
        ("SERVER-1", "names 'SERVER-1'"),
        ("", "names ''"),
    ],
)
def test_a_real_host_is_left_alone_unless_it_is_named(
    host: Server, written: list[str], named: str | None, text: str
) -> None:
    memory = host.filled()
    with Einj(host, Safeguards(named=named)) as einj, pytest.raises(EinjError, match=re.escape(text)):
        einj.inject_at(memory.address)
    assert written == []
    with Einj(host) as einj, pytest.raises(EinjError, match=r"\[einj-host\].*no host was named"):
        einj.inject_memory_error(host.hpa(memory))
    assert written == []


def test_the_named_host_is_injected_into_and_a_simulated_one_needs_no_name(host: Server) -> None:
    with Einj(host, Safeguards(named=NAME)) as einj:
        einj.inject_at(host.filled().address)
    assert len(host.physical.poison_granules) == 1
    other = SimHost(BASE)
    assert not_named(other, None) is None
    assert not_named(other, "anything") is None
    other.close()


# The mask


@given(size=st.integers(0, 63), page=st.sampled_from([12, 14, 16]))
def test_a_mask_is_as_wide_as_a_page_at_most(size: int, page: int) -> None:
    mask = (1 << 64) - (1 << size)
    if size <= page:
        check_mask(mask, 1 << page)
        addresses = extent(HostPA(0x8123_4567), mask)
        assert 0x8123_4567 in addresses
        assert (addresses.start % (1 << size), len(addresses)) == (0, 1 << size)
    else:
        with pytest.raises(
            EinjError, match=rf"wider than a page, {1 << size:#x} bytes; valid: .*{(1 << 64) - (1 << page):#x}"
        ):
            check_mask(mask, 1 << page)


@given(st.integers(-(1 << 65), 1 << 65))
def test_a_mask_without_all_high_bits_is_none(mask: int) -> None:
    size = (1 << 64) - mask
    if 0 < size <= 4096 and size.bit_count() == 1:
        check_mask(mask, 4096)
    else:
        with pytest.raises(EinjError, match=r"the mask .*valid: 0xfffffffffffff000, a page of 4096 bytes, to 0xffff"):
            check_mask(mask, 4096)


@pytest.mark.parametrize("mask", [0, 0xFFFF_FFFF_FFFF_0000, 0xFFFF_FFFF_FFFF_F0FF, 0xFFF, -1])
def test_a_bad_mask_is_refused_before_anything_is_written(host: Server, written: list[str], mask: int) -> None:
    with Einj(host, Safeguards(named=NAME)) as einj, pytest.raises(EinjError, match=r"the mask .*nothing was"):
        einj.inject_at(host.filled().address, mask=mask)
    assert written == []


def test_the_mask_says_what_is_cleaned(host: Server) -> None:
    memory = host.filled()
    hva = HostVA(memory.address + 0x345)
    with Einj(host, Safeguards(named=NAME)) as einj:
        for mask in (GRANULE_MASK, (1 << 64) - 4096, (1 << 64) - 1):
            assert einj.inject_at(hva, mask=mask).mask == mask
    assert host.cleaned == [(memory.address + 0x340, 64), (memory.address, 4096), (hva, 1)]


# The page

BAD_PAGES = {
    "slab": (PageFlag.SLAB, "objects of the kernel"),
    "page tables": (PageFlag.PGTABLE, "page tables"),
    "zeros": (PageFlag.ZERO_PAGE, "page of zeros.*write to the memory first"),
    "huge zeros": (PageFlag.ZERO_PAGE | PageFlag.THP, "page of zeros"),
    "offline": (PageFlag.OFFLINE, "logically offline"),
    "reserved": (PageFlag.RESERVED, "reserved"),
    "poisoned": (PageFlag.HWPOISON, "poisoned and out of service"),
    "nothing": (PageFlag.NOPAGE, "no page frame"),
}


@pytest.mark.parametrize("kind", BAD_PAGES)
def test_pages_that_must_not_break_are_refused(
    host: Server, written: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    flags, text = BAD_PAGES[kind]
    monkeypatch.setattr(kpageflags, "page_flags", lambda _host, _hpa: flags | PageFlag(1 << 5))
    with Einj(host, Safeguards(named=NAME)) as einj, pytest.raises(EinjError, match=f"{text}.*/proc/kpageflags"):
        einj.inject_at(host.filled().address)
    assert written == []


def test_the_kernels_own_memory_is_refused(host: Server, written: list[str]) -> None:
    with Einj(host, Safeguards(named=NAME)) as einj, pytest.raises(EinjError, match="the kernel's image"):
        einj.inject_memory_error(HostPA(host.physical.map.kernel.start))
    assert written == []


def test_beyond_the_last_frame_there_is_no_page(host: Server) -> None:
    assert kpageflags.page_flags(host, HostPA(host.physical.end + 0x10_0000)) is PageFlag.NOPAGE


def test_a_page_that_moved_while_others_had_the_lock_is_refused(host: Server, tmp_path: Path) -> None:
    memory = host.process.map_memory(4096)
    memory.view[0] = 1
    safeguards = guarded(tmp_path)
    assert safeguards.lock is not None
    acquire = safeguards.lock.acquire

    def slowly() -> None:
        host.process.migrate(memory)
        acquire()

    safeguards.lock.acquire = slowly  # type: ignore[method-assign] # only for this object
    before = host.knobs()
    with Einj(host, safeguards) as einj, pytest.raises(EinjError, match="moved from"):
        einj.inject_at(memory.address)
    assert not host.firmware.injections
    assert host.knobs() == {**before, "error_type": "0x10"}


def test_a_cache_that_cannot_be_cleaned_is_no_injection(host: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: HostVA, _size: int) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host, "clean_cache", refuse)
    with (
        Einj(host, Safeguards(named=NAME)) as einj,
        pytest.raises(EinjError, match=r"cache cannot be cleaned.*execmem"),
    ):
        einj.inject_at(host.filled().address)
    assert not host.firmware.injections


# The lock


def test_it_is_held_from_before_the_files_are_read_until_the_page_is_out_of_service(
    host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safeguards = guarded(tmp_path)
    lock = safeguards.lock
    assert lock is not None
    held: dict[str, bool] = {}
    host.before_write = lambda name, _text: held.__setitem__(name, lock.held)
    opened = SimHost.open

    def note(self: SimHost, path: str, flags: int, /) -> object:
        if path.rpartition("/")[2] in KNOBS and flags == os.O_RDONLY:
            held["read " + path.rpartition("/")[2]] = lock.held
        return opened(self, path, flags)

    monkeypatch.setattr(SimHost, "open", note)
    with Einj(host, safeguards) as einj:
        einj.inject_at(host.filled().address)
        between = lock.held
        einj.inject_at(host.filled().address)
    assert between
    assert not lock.held
    assert set(held) == {*KNOBS, "clean_cache", "error_inject", HARD_OFFLINE, *(f"read {name}" for name in KNOBS)}
    assert all(held.values())


def test_somebody_elses_lock_is_waited_for_in_vain(host: Server, written: list[str], tmp_path: Path) -> None:
    other = guarded(tmp_path, "test_other").lock
    assert isinstance(other, HostLock)
    with other, Einj(host, guarded(tmp_path)) as einj:
        einj._safeguards.lock._timeout = 0.01  # type: ignore[union-attr] # it has one
        with pytest.raises(LockTimeoutError, match="for test_other"):
            einj.inject_at(host.filled().address)
        assert other.held
    assert written == []


def test_a_lock_that_cannot_be_used_is_no_injection(host: Server, written: list[str], tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with Einj(host, guarded(tmp_path)) as einj, pytest.raises(EinjError, match=r"the lock .*lock cannot be used"):
        einj.inject_at(host.filled().address)
    assert written == []


INJECTS = """
import sys
from pathlib import Path
from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.ras.einj import Einj
from tests.ras.ras_hosts import Server, guarded
directory, number = Path(sys.argv[1]), int(sys.argv[2])
host = Server(tree=directory / "tree")
spare = [host.map_memory(0x20_0000) for _ in range(number)]  # so that no two processes have the same addresses
memory = host.filled(0x8000)
pages = [HostVA(memory.address + page * 4096) for page in range(8)]
print("ready", flush=True)
input()
for page in pages:
    safeguards = guarded(directory, f"process {number}")
    with Einj(host, safeguards) as einj:
        einj.inject_at(page)
told = [injection.request.address for injection in host.firmware.injections]
if told != [host.process.hpa_of(page) for page in pages]:
    raise SystemExit(f"process {number} injected at the addresses of another one")
"""


def test_processes_that_share_the_files_do_not_mix_their_addresses(tmp_path: Path) -> None:
    """Several processes over one tree of files, each injecting at pages of its own."""
    (tmp_path / "tree").mkdir()
    Server(tree=tmp_path / "tree").knobs()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run_at_once(INJECTS, *((str(tmp_path), str(number)) for number in range(3)), cwd=ROOT, env=environment)
    knobs = Server(tree=tmp_path / "tree").knobs()
    assert {int(text, 0) for name, text in knobs.items() if name != "error_type"} == {0}


# The dry run


class Shown(Exception):
    """Ends a rehearsal, as a skip does."""


def rehearsed(host: SimHost, act: Callable[[Einj], object], **more: object) -> Sequence[Write]:
    shown: list[Write] = []

    def rehearse(writes: Sequence[Write]) -> NoReturn:
        shown.extend(writes)
        raise Shown

    with Einj(host, Safeguards(rehearse=rehearse)) as einj, pytest.raises(Shown):
        act(einj)
    return shown


def test_a_rehearsal_shows_what_an_injection_writes(host: Server, written: list[str]) -> None:
    """The very same writes, whichever host; and makes none, so no name is needed."""
    host.put("error_type", "0x20")
    host.put("param1", "0x1234")
    memory = host.filled()
    shown = rehearsed(host, lambda einj: einj.inject_at(memory.address))
    assert written == []
    assert host.cleaned == []
    assert not host.firmware.injections
    with Einj(host, Safeguards(named=NAME)) as einj:
        made = einj.inject_at(memory.address).writes
    assert [(write.file, write.text, write.restoring) for write in shown] == [
        *((write.file, write.text, write.restoring) for write in made),
        (HARD_OFFLINE, f"{host.hpa(memory):#x}", False),
    ]
    assert all(write.why for write in shown)
    assert str(shown[2]) == (
        f"echo {host.hpa(memory):#x} > /sys/kernel/debug/apei/einj/param1"
        f"  # the host physical address of {memory.address:#x}"
    )


def test_a_rehearsal_refuses_what_an_injection_refuses(host: Server) -> None:
    def rehearse(_writes: Sequence[Write]) -> NoReturn:
        raise Shown

    with Einj(host, Safeguards(rehearse=rehearse)) as einj:
        with pytest.raises(EinjError, match="not System RAM"):
            einj.inject_memory_error(HostPA(0x1_0000))
        with pytest.raises(EinjError, match="does not offer"):
            einj.inject_at(host.filled().address, error_type=0x40)
        with pytest.raises(EinjError, match="mask"):
            einj.inject_at(host.filled().address, mask=0)
