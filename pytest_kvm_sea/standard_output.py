# SPDX-License-Identifier: GPL-2.0-only
"""Standard output kept for a report, and everybody else's moved to stderr: pytest's, the tests', their children's."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO

import pytest

from pytest_kvm_sea.command_line import KTAP

_KEPT: pytest.StashKey[io.RawIOBase] = pytest.StashKey()


def keep(config: pytest.Config) -> None:
    """Take stdout away, until pytest ends. Called before pytest captures it: that saves and restores what it finds."""
    sys.stdout.flush()
    try:
        is_process_wide = sys.stdout.fileno() == 1
    except io.UnsupportedOperation:  # pytest.main() in a program that has put something of its own there
        is_process_wide = False
    if is_process_wide:
        _move_descriptor(config)
    else:
        config.stash[_KEPT] = _Unbuffered(sys.stdout)
        config.add_cleanup(lambda stdout=sys.stdout: setattr(sys, "stdout", stdout))  # type: ignore[misc]
        sys.stdout = sys.stderr


def _move_descriptor(config: pytest.Config) -> None:
    saved = os.dup(1)
    config.stash[_KEPT] = io.FileIO(os.dup(saved), "w")
    if sys.stderr is None:  # closed, and the number 2 is now anybody's
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 1)
    else:
        os.dup2(2, 1)

    def give_back() -> None:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)

    config.add_cleanup(give_back)


def kept(config: pytest.Config) -> io.RawIOBase:
    """What was standard output. Raises pytest.UsageError if it was not kept."""
    if _KEPT not in config.stash:
        raise pytest.UsageError(
            f"{KTAP.flag}=-: the plugin was loaded too late to keep standard output for a report; load it by its entry "
            "point or with -p pytest_kvm_sea.plugin, or name a file"
        )
    return config.stash[_KEPT]


class _Unbuffered(io.RawIOBase):
    """Bytes of ASCII for a text stream that has no file descriptor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override] # all that is written here
        self._stream.write(bytes(data).decode("ascii"))
        self._stream.flush()
        return len(data)
