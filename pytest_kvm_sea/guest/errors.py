# SPDX-License-Identifier: GPL-2.0-only
"""What can be wrong with a guest, as exceptions."""

from __future__ import annotations


class GuestMemoryError(Exception):
    """An address that came from the guest is not in the guest's memory. Raised by `GuestReader.read`."""


class UcallError(Exception):
    """A ucall of the guest is malformed. The text says which field, its value, and what is valid."""


class GuestBuildError(ValueError):
    """Guest code in Python that cannot be emitted: wrong format, wrong arguments, a value out of its scope."""


class GuestElfError(GuestBuildError):
    """A file that is no guest: no ELF executable for AArch64, damaged, or not built as one. The text is one line."""
