# SPDX-License-Identifier: GPL-2.0-only
"""The data of a guest program: globals, strings, and one ucall structure for each place that makes a ucall.

What is known when a program is built stands in the structure already; the guest stores only what it computes. So a
ucall takes a handful of instructions. A program is for one vCPU.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeAlias

from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.ucall import (
    ARGS,
    ARGS_OFFSET,
    FORMAT_ARGS,
    FORMAT_ARGS_OFFSET,
    FORMAT_OFFSET,
    MAX_STRING,
    STRUCTURE,
)

Field: TypeAlias = int | str | None
"""A number, a string (the field becomes a pointer to it), or None: the guest fills it in."""

_QUAD = struct.Struct("<Q")
_ALIGNMENT = 8
_NO_ARGS = (0,) * ARGS
_NO_FORMAT_ARGS = (0,) * FORMAT_ARGS


class DataSection:
    """Data in the making. Offsets count from its start."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._strings: dict[str, int] = {}
        self._sites: dict[tuple[int, tuple[Field, ...], str | None, tuple[Field, ...]], int] = {}
        self._pointers: list[int] = []

    def __len__(self) -> int:
        return len(self._data)

    def quad(self, value: int) -> int:
        """Add a 64-bit number; its offset."""
        offset = self._aligned()
        self._data += _QUAD.pack(value)
        return offset

    def string(self, text: str) -> int:
        """Add a C string once; its offset. Raises GuestBuildError for what a C string cannot hold."""
        offset = self._strings.get(text)
        if offset is None:
            encoded = text.encode("utf-8", "backslashreplace")
            if b"\0" in encoded or len(encoded) > MAX_STRING:
                shown = text if len(text) <= 40 else text[:40] + "…"
                raise GuestBuildError(f"string {shown!r}: it takes at most {MAX_STRING} bytes without a NUL")
            offset = self._strings[text] = len(self._data)
            self._data += encoded + b"\0"
        return offset

    def ucall(
        self, cmd: int, args: Sequence[Field] = (), fmt: str | None = None, fmt_args: Sequence[Field] = ()
    ) -> int:
        """Add a ucall structure; its offset. Structures that the guest does not change are shared."""
        if len(args) > ARGS or len(fmt_args) > FORMAT_ARGS:
            raise GuestBuildError(
                f"{len(args)} arguments and {len(fmt_args)} of the format; a ucall takes {ARGS} and {FORMAT_ARGS}"
            )
        key = (cmd, tuple(args), fmt, tuple(fmt_args))
        offset = self._sites.get(key)
        if offset is None:
            offset = self._new_ucall(*key)
            if None not in args and None not in fmt_args:
                self._sites[key] = offset
        return offset

    def _new_ucall(self, cmd: int, args: tuple[Field, ...], fmt: str | None, fmt_args: tuple[Field, ...]) -> int:
        pointers: list[int] = []

        def numbers(fields: tuple[Field, ...], at: int) -> list[int]:
            result = []
            for index, field in enumerate(fields):
                if isinstance(field, str):
                    pointers.append(at + 8 * index)
                    result.append(self.string(field))
                else:
                    result.append(field or 0)
            return result

        words = numbers(args, ARGS_OFFSET)
        words += _NO_ARGS[len(args) :]
        words += numbers((fmt, len(fmt_args)), FORMAT_OFFSET)
        words += numbers(fmt_args, FORMAT_ARGS_OFFSET)
        words += _NO_FORMAT_ARGS[len(fmt_args) :]
        # Strings that were added above lie before the structure.
        offset = self._aligned()
        self._data += STRUCTURE.pack(cmd, *words)
        self._pointers += [offset + pointer for pointer in pointers]
        return offset

    def link(self, base: int) -> bytes:
        """The bytes for this base address."""
        data = bytearray(self._data)
        for offset in self._pointers:
            _QUAD.pack_into(data, offset, base + _QUAD.unpack_from(data, offset)[0])
        return bytes(data)

    def _aligned(self) -> int:
        self._data += bytes(-len(self._data) % _ALIGNMENT)
        return len(self._data)
