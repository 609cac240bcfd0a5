# SPDX-License-Identifier: GPL-2.0-only
"""The EINJ driver's files in debugfs: formats, checks and errno of drivers/acpi/apei/einj-core.c.

Writing a parameter only stores it; what does not fit together is found by the write to error_inject. All state is
global to the host and persists. Vendor extensions and EINJv2 components are not modelled, their absence is.
"""

from __future__ import annotations

import errno
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.sim.debugfs import Entry, Tree
from pytest_kvm_sea.sim.files import SimFile, TextFile, fail
from pytest_kvm_sea.sim.firmware import (
    FLAG_APICID,
    FLAG_EINJV2,
    FLAG_MEMORY,
    FLAG_SBDF,
    Firmware,
    Request,
    Status,
)
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.kernel_text import U64_MAX, c_string, kstrtoull, sscanf_hex
from pytest_kvm_sea.sim.memory_map import Kind

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.lazy_tree import LazyTree
    from pytest_kvm_sea.sim.physical import PhysicalMemory

DIRECTORY = "/sys/kernel/debug/apei/einj"
VENDOR = 1 << 31
_ERROR_TYPES = {
    1 << 0: "Processor Correctable",
    1 << 1: "Processor Uncorrectable non-fatal",
    1 << 2: "Processor Uncorrectable fatal",
    1 << 3: "Memory Correctable",
    1 << 4: "Memory Uncorrectable non-fatal",
    1 << 5: "Memory Uncorrectable fatal",
    1 << 6: "PCI Express Correctable",
    1 << 7: "PCI Express Uncorrectable non-fatal",
    1 << 8: "PCI Express Uncorrectable fatal",
    1 << 9: "Platform Correctable",
    1 << 10: "Platform Uncorrectable non-fatal",
    1 << 11: "Platform Uncorrectable fatal",
    VENDOR: "Vendor Defined Error Types",
}
_PROCESSOR, _MEMORY, _PCIE, _CXL = 0x007, 0x038, 0x1C0, 0x3F000
_KNOBS = {"flags": 32, "param1": 64, "param2": 64, "param3": 64, "param4": 64, "notrigger": 32}
_TEXT_SIZE = 32
_ATTRIBUTE_SIZE = 24
_NOTE = "error_type"
_ACCEPTED = struct.Struct("<Q?")
_FIRMWARE_ERRNO = {Status.FAILED: errno.EBUSY, Status.INVALID: errno.EINVAL, Status.TIMEOUT: errno.EIO}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What differs between kernel releases."""

    raw_error_type: bool
    """error_type is free text, read as sscanf %llx and read back as written, EINJv2's V2_ included (6.17)."""
    flags: int
    """Bits that may be set in ``flags``."""
    targets: frozenset[Kind]
    """Resources that a memory error may hit."""


_RAM = frozenset({Kind.SYSTEM_RAM, Kind.PERSISTENT_MEMORY, Kind.SOFT_RESERVED})
_NOT_MMIO = frozenset(Kind) - {Kind.NONE}
_FLAGS = FLAG_APICID | FLAG_MEMORY | FLAG_SBDF

# (first release, behaviour), newest first
_RELEASES: tuple[tuple[tuple[int, int], Behaviour], ...] = (
    ((6, 18), Behaviour(raw_error_type=True, flags=_FLAGS | FLAG_EINJV2, targets=_NOT_MMIO)),
    ((6, 17), Behaviour(raw_error_type=True, flags=_FLAGS | FLAG_EINJV2, targets=_RAM)),
    ((0, 0), Behaviour(raw_error_type=False, flags=_FLAGS, targets=_RAM)),
)


def behaviour(release: str) -> Behaviour:
    """How the driver of a kernel release (as uname -r prints it) behaves."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise ValueError(f"{release!r} is not a kernel release: it starts with two numbers, as 7.3.4")
    version = (int(match[1]), int(match[2]))
    return next(behaviour for first, behaviour in _RELEASES if version >= first)


def files(platform: Platform) -> dict[str, Entry]:
    """The driver's files on this platform, by path. None at all without table or module."""
    einj = platform.firmware.einj
    if not (einj.table and einj.module):
        return {}
    raw = behaviour(platform.kernel.release).raw_error_type
    listing = "".join(f"0x{bit:08x}\t{text}\n" for bit, text in _ERROR_TYPES.items() if bit in einj.error_types)
    entries = {
        "available_error_type": Entry(0o400, listing.encode()),
        "error_type": Entry(0o600, b"" if raw else b"0x0\n"),
        "error_inject": Entry(0o200),
    }
    if einj.parameters:
        entries |= {name: Entry(0o600, _hexadecimal(0, width)) for name, width in _KNOBS.items()}
        if not einj.notrigger:
            del entries["notrigger"]
    return {f"{DIRECTORY}/{name}": entry for name, entry in entries.items()}


