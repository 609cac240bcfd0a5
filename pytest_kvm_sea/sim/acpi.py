# SPDX-License-Identifier: GPL-2.0-only
"""The simulated host's EINJ table, as /sys/firmware/acpi/tables shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.firmware import einj_table as tables
from pytest_kvm_sea.firmware.einj_table import STEPS, V2_STEPS, Action

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Einj


def einj_table(einj: Einj, registers: int) -> bytes:
    """The table of a firmware whose EINJ registers are at physical address ``registers``."""
    with_address = Action.SET_ERROR_TYPE_WITH_ADDRESS
    steps = V2_STEPS if einj.v2_error_types else STEPS
    return tables.einj_table(registers, [step for step in steps if einj.parameters or step.action is not with_address])
