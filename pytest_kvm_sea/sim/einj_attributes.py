# SPDX-License-Identifier: GPL-2.0-only
"""EINJ's files when they are open: what each takes in one write(2), refuses with which errno, and reads back.

Sources: drivers/acpi/apei/einj-core.c; fs/libfs.c simple_attr and simple_write_to_buffer; fs/debugfs/file.c.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.sim.einj_layout import COMPONENT_BYTES, DIRECTORY, WIDTHS, component_line, hexadecimal
from pytest_kvm_sea.sim.files import SimFile, fail
from pytest_kvm_sea.sim.kernel_text import kstrtoull

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.einj import Driver

_TEXT_SIZE = 32
_ATTRIBUTE_SIZE = 24
_COMPONENT_LINE = 2 + 2 * COMPONENT_BYTES + 2
_COMPONENT = re.compile(r"component_(id|syndrome)\d+")
_PAIR = re.compile(rb"[0-9a-fA-F]{2}|[-+][0-9a-fA-F]|[0-9a-fA-F][\n\0]")
"""What kstrtol reads in base 16, of two characters."""


@cache
def opener(path: str, *, knows_v2: bool) -> Callable[[str, int, Driver], SimFile]:
    """What opens one of the files of `einj_layout.files`, of a driver that knows EINJv2 or does not."""
    name = path.removeprefix(f"{DIRECTORY}/")
    if name in WIDTHS:
        return _Knob
    if name == "error_inject":
        return _ErrorInject
    if name == "error_type":
        return _RawErrorType if knows_v2 else _NumericErrorType
    if name == "oem_error":
        return _Blob
    if _COMPONENT.fullmatch(name):
        return _Component
    return _ReadOnly


class _DriverFile(SimFile):
    def __init__(self, path: str, flags: int, driver: Driver) -> None:
        super().__init__(path, flags)
        self._driver = driver
        self._name = path.rpartition("/")[2]


class _ReadOnly(_DriverFile):
    """available_error_type and whatever else the driver made once and for all."""

    def read_at(self, size: int, offset: int) -> bytes:
        return self._driver.tree.read(self.path)[offset : offset + size]


class _Attribute(_DriverFile):
    """A debugfs attribute: a number in, a line out, and no positions."""

    seekable = False
    _text = b""

    def write_at(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        try:
            value = kstrtoull(data[: _ATTRIBUTE_SIZE - 1])
            self._set(value)
        except OSError as error:
            fail(error.errno or errno.EINVAL, self.path)
        return len(data)

    def read_at(self, size: int, offset: int) -> bytes:
        """The value is looked at where reading begins, and read on in what was shown then (simple_attr_read)."""
        if not offset:
            self._text = self._get()
        return self._text[offset : offset + size]

    def _set(self, value: int) -> None:
        raise NotImplementedError

    def _get(self) -> bytes:
        raise NotImplementedError


class _Knob(_Attribute):
    """flags, notrigger, vendor_flags (x32) and param1 to param4 (x64): stored unchecked, cut to their width."""

    def _set(self, value: int) -> None:
        self._driver.store(self._name, value)

    def _get(self) -> bytes:
        return hexadecimal(self._driver.value(self._name), WIDTHS[self._name])


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


class _Component(_DriverFile):
    """component_idN and component_syndromeN: a line of up to 32 hexadecimal digits, most significant first."""

    def write_at(self, data: bytes, offset: int) -> int:
        """A whole line in one write, at the start of the file. An empty line ends the list of components."""
        if offset:
            fail(errno.EINVAL, self.path)
        line = data[:_COMPONENT_LINE]
        value = b"\xff" * COMPONENT_BYTES if line == b"\n" else _parse_component(line)
        if value is None:
            fail(errno.EINVAL, self.path)
        with self._driver.tree.locked():
            self._driver.tree.write(self.path, component_line(value))
        self._position += len(line)
        return len(line)

    def read_at(self, size: int, offset: int) -> bytes:
        return self._driver.tree.read(self.path)[offset : offset + size]


def _parse_component(line: bytes) -> bytes | None:
    """Pairs of digits from the end of the line, the first byte first, and zeros above. None: EINVAL."""
    if not line.endswith(b"\n"):
        return None
    digits = line[2:-1] if line[:2] in {b"0x", b"0X"} else line[:-1]
    if not digits:
        return None  # the driver takes the x for a digit
    value = bytearray()
    for end in range(len(digits), max(0, len(digits) - 2 * COMPONENT_BYTES), -2):
        pair = digits[max(0, end - 2) : end].rjust(2, b"0")
        if not _PAIR.fullmatch(pair):
            return None
        value.append(int(pair.rstrip(b"\n\0"), 16) & 0xFF)
    return bytes(value).ljust(COMPONENT_BYTES, b"\0")


class _Blob(_DriverFile):
    """oem_error: bytes at their positions, and never more of them."""

    def write_at(self, data: bytes, offset: int) -> int:
        with self._driver.tree.locked():
            content = self._driver.tree.read(self.path)
            taken = data[: max(0, len(content) - offset)]
            if taken:
                content = content[:offset] + taken + content[offset + len(taken) :]
                self._driver.tree.write(self.path, content)
        self._position += len(taken)
        return len(taken)

    def read_at(self, size: int, offset: int) -> bytes:
        return self._driver.tree.read(self.path)[offset : offset + size]
