# SPDX-License-Identifier: GPL-2.0-only
"""The files of EINJ: what each takes, what it refuses with which errno, and what it reads back, by kernel release."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.platforms.model import GIB, Einj, Hugepages, Kernel, Platform
from pytest_kvm_sea.platforms.model import Firmware as FirmwareModel
from pytest_kvm_sea.sim.filesystem import Filesystem
from pytest_kvm_sea.sim.firmware import Firmware
from pytest_kvm_sea.sim.physical import PhysicalMemory
from pytest_kvm_sea.sim.process import Process

EINJ = "/sys/kernel/debug/apei/einj"
NEW, OLD = Kernel(), Kernel(release="6.12.48+deb13-arm64", einj_v2=False, einj_any_memory=False)
KERNELS = [pytest.param(NEW, id="7.3"), pytest.param(OLD, id="6.12")]
BASE = Platform("test", "a host", memory=GIB, hugepages=Hugepages(free_2m=0, free_1g=0))
OK = 0


class Files:
    """The EINJ directory of a host of some release."""

    def __init__(self, root: Path, kernel: Kernel = NEW, einj: Einj | None = None) -> None:
        platform = replace(BASE, kernel=kernel, firmware=FirmwareModel(einj=Einj() if einj is None else einj))
        physical = PhysicalMemory(4096, GIB)
        process = Process(physical, 4096, platform.hugepages)
        firmware = Firmware(platform, physical, process)
        self.host = Filesystem(platform, process, physical, firmware, lambda: root)

    def write(self, name: str, text: bytes) -> int:
        """The errno, 0 for success, of a write that takes all or nothing."""
        file = self.host.open(f"{EINJ}/{name}", os.O_WRONLY)
        try:
            assert file.write(text) == len(text)
        except OSError as error:
            return error.errno or -1
        finally:
            file.close()
        return OK

    def read(self, name: str) -> bytes:
        return self.host.open(f"{EINJ}/{name}", os.O_RDONLY).read()


@pytest.fixture
def new(tmp_path: Path) -> Files:
    return Files(tmp_path, NEW)


@pytest.mark.parametrize("kernel", KERNELS)
def test_how_the_files_look_before_anybody_wrote(tmp_path: Path, kernel: Kernel) -> None:
    files = Files(tmp_path, kernel)
    assert files.read("available_error_type") == (
        b"0x00000008\tMemory Correctable\n"
        b"0x00000010\tMemory Uncorrectable non-fatal\n"
        b"0x00000020\tMemory Uncorrectable fatal\n"
    )
    assert files.read("error_type") == (b"" if kernel == NEW else b"0x0\n")
    assert files.read("flags") == files.read("notrigger") == b"0x00000000\n"
    for name in ("param1", "param2", "param3", "param4"):
        assert files.read(name) == b"0x0000000000000000\n"


def test_every_type_has_the_kernels_name(tmp_path: Path) -> None:
    bits = tuple(1 << bit for bit in (*range(12), 12, 30, 31))
    files = Files(tmp_path, einj=Einj(error_types=bits))
    assert files.read("available_error_type").decode().splitlines() == [
        "0x00000001\tProcessor Correctable",
        "0x00000002\tProcessor Uncorrectable non-fatal",
        "0x00000004\tProcessor Uncorrectable fatal",
        "0x00000008\tMemory Correctable",
        "0x00000010\tMemory Uncorrectable non-fatal",
        "0x00000020\tMemory Uncorrectable fatal",
        "0x00000040\tPCI Express Correctable",
        "0x00000080\tPCI Express Uncorrectable non-fatal",
        "0x00000100\tPCI Express Uncorrectable fatal",
        "0x00000200\tPlatform Correctable",
        "0x00000400\tPlatform Uncorrectable non-fatal",
        "0x00000800\tPlatform Uncorrectable fatal",
        "0x80000000\tVendor Defined Error Types",
    ]


# text written: errno, value of an x32 file, value of an x64 file
NUMBERS = [
    (b"2", OK, 2, 2),
    (b"2\n", OK, 2, 2),
    (b"+2", OK, 2, 2),
    (b"0x10", OK, 0x10, 0x10),
    (b"0X1F", OK, 0x1F, 0x1F),
    (b"010", OK, 8, 8),
    (b"0", OK, 0, 0),
    (b"1\0rest", OK, 1, 1),
    (b"0x1234567890", OK, 0x34567890, 0x1234567890),
    (b"18446744073709551615", OK, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF),
    (b"18446744073709551616", errno.ERANGE, None, None),
    (b"0x10000000000000000", errno.ERANGE, None, None),
    (b"0" * 22 + b"7", OK, 7, 7),
    (b"0" * 22 + b"17", OK, 1, 1),  # 23 bytes are looked at
    (b"0x000000000000000000012", OK, 0x12, 0x12),
    (b"1" + b" " * 22, errno.EINVAL, None, None),
    (b"1\n" + b" " * 40, errno.EINVAL, None, None),
    (b"", errno.EINVAL, None, None),
    (b"\n", errno.EINVAL, None, None),
    (b"-1", errno.EINVAL, None, None),
    (b" 2", errno.EINVAL, None, None),
    (b"2 ", errno.EINVAL, None, None),
    (b"2\n\n", errno.EINVAL, None, None),
    (b"08", errno.EINVAL, None, None),
    (b"0x", errno.EINVAL, None, None),
    (b"ff", errno.EINVAL, None, None),
    (b"1_0", errno.EINVAL, None, None),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("text", "code", "x32", "x64"), NUMBERS)
def test_numbers(tmp_path: Path, kernel: Kernel, text: bytes, code: int, x32: int | None, x64: int | None) -> None:
    files = Files(tmp_path, kernel)
    for name, width, value in (("notrigger", 8, x32), ("flags", 8, x32), ("param1", 16, x64), ("param4", 16, x64)):
        assert files.write(name, b"0x5") == OK
        assert files.write(name, text) == code
        stored = 5 if value is None else value
        assert files.read(name) == f"0x{stored:0{width}x}\n".encode()


@settings(max_examples=20)
@given(value=st.integers(0, (1 << 64) - 1))
def test_what_a_file_reads_back_can_be_written_again(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    files = Files(tmp_path_factory.mktemp("einj"))
    assert files.write("param2", str(value).encode()) == OK
    text = files.read("param2")
    assert files.write("param2", text) == OK
    assert files.read("param2") == text == b"0x%016x\n" % value


# error_type

# text written: errno, type in force afterwards (0x20 was before); it reads back what was written
RAW = [
    (b"0x10", OK, 0x10),
    (b"10", OK, 0x10),
    (b"10\n", OK, 0x10),
    (b" \t0x10", OK, 0x10),
    (b"0X10 and more", OK, 0x10),
    (b"0x10000000000000010", OK, 0x10),  # the scan wraps at 64 bits
    (b"0x80000000", OK, 0x80000000),
    (b"0x80000010", OK, 0x80000010),
    (b"16", errno.EINVAL, 0x20),
    (b"0x18", errno.EINVAL, 0x20),
    (b"0x80000018", errno.EINVAL, 0x20),
    (b"0x40", errno.EINVAL, 0x20),
    (b"0x100000010", errno.EINVAL, 0x20),
    (b"0", errno.EINVAL, 0x20),
    (b"0x", errno.EINVAL, 0x20),
    (b"", errno.EINVAL, 0x20),
    (b"-10", errno.EINVAL, 0x20),
    (b"rubbish", errno.EINVAL, 0x20),
    (b"V2_", errno.EINVAL, 0x20),
    (b"V2_0x2", errno.EINVAL, 0x20),
    (b"v2_0x10", errno.EINVAL, 0x20),
    (b"0x10" + b" " * 27, OK, 0x10),
]


def accepted(files: Files) -> int:
    """The error type in force, as the firmware would get it."""
    return files.host._driver.accepted()[0]


@pytest.mark.parametrize(("text", "code", "value"), RAW)
def test_error_type_since_6_17_reads_back_what_was_written(new: Files, text: bytes, code: int, value: int) -> None:
    assert new.write("error_type", b"0x20") == OK
    assert new.write("error_type", text) == code
    assert new.read("error_type") == text
    assert accepted(new) == value


def test_error_type_since_6_17_takes_31_bytes(new: Files) -> None:
    assert new.write("error_type", b"0x20") == OK
    assert new.write("error_type", b"0x10" + b" " * 28) == errno.EINVAL
    assert new.read("error_type") == b"0x20"
    assert accepted(new) == 0x20


def test_error_type_since_6_17_is_text_up_to_nul(new: Files) -> None:
    assert new.write("error_type", b"0x10\0rest") == OK
    assert new.read("error_type") == b"0x10"


def test_a_refused_type_leaves_the_older_one_in_force_over_many(new: Files) -> None:
    for text, code in [(b"0x10", OK), (b"0x40", errno.EINVAL), (b"x", errno.EINVAL), (b"0x3", errno.EINVAL)]:
        assert new.write("error_type", text) == code
        assert accepted(new) == 0x10
    assert new.write("error_type", b"8") == OK
    assert accepted(new) == 8


# text written: errno, what is read back (0x20 was before)
NUMERIC = [
    (b"0x10", OK, b"0x10\n"),
    (b"16", OK, b"0x10\n"),
    (b"020", OK, b"0x10\n"),
    (b"0x80000000", OK, b"0x80000000\n"),
    (b"10", errno.EINVAL, b"0x20\n"),
    (b"0x18", errno.EINVAL, b"0x20\n"),
    (b"0x40", errno.EINVAL, b"0x20\n"),
    (b"0x100000010", errno.EINVAL, b"0x20\n"),
    (b"0", errno.EINVAL, b"0x20\n"),
    (b"", errno.EINVAL, b"0x20\n"),
    (b" 0x10", errno.EINVAL, b"0x20\n"),
    (b"rubbish", errno.EINVAL, b"0x20\n"),
    (b"V2_0x10", errno.EINVAL, b"0x20\n"),
    (b"0x10000000000000010", errno.ERANGE, b"0x20\n"),
]


@pytest.mark.parametrize(("text", "code", "back"), NUMERIC)
def test_error_type_before_6_17_is_a_number(tmp_path: Path, text: bytes, code: int, back: bytes) -> None:
    files = Files(tmp_path, OLD)
    assert files.write("error_type", b"0x20") == OK
    assert files.write("error_type", text) == code
    assert files.read("error_type") == back


# Positions


@pytest.mark.parametrize(
    ("kernel", "name", "seekable"),
    [
        (NEW, "available_error_type", True),
        (NEW, "error_type", True),
        (OLD, "error_type", False),
        (NEW, "flags", False),
        (NEW, "param1", False),
        (NEW, "error_inject", False),
    ],
)
def test_attributes_have_no_positions(tmp_path: Path, kernel: Kernel, name: str, seekable: bool) -> None:
    file = Files(tmp_path, kernel).host.open(f"{EINJ}/{name}", os.O_RDWR)
    if seekable:
        file.pread(4, 0)
        return
    with pytest.raises(OSError, match="Illegal seek") as refused:
        file.pread(4, 0)
    assert refused.value.errno == errno.ESPIPE


def test_an_attribute_ends_after_one_line(new: Files) -> None:
    file = new.host.open(f"{EINJ}/param1", os.O_RDONLY)
    assert file.read(5) + file.read(100) == b"0x0000000000000000\n"
    assert file.read(1) == b""


def test_error_inject_has_nothing_to_read(new: Files) -> None:
    with pytest.raises(PermissionError) as refused:
        new.host.open(f"{EINJ}/error_inject", os.O_RDONLY).read()
    assert refused.value.errno == errno.EACCES


def test_the_list_of_types_cannot_be_written(new: Files) -> None:
    assert new.write("available_error_type", b"0x10") == errno.EINVAL


# EINJv2 and vendor extensions

ALL_OF_IT = Einj(
    error_types=(0x8, 0x10, 0x1000, 0x20000),
    v2_error_types=(1, 2, 4),
    v2_components=2,
    vendor="0:3:0.0 vendor_id=1d0f device_id=10 rev_id=2",
    oem_error=16,
)
BLANK = b"0" * 32 + b"\n"


@pytest.mark.parametrize("kernel", KERNELS)
def test_how_the_other_files_look_before_anybody_wrote(tmp_path: Path, kernel: Kernel) -> None:
    files = Files(tmp_path, kernel, ALL_OF_IT)
    assert files.read("vendor") == b"0:3:0.0 vendor_id=1d0f device_id=10 rev_id=2\n"
    assert files.read("vendor_flags") == b"0x00000000\n"
    assert files.read("oem_error") == bytes(16)
    listed = files.read("available_error_type")
    v2 = b"V2_0x00000001\tEINJV2 Processor Error\nV2_0x00000002\tEINJV2 Memory Error\n"
    v2 += b"V2_0x00000004\tEINJV2 PCI Express Error\n"
    assert listed.endswith(v2) == (kernel == NEW)
    assert b"CXL" not in listed
    assert files.host.open("/sys/kernel/debug/cxl/einj_types", os.O_RDONLY).read() == (
        b"0x00001000\tCXL.cache Protocol Correctable\n0x00020000\tCXL.mem Protocol Uncorrectable fatal\n"
    )
    components = {name for name in files.host.listdir(EINJ) if name.startswith("component_")}
    named = {f"component_{what}{number}" for what in ("id", "syndrome") for number in (0, 1)}
    assert components == (named if kernel == NEW else set())
    if kernel == NEW:
        assert files.read("component_id1") == BLANK


# a line: errno, what the file reads afterwards (it read 5)
COMPONENTS = [
    (b"0x0\n", OK, b"0" * 32),
    (b"1\n", OK, b"1".rjust(32, b"0")),
    (b"0xabc\n", OK, b"abc".rjust(32, b"0")),
    (b"ABC\n", OK, b"abc".rjust(32, b"0")),
    (b"0X" + b"9" * 32 + b"\n", OK, b"9" * 32),
    (b"1" + b"9" * 32 + b"\n", OK, b"9" * 32),  # digits beyond 128 bits are not looked at
    (b"\n", OK, b"f" * 32),
    (b"-1\n", OK, b"ff".rjust(32, b"0")),  # kstrtol takes a sign, in any pair
    (b"12\n\n", OK, b"102".rjust(32, b"0")),  # and a newline
    (b"1", errno.EINVAL, b"5".rjust(32, b"0")),
    (b"", errno.EINVAL, b"5".rjust(32, b"0")),
    (b"0x\n", errno.EINVAL, b"5".rjust(32, b"0")),
    (b"xyz\n", errno.EINVAL, b"5".rjust(32, b"0")),
    (b"1 2\n", errno.EINVAL, b"5".rjust(32, b"0")),
    (b"0x" + b"9" * 34 + b"\n", errno.EINVAL, b"5".rjust(32, b"0")),
]


@pytest.mark.parametrize(("line", "code", "back"), COMPONENTS)
def test_components(tmp_path: Path, line: bytes, code: int, back: bytes) -> None:
    files = Files(tmp_path, einj=ALL_OF_IT)
    for name in ("component_id0", "component_syndrome1"):
        assert files.write(name, b"5\n") == OK
        assert files.write(name, line) == code
        assert files.read(name) == back + b"\n"


def test_a_component_is_one_write_at_the_start_of_the_file(tmp_path: Path) -> None:
    file = Files(tmp_path, einj=ALL_OF_IT).host.open(f"{EINJ}/component_id0", os.O_RDWR)
    with pytest.raises(OSError, match="Invalid argument"):
        file.write(b"1")
    assert file.write(b"1\n") == 2
    with pytest.raises(OSError, match="Invalid argument"):
        file.write(b"2\n")
    assert file.pread(33, 0) == b"1".rjust(32, b"0") + b"\n"
    assert file.pread(8, 28) == b"0001\n"


@settings(max_examples=20)
@given(value=st.integers(0, (1 << 128) - 1))
def test_a_component_reads_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    files = Files(tmp_path_factory.mktemp("einj"), einj=ALL_OF_IT)
    assert files.write("component_syndrome0", b"%#x\n" % value) == OK
    assert files.read("component_syndrome0") == b"%032x\n" % value


def test_the_vendors_structure_is_bytes_at_their_places(tmp_path: Path) -> None:
    file = Files(tmp_path, einj=ALL_OF_IT).host.open(f"{EINJ}/oem_error", os.O_RDWR)
    assert (file.write(b"abcd"), file.write(b"e" * 20), file.write(b"f")) == (4, 12, 0)
    assert file.pread(100, 0) == b"abcd" + b"e" * 12
    assert file.pread(2, 3) == b"de"


@pytest.mark.parametrize("name", ["vendor", "available_error_type"])
def test_what_cannot_be_written(tmp_path: Path, name: str) -> None:
    assert Files(tmp_path, einj=ALL_OF_IT).write(name, b"1") == errno.EINVAL
