# SPDX-License-Identifier: GPL-2.0-only
"""A report that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


class WholeFile:
    """A file that appears under its name when it is complete. A pipe or a device is written as it is.

    Every method raises OSError.
    """

    def __init__(self, path: Path) -> None:
        """Find out whether it can be written, before there is anything to write. Leaves nothing behind."""
        self._path = Path(os.path.realpath(path))  # what a link points to is written, and the link stays
        self._is_regular = not self._path.exists() or self._path.is_file()
        if self._is_regular:
            descriptor, name = self._temporary()
            os.close(descriptor)
            Path(name).unlink()
        elif not os.access(self._path, os.W_OK):
            os.close(os.open(self._path, os.O_WRONLY))  # says why not

    def begin(self) -> None:
        """Remove what an earlier run left: one that dies must not leave the report of another one for its own."""
        if self._is_regular:
            self._path.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """All of it, as UTF-8."""
        data = text.encode()
        if not self._is_regular:
            self._path.write_bytes(data)
            return
        descriptor, name = self._temporary()
        try:
            with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
                os.fchmod(descriptor, 0o666 & ~_umask())
            Path(name).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell of
                Path(name).unlink()
            raise

    def _temporary(self) -> tuple[int, str]:
        return tempfile.mkstemp(prefix=f".{self._path.name[:100]}.", dir=self._path.parent)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
