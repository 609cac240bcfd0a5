# SPDX-License-Identifier: GPL-2.0-only
"""The file of a page: parts are put aside as they come, and the whole is written at the end, in another order."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Aside(NamedTuple):
    """A part that was put aside."""

    offset: int
    length: int
    """Bytes."""


class PageFile:
    """A file that appears under its name when it is complete; a pipe or a device is written as it is.

    What is put aside is on disk, in a file without a name, so that nothing is left behind by a run that is killed.
    Every method raises OSError, but for `abandon`.
    """

    def __init__(self, path: Path) -> None:
        """Find out whether it can be written, before there is anything to write."""
        self._is_regular = not path.exists() or path.is_file()
        # What a link points to is replaced, and the link stays. That of /dev/stdout may point to no path.
        self._path = Path(os.path.realpath(path)) if self._is_regular else path
        self._part = self._path.with_name(f".kvm-sea-report.{os.getpid()}")
        # Not with O_NONBLOCK: whoever reads a pipe may come later.
        self._device = None if self._is_regular else self._path.open("wb", buffering=0)
        self._aside = tempfile.TemporaryFile(dir=self._path.parent if self._is_regular else None)  # noqa: SIM115
        self._length = 0

    def begin(self) -> None:
        """The run begins: what an earlier one left must not be taken for the page of this one, should it be killed."""
        if self._is_regular:
            self._path.unlink(missing_ok=True)

    def put_aside(self, text: str) -> Aside:
        """Keep a part for later."""
        data = text.encode()
        self._aside.write(data)
        kept = Aside(self._length, len(data))
        self._length += len(data)
        return kept

    def write(self, parts: Iterable[str | Aside]) -> None:
        """The whole page. It is closed afterwards."""
        if self._device is not None:
            for part in parts:
                self._device.write(self._bytes(part))
        else:
            with self._part.open("wb") as stream:
                stream.writelines(map(self._bytes, parts))
            self._part.replace(self._path)
        self._close()

    def abandon(self) -> None:
        """Leave nothing behind. Allowed twice, and after `write`."""
        if self._is_regular:
            with contextlib.suppress(OSError):  # a hidden file stays, and there is a message already
                self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what is still in a buffer is not wanted any more
            self._close()

    def _bytes(self, part: str | Aside) -> bytes:
        if isinstance(part, str):
            return part.encode()
        self._aside.seek(part.offset)
        return self._aside.read(part.length)

    def _close(self) -> None:
        self._aside.close()
        if self._device is not None:
            self._device.close()