def _hexadecimal(value: int, width: int) -> bytes:
    return b"0x%0*x\n" % (8 if width == 32 else 16, value)


class Driver:
    """einj.ko of one host."""

    def __init__(self, platform: Platform, physical: PhysicalMemory, firmware: Firmware, tree: Tree | LazyTree) -> None:
        self.behaviour = behaviour(platform.kernel.release)
        self._einj = platform.firmware.einj
        self._page_size = platform.kernel.page_size
        self._physical = physical
        self._firmware = firmware
        self._tree = tree
        self._available = sum(set(self._einj.error_types))

    def open(self, path: str, flags: int) -> SimFile:
        """Open one of the files of `files`."""
        name = path.rpartition("/")[2]
        if name in _KNOBS:
            return _Knob(path, flags, self)
        if name == "error_inject":
            return _ErrorInject(path, flags, self)
        if name == "error_type":
            return (_RawErrorType if self.behaviour.raw_error_type else _NumericErrorType)(path, flags, self)
        return TextFile(path, flags, lambda: self._tree.read(path))

    # State, which is in the files

    def value(self, name: str) -> int:
        """The number in a file; 0 where there is no such file, or a text that the kernel would not have stored."""
        path = f"{DIRECTORY}/{name}"
        if self._tree.mode(path) is None:
            return 0
        try:
            return kstrtoull(self._tree.read(path)) & ((1 << _KNOBS[name]) - 1)
        except OSError:
            return 0

    def store(self, name: str, value: int) -> None:
        with self._tree.locked():
            width = _KNOBS[name]
            self._tree.write(f"{DIRECTORY}/{name}", _hexadecimal(value & ((1 << width) - 1), width))

    def error_type_text(self) -> bytes:
        return c_string(self._tree.read(f"{DIRECTORY}/error_type"))

    def accepted(self) -> tuple[int, bool]:
        """The error type in force and whether it is an EINJv2 one; a refused text that is read back does not count."""
        text = self.error_type_text()
        if self.behaviour.raw_error_type:
            number, v2 = _parse_raw(text)
            if number is not None and self._valid(number):
                return number, v2
        else:
            try:
                number = kstrtoull(text)
            except OSError:
                number = 0
            if self._valid(number):
                return number, False
        note = self._tree.note(_NOTE)
        return _ACCEPTED.unpack(note) if note is not None else (0, False)

    def set_raw_error_type(self, text: bytes) -> None:
        """error_type_set since 6.17: the text stays even where it is refused (EINVAL), and so does the switch to V2."""
        with self._tree.locked():
            value, v2 = self.accepted()
            number, is_v2 = _parse_raw(text)
            valid = number is not None and self._valid(number)
            note = None if valid else _ACCEPTED.pack(value, v2 if number is None else is_v2)
            self._tree.write_note(_NOTE, note)
            self._tree.write(f"{DIRECTORY}/error_type", c_string(text))
        if not valid:
            fail(errno.EINVAL)

    def set_error_type(self, value: int) -> None:
        """error_type_set before 6.17: only what is accepted is stored."""
        if not self._valid(value):
            fail(errno.EINVAL)
        with self._tree.locked():
            self._tree.write(f"{DIRECTORY}/error_type", b"0x%x\n" % value)

    def _valid(self, number: int) -> bool:
        """einj_validate_error_type: 32 bits, one of them at most besides the vendor bit, and available."""
        single = number & (VENDOR - 1)
        if number >> 32 or single & (single - 1):
            return False
        return bool(number & VENDOR or number & self._available)

    # Injection

    def inject(self) -> None:
        """What a write to error_inject does. OSError with the errno of the kernel's check that fails."""
        with self._tree.locked():
            error_type, v2 = self.accepted()
            if not error_type:
                fail(errno.EINVAL)
            flags = self.value("flags")
            if self.behaviour.raw_error_type:
                flags = flags | FLAG_EINJV2 if v2 else flags & ~FLAG_EINJV2
                if self._einj.parameters:
                    self._tree.write(f"{DIRECTORY}/flags", _hexadecimal(flags, 32))
            self._check(error_type, flags, v2=v2)
            self._execute(self._request(error_type, flags))

    def _check(self, error_type: int, flags: int, *, v2: bool) -> None:
        if flags & ~self.behaviour.flags:
            fail(errno.EINVAL)
        if error_type & _CXL and not error_type & VENDOR and flags & FLAG_MEMORY:
            fail(errno.EINVAL)
        if v2:  # no platform here has EINJv2 error types
            fail(errno.EINVAL)
        if self._einj.parameters and self._hits_memory(error_type, flags):
            self._check_target(self.value("param1"), self.value("param2"))

    @staticmethod
    def _hits_memory(error_type: int, flags: int) -> bool:
        if error_type & VENDOR:
            return False  # needs vendor_flags, which come with a vendor extension
        return bool(error_type & _MEMORY or flags & FLAG_MEMORY)

    def _check_target(self, address: int, mask: int) -> None:
        """A mask that leaves the firmware no more than a page, in memory, and not the page of zeros."""
        page_mask = U64_MAX & -self._page_size
        if mask & page_mask != page_mask:
            fail(errno.EINVAL)
        base = address & mask
        size = (~mask & U64_MAX) + 1
        if not self._physical.map.kinds(base, base + size) & self.behaviour.targets:
            fail(errno.EINVAL)
        if base // self._page_size == self._physical.zero_page // self._page_size:
            fail(errno.EADDRINUSE)

    def _request(self, error_type: int, flags: int) -> Request:
        """What goes into SET_ERROR_TYPE_WITH_ADDRESS; without flags the type says what param1 means."""
        if not self._einj.parameters or error_type & VENDOR:
            return Request(error_type)
        param1, param2 = self.value("param1"), self.value("param2")
        if flags:
            return Request(error_type, flags, param1, param2, self.value("param3"), self.value("param4"))
        if error_type & _PROCESSOR:
            return Request(error_type, FLAG_APICID, apicid=param1)
        if error_type & _MEMORY:
            return Request(error_type, FLAG_MEMORY, param1, param2)
        if error_type & _PCIE:
            return Request(error_type, FLAG_SBDF, sbdf=param1)
        return Request(error_type)

    def _execute(self, request: Request) -> None:
        status = self._firmware.execute(request)
        if status is Status.TIMEOUT:
            self._physical.log.add(Level.WARNING, "EINJ: [Firmware Warn]: Firmware does not respond in time")
        if status is not Status.SUCCESS:
            fail(_FIRMWARE_ERRNO[status])
        if not self.value("notrigger"):
            self._firmware.trigger()


