# SPDX-License-Identifier: GPL-2.0-only
"""What a write to error_inject does: the kernel's checks by release, the firmware's answers, and the poison."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.hosts.contract import Backing
from pytest_kvm_sea.platforms.model import GIB, MIB, Einj, EinjOutcome, Hugepages, Kernel, Platform
from pytest_kvm_sea.platforms.model import Firmware as FirmwareModel
from pytest_kvm_sea.sim.filesystem import Filesystem
from pytest_kvm_sea.sim.firmware import Component, Firmware, Request, Status
from pytest_kvm_sea.sim.memory_map import Kind, Resource
from pytest_kvm_sea.sim.physical import Offline, PhysicalMemory
from pytest_kvm_sea.sim.process import Process

EINJ = "/sys/kernel/debug/apei/einj"
NEW, OLD = Kernel(), Kernel(release="6.12.48", einj_v2=False, einj_any_memory=False)
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(free_2m=8, free_1g=0))
OK = 0
RAM = 0x8000_0000
TARGET = RAM + 128 * MIB + 0x123
ALL_ONES = "0xffffffffffffffff"
ALL_TYPES = tuple(1 << bit for bit in (*range(18), 31))


class Machine:
    """A host with EINJ, and what was poisoned on it."""

    def __init__(self, root: Path, kernel: Kernel = NEW, einj: Einj | None = None, page_size: int = 4096) -> None:
        self.platform = replace(
            BASE,
            kernel=replace(kernel, page_size=page_size),
            firmware=FirmwareModel(einj=Einj() if einj is None else einj),
        )
        self.physical = PhysicalMemory(page_size, GIB)
        self.process = Process(self.physical, page_size, self.platform.hugepages)
        self.firmware = Firmware(self.platform, self.physical, self.process)
        self.host = Filesystem(self.platform, self.process, self.physical, self.firmware, lambda: root)

    def write(self, name: str, text: str) -> int:
        try:
            self.host.open(f"{EINJ}/{name}", os.O_WRONLY).write(text.encode())
        except OSError as error:
            return error.errno or -1
        return OK

    def read(self, name: str) -> bytes:
        return self.host.open(f"{EINJ}/{name}", os.O_RDONLY).read()

    def inject(self, **knobs: str) -> int:
        """Set the files, defaults first, and inject: the errno of the last write."""
        defaults = {"error_type": "0x10", "flags": "2", "param1": f"{TARGET:#x}", "param2": ALL_ONES, "notrigger": "1"}
        for name, text in (defaults | knobs).items():
            assert self.write(name, text) == OK
        return self.write("error_inject", "1")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("text", ["1", "0", "0xffffffffffffffff", "017\n"])
def test_any_number_injects(machine: Machine, text: str) -> None:
    assert machine.inject() == OK
    assert machine.physical.poison_granules == (TARGET // 64 * 64,)
    assert machine.write("error_inject", text) == OK
    assert len(machine.firmware.injections) == 2


@pytest.mark.parametrize("text", ["", "yes", "0x10000000000000000"])
def test_what_is_no_number_does_not(machine: Machine, text: str) -> None:
    machine.inject()
    assert machine.write("error_inject", text) in (errno.EINVAL, errno.ERANGE)
    assert len(machine.firmware.injections) == 1


# what is set: errno on 7.3, errno on 6.12
CHECKS = [
    ({}, OK, OK),
    ({"flags": "0"}, OK, OK),
    ({"flags": "3"}, OK, OK),
    ({"flags": "8"}, OK, errno.EINVAL),  # 7.3 clears its own bit 3
    ({"flags": "0xa"}, OK, errno.EINVAL),
    ({"flags": "0x10"}, errno.EINVAL, errno.EINVAL),
    ({"flags": "0x80000002"}, errno.EINVAL, errno.EINVAL),
    ({"param2": "0"}, errno.EINVAL, errno.EINVAL),
    ({"param2": "0xffffffff"}, errno.EINVAL, errno.EINVAL),
    ({"param2": "0xffffffffffffe000"}, errno.EINVAL, errno.EINVAL),
    ({"param2": "0x7ffffffffffff000"}, errno.EINVAL, errno.EINVAL),
    ({"param2": "0xfffffffffffff000"}, OK, OK),
    ({"param2": "0xfffffffffffff123"}, OK, OK),
    ({"param2": "0xffffffffffffffc0"}, OK, OK),
    ({"param1": "0"}, errno.EINVAL, errno.EINVAL),
    ({"param1": "0xbad"}, errno.EINVAL, errno.EINVAL),
    ({"param1": "0x09000000"}, errno.EINVAL, errno.EINVAL),
    ({"param1": "0x7fffffff"}, errno.EINVAL, errno.EINVAL),
    ({"param1": "0x7fffffff", "param2": "0xfffffffffffff000"}, errno.EINVAL, errno.EINVAL),
    ({"param1": f"{RAM:#x}"}, OK, OK),
    ({"param1": f"{RAM + GIB - 1:#x}"}, errno.EINVAL, errno.EINVAL),  # the firmware's own, nomap
    ({"param1": f"{RAM + GIB:#x}"}, errno.EINVAL, errno.EINVAL),
    ({"param1": "0x82590000"}, errno.EADDRINUSE, errno.EADDRINUSE),
    ({"param1": "0x82590fff"}, errno.EADDRINUSE, errno.EADDRINUSE),
    ({"param1": "0x82591000"}, OK, OK),
    ({"error_type": "0x1", "param1": "0", "param2": "0", "flags": "0"}, OK, OK),
    ({"error_type": "0x1", "param1": "0", "param2": "0", "flags": "2"}, errno.EINVAL, errno.EINVAL),
    ({"error_type": "0x40", "param1": "0", "param2": "0", "flags": "4"}, OK, OK),
    ({"error_type": "0x1000", "flags": "2"}, errno.EINVAL, errno.EINVAL),
    ({"error_type": "0x1000", "flags": "0", "param1": "0", "param2": "0"}, OK, OK),
    ({"error_type": "0x80000000", "param1": "0", "param2": "0", "flags": "0"}, OK, OK),
    ({"error_type": "0x8", "param1": "0"}, errno.EINVAL, errno.EINVAL),
]


@pytest.mark.parametrize(("knobs", "new", "old"), CHECKS, ids=lambda value: str(value) if value else None)
def test_the_kernels_checks(tmp_path: Path, knobs: dict[str, str], new: int, old: int) -> None:
    for kernel, code in ((NEW, new), (OLD, old)):
        root = tmp_path / kernel.release
        root.mkdir()
        machine = Machine(root, kernel, Einj(error_types=ALL_TYPES))
        assert machine.inject(**knobs) == code, kernel.release
        assert bool(machine.firmware.injections) == (code == OK)
        if code != OK:
            assert not machine.physical.poison_granules


@pytest.mark.parametrize(
    ("page_size", "mask", "code"),
    [
        (4096, 0xFFFF_FFFF_FFFF_F000, OK),
        (16384, 0xFFFF_FFFF_FFFF_F000, OK),
        (16384, 0xFFFF_FFFF_FFFF_C000, OK),
        (16384, 0xFFFF_FFFF_FFFF_8000, errno.EINVAL),
        (65536, 0xFFFF_FFFF_FFFF_0000, OK),
        (65536, 0xFFFF_FFFF_FFFE_0000, errno.EINVAL),
        (4096, 0xFFFF_FFFF_FFFF_0000, errno.EINVAL),
    ],
)
def test_the_mask_is_measured_by_the_hosts_page(tmp_path: Path, page_size: int, mask: int, code: int) -> None:
    assert Machine(tmp_path, page_size=page_size).inject(param2=f"{mask:#x}") == code


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_the_page_of_zeros_is_one_page(tmp_path: Path, page_size: int) -> None:
    machine = Machine(tmp_path, page_size=page_size)
    zero = machine.physical.zero_page
    assert zero % page_size == 0
    assert machine.inject(param1=f"{zero + page_size - 1:#x}") == errno.EADDRINUSE
    assert machine.inject(param1=f"{zero + page_size:#x}") == OK


def test_without_a_type_nothing_is_injected(machine: Machine) -> None:
    assert machine.write("error_inject", "1") == errno.EINVAL


def test_a_refused_type_does_not_undo_the_one_before(machine: Machine) -> None:
    machine.inject()
    assert machine.write("error_type", "0x40") == errno.EINVAL
    assert machine.write("error_inject", "1") == OK
    assert machine.firmware.injections[-1].request.type == 0x10


def test_a_v2_prefix_stays_in_force_even_where_the_type_is_refused(machine: Machine) -> None:
    """is_v2 flips before the type is checked, and then every injection is one of EINJv2, which is not there."""
    assert machine.inject() == OK
    assert machine.write("error_type", "V2_0x1") == errno.EINVAL
    assert machine.write("error_inject", "1") == errno.EINVAL
    assert machine.read("flags") == b"0x0000000a\n"
    assert machine.inject() == OK
    assert machine.read("flags") == b"0x00000002\n"


@pytest.mark.parametrize(("before", "after"), [("8", b"0x00000000\n"), ("0xa", b"0x00000002\n")])
def test_the_v2_bit_of_flags_is_the_kernels_own(machine: Machine, before: str, after: bytes) -> None:
    assert machine.inject(flags=before) == OK
    assert machine.read("flags") == after
    assert machine.firmware.injections[-1].request.flags == 2


def test_a_v2_prefix_with_a_v1_type_is_accepted_and_fails_late(machine: Machine) -> None:
    assert machine.inject() == OK
    assert machine.write("error_type", "V2_0x10") == OK
    assert machine.write("error_inject", "1") == errno.EINVAL
    assert machine.write("error_type", "V2_rubbish") == errno.EINVAL
    assert machine.write("error_inject", "1") == errno.EINVAL
    assert machine.write("error_type", "rubbish") == errno.EINVAL
    assert machine.write("error_inject", "1") == errno.EINVAL


# what is set: what the firmware is given
REQUESTS = [
    ({"param3": "3", "param4": "4"}, Request(0x10, 2, TARGET, (1 << 64) - 1, 3, 4)),
    ({"flags": "0"}, Request(0x10, 2, TARGET, (1 << 64) - 1)),
    ({"flags": "0", "error_type": "1", "param1": "7"}, Request(1, 1, apicid=7)),
    ({"flags": "0", "error_type": "0x40", "param1": "7"}, Request(0x40, 4, sbdf=7)),
    ({"flags": "0", "error_type": "0x200", "param1": "7"}, Request(0x200)),
    ({"error_type": "0x80000000"}, Request(0x8000_0000)),
]


@pytest.mark.parametrize(("knobs", "request_"), REQUESTS, ids=range(len(REQUESTS)))
def test_what_the_firmware_is_given(tmp_path: Path, knobs: dict[str, str], request_: Request) -> None:
    machine = Machine(tmp_path, einj=Einj(error_types=ALL_TYPES))
    assert machine.inject(**knobs) == OK
    assert machine.firmware.injections[-1].request == request_


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.FAILED, errno.EBUSY), (Status.INVALID, errno.EINVAL), (Status.TIMEOUT, errno.EIO)],
)
def test_what_the_firmware_answers(machine: Machine, status: Status, code: int) -> None:
    machine.firmware.next_status = status
    assert machine.inject() == code
    assert not machine.physical.poison_granules
    machine.firmware.next_status = Status.SUCCESS
    assert machine.write("error_inject", "1") == OK


def test_a_vendor_type_that_the_firmware_lacks_is_its_to_refuse(machine: Machine) -> None:
    assert machine.inject(error_type="0x80000000") == errno.EINVAL


# Poison


@pytest.mark.parametrize(
    ("mask", "start"),
    [
        ((1 << 64) - 1, TARGET // 64 * 64),
        ((1 << 64) - 64, TARGET // 64 * 64),
        ((1 << 64) - 4096, TARGET // 4096 * 4096),
    ],
)
def test_one_granule_is_poisoned(machine: Machine, mask: int, start: int) -> None:
    assert machine.inject(param2=f"{mask:#x}") == OK
    assert machine.physical.poison_granules == (start,)
    assert not machine.physical.is_offline(start)


@pytest.mark.parametrize(("kind", "poisons"), [("0x8", False), ("0x10", True), ("0x20", True), ("0x1", False)])
def test_only_uncorrectable_memory_errors_poison(tmp_path: Path, kind: str, poisons: bool) -> None:
    machine = Machine(tmp_path, einj=Einj(error_types=ALL_TYPES))
    assert machine.inject(error_type=kind) == OK
    assert bool(machine.physical.poison_granules) is poisons
    assert machine.firmware.injections[-1].poisoned is poisons


def test_firmware_that_says_yes_and_does_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, einj=Einj(outcome=EinjOutcome.UNPOISONED))
    assert machine.inject(notrigger="0") == OK
    assert not machine.physical.poison_granules
    assert not machine.physical.is_offline(TARGET)


def test_the_trigger_makes_the_kernel_take_the_page_offline(machine: Machine) -> None:
    assert machine.inject(notrigger="0") == OK
    assert machine.physical.is_offline(TARGET)
    assert machine.physical.poisoned(TARGET, 1)
    assert machine.firmware.injections[-1].offlined


@pytest.mark.parametrize("notrigger", ["1", "2", "0x80000000"])
def test_without_a_trigger_the_kernel_knows_nothing(machine: Machine, notrigger: str) -> None:
    assert machine.inject(notrigger=notrigger) == OK
    assert not machine.physical.is_offline(TARGET)
    assert not machine.firmware.injections[-1].triggered


def test_without_the_file_the_trigger_always_runs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, einj=Einj(notrigger=False))
    for name, text in {"error_type": "0x10", "flags": "2", "param1": f"{TARGET:#x}", "param2": ALL_ONES}.items():
        assert machine.write(name, text) == OK
    assert machine.write("error_inject", "1") == OK
    assert machine.physical.is_offline(TARGET)


def test_a_huge_page_leaves_its_pool(machine: Machine) -> None:
    memory = machine.process.map_memory(2 * MIB, Backing.HUGETLB_2M)
    memory.view[0] = 1
    hpa = memory.hpa(0x5000)
    assert machine.inject(param1=f"{hpa:#x}", notrigger="0") == OK
    assert machine.physical.is_offline(hpa)
    assert not machine.physical.is_offline(hpa - 4096)
    assert memory.lost(0)
    assert memory.lost(2 * MIB - 1)
    assert machine.physical.pool_size(2 * MIB) == 7
    assert machine.physical.poison_granules == (hpa,)


def test_the_same_cell_twice(machine: Machine) -> None:
    for _ in range(2):
        assert machine.inject(notrigger="0") == OK
    assert machine.physical.poison_granules == (TARGET // 64 * 64,)
    assert [injection.offlined for injection in machine.firmware.injections] == [True, False]


def test_an_error_in_the_kernels_own_memory_cannot_be_recovered(machine: Machine) -> None:
    """The page is marked, for what that is worth, and injecting succeeds."""
    assert machine.inject(param1=f"{RAM:#x}", notrigger="0") == OK
    assert machine.physical.offline_was(RAM) is Offline.KERNEL


def test_without_parameters_the_firmware_chooses(tmp_path: Path) -> None:
    machine = Machine(tmp_path, einj=Einj(parameters=False))
    assert machine.write("error_type", "0x10") == OK
    assert machine.write("error_inject", "1") == OK
    (where,) = machine.physical.poison_granules
    assert where in machine.physical.map.firmware


def test_flags_that_do_not_say_memory_let_the_firmware_choose(machine: Machine) -> None:
    """The kernel checks the address for it is a memory type, but the firmware is told that it is not valid."""
    assert machine.inject(flags="1") == OK
    (where,) = machine.physical.poison_granules
    assert where in machine.physical.map.firmware


def test_injecting_changes_no_file_but_flags(machine: Machine) -> None:
    machine.inject(param3="5", param4="6")
    before = {name: machine.read(name) for name in ("error_type", "flags", "param1", "param2", "param3", "param4")}
    machine.write("error_inject", "1")
    assert {name: machine.read(name) for name in before} == before


@pytest.mark.parametrize(
    ("kind", "new", "old"),
    [
        (Kind.SYSTEM_RAM, True, True),
        (Kind.PERSISTENT_MEMORY, True, True),
        (Kind.SOFT_RESERVED, True, True),
        (Kind.CRASH_KERNEL, True, False),
        (Kind.ACPI_TABLES, True, False),
        (Kind.ACPI_NV_STORAGE, True, False),
        (Kind.RESERVED, True, False),
        (Kind.NONE, False, False),
    ],
)
def test_what_an_error_may_hit(tmp_path: Path, kind: Kind, new: bool, old: bool) -> None:
    for kernel, allowed in ((NEW, new), (OLD, old)):
        machine = Machine(tmp_path, kernel)
        own = Resource(0x4_0000_0000, 0x4_0010_0000, "something", kind)
        machine.physical.map = replace(machine.physical.map, resources=(*machine.physical.map.resources, own))
        assert machine.inject(param1="0x400000000") == (OK if allowed else errno.EINVAL), kernel.release


# EINJv2 and vendor extensions

ALL_OF_IT = Einj(
    error_types=ALL_TYPES,
    v2_error_types=(1, 2, 4),
    v2_components=3,
    vendor="0:3:0.0 vendor_id=1d0f device_id=10 rev_id=2",
    oem_error=16,
)
FIRST = "0x000102030405060708090a0b0c0d0e0f\n"

# what is set: errno
V2_CHECKS = [
    ({"error_type": "V2_2"}, OK),
    ({"error_type": "V2_0x2", "flags": "0"}, OK),
    ({"error_type": "V2_1", "param1": "0", "param2": "0"}, OK),
    ({"error_type": "V2_1", "param1": "0", "param2": "0", "flags": "0"}, OK),
    ({"error_type": "V2_2", "param2": "0"}, errno.EINVAL),
    ({"error_type": "V2_2", "param1": "0"}, errno.EINVAL),
    ({"error_type": "V2_2", "param1": "0x82590000"}, errno.EADDRINUSE),
    ({"error_type": "V2_8"}, errno.EINVAL),  # a type of the other kind passes the first check and not the last
    ({"error_type": "V2_2", "flags": "0x10"}, errno.EINVAL),
]


@pytest.mark.parametrize(("knobs", "code"), V2_CHECKS)
def test_einjv2_is_checked(tmp_path: Path, knobs: dict[str, str], code: int) -> None:
    machine = Machine(tmp_path, einj=ALL_OF_IT)
    assert machine.inject(**knobs) == code
    assert bool(machine.firmware.injections) is (code == OK)


@pytest.mark.parametrize("kind", ["1", "2", "4"])
def test_a_v1_type_without_the_prefix_is_not_one_of_v2(tmp_path: Path, kind: str) -> None:
    """The same numbers are other errors."""
    machine = Machine(tmp_path, einj=ALL_OF_IT)
    assert machine.inject(error_type=kind, flags="0") == OK
    assert not machine.firmware.injections[-1].request.is_v2
    assert not machine.physical.poison_granules


def test_einjv2_names_components(tmp_path: Path) -> None:
    machine = Machine(tmp_path, einj=ALL_OF_IT)
    assert machine.write("component_id0", FIRST) == OK
    assert machine.write("component_syndrome0", "ff\n") == OK
    assert machine.write("component_id2", "\n") == OK
    assert machine.inject(error_type="V2_2", param3="3", param4="4") == OK
    request = machine.firmware.injections[-1].request
    assert (request.type, request.flags, request.address, request.apicid, request.sbdf) == (2, 0xA, TARGET, 0, 0)
    assert request.components == (
        Component(bytes(range(15, -1, -1)), b"\xff".ljust(16, b"\0")),
        Component(bytes(16), bytes(16)),
    )
    assert machine.read("flags") == b"0x0000000a\n"
    assert machine.physical.poison_granules == (TARGET // 64 * 64,)


def test_the_list_of_components_ends_where_an_id_is_all_ones(tmp_path: Path) -> None:
    machine = Machine(tmp_path, einj=ALL_OF_IT)
    assert machine.write("component_id0", "\n") == OK
    assert machine.inject(error_type="V2_4", flags="0") == OK
    assert machine.firmware.injections[-1].request.components == ()


def test_an_older_kernel_knows_no_einjv2(tmp_path: Path) -> None:
    machine = Machine(tmp_path, OLD, ALL_OF_IT)
    assert machine.write("error_type", "V2_2") == errno.EINVAL
    assert b"V2_" not in machine.read("available_error_type")
    assert "component_id0" not in machine.host.listdir(EINJ)
    assert machine.inject(flags="0xa") == errno.EINVAL


# vendor_flags, what else is set: the request, or the errno on 7.3 and on 6.12
VENDOR_REQUESTS: list[tuple[str, dict[str, str], Request | int, Request | int]] = [
    ("0", {"param2": "0"}, Request(0x8000_0000), Request(0x8000_0000)),
    ("1", {"param1": "7", "param2": "0"}, Request(0x8000_0000, 1, apicid=7), Request(0x8000_0000, 1, apicid=7)),
    ("4", {"param1": "7", "param2": "0"}, Request(0x8000_0000, 4, sbdf=7), Request(0x8000_0000, 4, sbdf=7)),
    (
        "2",
        {"param2": "0xfffffffffffff000"},
        Request(0x8000_0000, 2, TARGET, 0xFFFF_FFFF_FFFF_F000),
        Request(0x8000_0000, 2, TARGET, 0xFFFF_FFFF_FFFF_F000),
    ),
    ("2", {"param2": "0"}, errno.EINVAL, errno.EINVAL),
    ("6", {"param2": "0"}, errno.EINVAL, Request(0x8000_0000, 6)),
    ("0x100", {"param2": "0"}, Request(0x8000_0000, 0x100), Request(0x8000_0000, 0x100)),
]


@pytest.mark.parametrize(("flags", "knobs", "new", "old"), VENDOR_REQUESTS)
def test_vendor_flags_say_what_param1_means(
    tmp_path: Path, flags: str, knobs: dict[str, str], new: Request | int, old: Request | int
) -> None:
    for kernel, expected in ((NEW, new), (OLD, old)):
        root = tmp_path / kernel.release
        root.mkdir()
        machine = Machine(root, kernel, ALL_OF_IT)
        assert machine.write("vendor_flags", flags) == OK
        code = machine.inject(error_type="0x80000000", **knobs)
        assert (code or machine.firmware.injections[-1].request) == expected, kernel.release
        assert not machine.physical.poison_granules, "what a vendor's error does is not known"


# Outcomes of a firmware


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(EinjOutcome.FAILED, errno.EBUSY), (EinjOutcome.INVALID, errno.EINVAL), (EinjOutcome.TIMEOUT, errno.EIO)],
)
def test_a_firmware_that_always_fails(tmp_path: Path, outcome: EinjOutcome, code: int) -> None:
    machine = Machine(tmp_path, einj=Einj(outcome=outcome))
    for _ in range(2):
        assert machine.inject() == code
    assert not machine.firmware.injections


@pytest.mark.parametrize("notrigger", ["0", "1"])
def test_a_firmware_that_does_not_honour_notrigger(tmp_path: Path, notrigger: str) -> None:
    machine = Machine(tmp_path, einj=Einj(outcome=EinjOutcome.REPORTED))
    assert machine.inject(notrigger=notrigger) == OK
    assert machine.physical.is_offline(TARGET)
    assert machine.physical.poisoned(TARGET, 1)
    assert len(machine.firmware.injections) == 1
