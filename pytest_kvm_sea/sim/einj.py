# SPDX-License-Identifier: GPL-2.0-only
"""The EINJ driver: its state, its checks and their errno, and the request that it makes of them to the firmware.

drivers/acpi/apei/einj-core.c. Writing a parameter only stores it; what does not fit together is found by the write to
error_inject. All state is in the files, global to the host, and persists.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pytest_kvm_sea.sim import einj_attributes
from pytest_kvm_sea.sim.einj_layout import (
    COMPONENT_BYTES,
    DIRECTORY,
    VENDOR,
    WIDTHS,
    available,
    component_value,
    hexadecimal,
)
from pytest_kvm_sea.sim.files import SimFile, fail
from pytest_kvm_sea.sim.firmware import (
    FLAG_APICID,
    FLAG_EINJV2,
    FLAG_MEMORY,
    FLAG_SBDF,
    V2_MEMORY,
    Component,
    Firmware,
    Request,
    Status,
)
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.sim.kernel_text import U64_MAX, c_string, kstrtoull, sscanf_hex
from pytest_kvm_sea.sim.memory_map import Kind

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Platform
    from pytest_kvm_sea.sim.debugfs import Tree
    from pytest_kvm_sea.sim.lazy_tree import LazyTree
    from pytest_kvm_sea.sim.physical import PhysicalMemory

_PROCESSOR, _MEMORY, _PCIE, _CXL = 0x007, 0x038, 0x1C0, 0x3F000
_RAM = frozenset({Kind.SYSTEM_RAM, Kind.PERSISTENT_MEMORY, Kind.SOFT_RESERVED})
_NOT_MMIO = frozenset(Kind) - {Kind.NONE}
_FLAGS = FLAG_APICID | FLAG_MEMORY | FLAG_SBDF
_END_OF_LIST = b"\xff" * COMPONENT_BYTES
_NOTE = "error_type"
_ACCEPTED = struct.Struct("<Q?")
_FIRMWARE_ERRNO = {Status.FAILED: errno.EBUSY, Status.INVALID: errno.EINVAL, Status.TIMEOUT: errno.EIO}


class Driver:
    """einj.ko of one host."""

    def __init__(self, platform: Platform, physical: PhysicalMemory, firmware: Firmware, tree: Tree | LazyTree) -> None:
        kernel = platform.kernel
        self._einj = platform.firmware.einj
        self._page_size = kernel.page_size
        self._physical = physical
        self._firmware = firmware
        self.tree = tree
        self.knows_v2 = kernel.einj_v2
        """EINJv2, and error_type as a text (6.17)."""
        self._flags = _FLAGS | (FLAG_EINJV2 if kernel.einj_v2 else 0)
        self._targets = _NOT_MMIO if kernel.einj_any_memory else _RAM
        self._available = available(self._einj)
        self._available_v2 = sum(set(self._einj.v2_error_types)) if kernel.einj_v2 else 0

    def open(self, path: str, flags: int) -> SimFile:
        """Open one of the files of `einj_layout.files`."""
        return einj_attributes.opener(path, knows_v2=self.knows_v2)(path, flags, self)

    # State, which is in the files

    def value(self, name: str) -> int:
        """The number in a file; 0 where there is no such file, or a text that the kernel would not have stored."""
        path = f"{DIRECTORY}/{name}"
        if self.tree.mode(path) is None:
            return 0
        try:
            return kstrtoull(self.tree.read(path)) & ((1 << WIDTHS[name]) - 1)
        except OSError:
            return 0

    def store(self, name: str, value: int) -> None:
        with self.tree.locked():
            width = WIDTHS[name]
            self.tree.write(f"{DIRECTORY}/{name}", hexadecimal(value & ((1 << width) - 1), width))

    def error_type_text(self) -> bytes:
        return c_string(self.tree.read(f"{DIRECTORY}/error_type"))

    def accepted(self) -> tuple[int, bool]:
        """The error type in force and whether it is an EINJv2 one; a refused text that is read back does not count."""
        text = self.error_type_text()
        if self.knows_v2:
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
        note = self.tree.note(_NOTE)
        return _ACCEPTED.unpack(note) if note is not None else (0, False)

    def set_raw_error_type(self, text: bytes) -> None:
        """error_type_set since 6.17: the text stays even where it is refused (EINVAL), and so does the switch to V2."""
        with self.tree.locked():
            value, v2 = self.accepted()
            number, is_v2 = _parse_raw(text)
            valid = number is not None and self._valid(number)
            note = None if valid else _ACCEPTED.pack(value, v2 if number is None else is_v2)
            self.tree.write_note(_NOTE, note)
            self.tree.write(f"{DIRECTORY}/error_type", c_string(text))
        if not valid:
            fail(errno.EINVAL)

    def set_error_type(self, value: int) -> None:
        """error_type_set before 6.17: only what is accepted is stored."""
        if not self._valid(value):
            fail(errno.EINVAL)
        with self.tree.locked():
            self.tree.write(f"{DIRECTORY}/error_type", b"0x%x\n" % value)

    def _valid(self, number: int) -> bool:
        """einj_validate_error_type: 32 bits, one of them at most besides the vendor bit, and available in either."""
        single = number & (VENDOR - 1)
        if number >> 32 or single & (single - 1):
            return False
        return bool(number & VENDOR or number & (self._available | self._available_v2))

    # Injection

    def inject(self) -> None:
        """What a write to error_inject does. OSError with the errno of the kernel's check that fails."""
        with self.tree.locked():
            error_type, v2 = self.accepted()
            if not error_type:
                fail(errno.EINVAL)
            flags = self.value("flags")
            if self.knows_v2:
                flags = flags | FLAG_EINJV2 if v2 else flags & ~FLAG_EINJV2
                if self._einj.parameters:
                    self.tree.write(f"{DIRECTORY}/flags", hexadecimal(flags, 32))
            self._check(error_type, flags, v2=v2)
            self._execute(self._request(error_type, flags, v2=v2))

    def _check(self, error_type: int, flags: int, *, v2: bool) -> None:
        if flags & ~self._flags:
            fail(errno.EINVAL)
        if error_type & _CXL and not error_type & VENDOR and flags & FLAG_MEMORY:
            fail(errno.EINVAL)
        if v2 and not error_type & self._available_v2:
            fail(errno.EINVAL)
        if self._einj.parameters and self._hits_memory(error_type, flags):
            self._check_target(self.value("param1"), self.value("param2"))

    def _hits_memory(self, error_type: int, flags: int) -> bool:
        if flags & FLAG_EINJV2:
            return bool(error_type & V2_MEMORY)
        if error_type & VENDOR:
            vendor = self.value("vendor_flags")
            return bool(vendor & FLAG_MEMORY) if self.knows_v2 else vendor == FLAG_MEMORY
        return bool(error_type & _MEMORY or flags & FLAG_MEMORY)

    def _check_target(self, address: int, mask: int) -> None:
        """A mask that leaves the firmware no more than a page, in memory, and not the page of zeros."""
        page_mask = U64_MAX & -self._page_size
        if mask & page_mask != page_mask:
            fail(errno.EINVAL)
        base = address & mask
        size = (~mask & U64_MAX) + 1
        if not self._physical.map.kinds(base, base + size) & self._targets:
            fail(errno.EINVAL)
        if base // self._page_size == self._physical.zero_page // self._page_size:
            fail(errno.EADDRINUSE)

    def _request(self, error_type: int, flags: int, *, v2: bool) -> Request:
        """What goes into SET_ERROR_TYPE_WITH_ADDRESS."""
        if not self._einj.parameters:
            return Request(error_type)
        if error_type & VENDOR:
            return self._with_param1(error_type, self.value("vendor_flags"))
        param1, param2 = self.value("param1"), self.value("param2")
        if flags and v2:
            return Request(error_type, flags, param1, param2, components=self._components())
        if flags:
            return Request(error_type, flags, param1, param2, self.value("param3"), self.value("param4"))
        # Before ACPI 5.0 there were no flags: the type says what param1 means.
        meanings = {_PROCESSOR: FLAG_APICID, _MEMORY: FLAG_MEMORY, _PCIE: FLAG_SBDF}
        return self._with_param1(error_type, next((flag for mask, flag in meanings.items() if error_type & mask), 0))

    def _with_param1(self, error_type: int, flags: int) -> Request:
        """One of the three meanings of param1; flags of any other value are passed on, and nothing else."""
        param1 = self.value("param1")
        if flags == FLAG_APICID:
            return Request(error_type, flags, apicid=param1)
        if flags == FLAG_MEMORY:
            return Request(error_type, flags, param1, self.value("param2"))
        if flags == FLAG_SBDF:
            return Request(error_type, flags, sbdf=param1)
        return Request(error_type, flags)

    def _components(self) -> tuple[Component, ...]:
        """Up to the first one whose id is all ones."""
        found = []
        for number in range(self._einj.v2_components):
            identifier = self._component(f"component_id{number}")
            if identifier == _END_OF_LIST:
                break
            found.append(Component(identifier, self._component(f"component_syndrome{number}")))
        return tuple(found)

    def _component(self, name: str) -> bytes:
        try:
            return component_value(self.tree.read(f"{DIRECTORY}/{name}"))
        except ValueError:
            return bytes(COMPONENT_BYTES)

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