def _parse_raw(text: bytes) -> tuple[int | None, bool]:
    v2 = text.startswith(b"V2_")
    return sscanf_hex(text[3:] if v2 else text), v2


class _DriverFile(SimFile):
    def __init__(self, path: str, flags: int, driver: Driver) -> None:
        super().__init__(path, flags)
        self._driver = driver
        self._name = path.rpartition("/")[2]


class _Attribute(_DriverFile):
    """A debugfs attribute (fs/libfs.c simple_attr): a number in, a line out, and no positions."""

    seekable = False

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        try:
            value = kstrtoull(data[: _ATTRIBUTE_SIZE - 1])
            self._set(value)
        except OSError as error:
            fail(error.errno or errno.EINVAL, self.path)
        return len(data)

    def read_at(self, size: int, offset: int) -> bytes:
        return self._get()[offset : offset + size]

    def _set(self, value: int) -> None:
        raise NotImplementedError

    def _get(self) -> bytes:
        raise NotImplementedError


class _Knob(_Attribute):
    """flags, notrigger (x32) and param1 to param4 (x64): stored unchecked, cut to their width."""

    def _set(self, value: int) -> None:
        self._driver.store(self._name, value)

    def _get(self) -> bytes:
        return _hexadecimal(self._driver.value(self._name), _KNOBS[self._name])


class _ErrorInject(_Attribute):
    """error_inject: any number triggers; there is nothing to read."""

    def _set(self, value: int) -> None:  # noqa: ARG002 - the number does not matter
        self._driver.inject()

    def _get(self) -> bytes:
        fail(errno.EACCES, self.path)


class _NumericErrorType(_Attribute):
    """error_type before 6.17."""

    def _set(self, value: int) -> None:
        self._driver.set_error_type(value)

    def _get(self) -> bytes:
        return b"0x%x\n" % self._driver.accepted()[0]


class _RawErrorType(_DriverFile):
    """error_type since 6.17: up to 31 bytes of text, hexadecimal with or without 0x."""

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        if len(data) > _TEXT_SIZE - 1:
            fail(errno.EINVAL, self.path)
        try:
            self._driver.set_raw_error_type(data)
        except OSError as error:
            fail(error.errno or errno.EINVAL, self.path)
        return len(data)

    def read_at(self, size: int, offset: int) -> bytes:
        return self._driver.error_type_text()[offset : offset + size]
