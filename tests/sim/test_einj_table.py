# SPDX-License-Identifier: GPL-2.0-only
"""The EINJ table, read as the driver's einj_check_table and einj_get_parameter_address read it."""

from __future__ import annotations

import struct

import pytest

from pytest_kvm_sea.platforms.model import Einj
from pytest_kvm_sea.sim.acpi import einj_table

REGISTERS = 0xFF00_0000
MANDATORY = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07}
SET_WITH_ADDRESS, V2_GET_TYPE = 0x08, 0x11
ENTRY = struct.Struct("<BBBxBBBBQQQ")
"""action, instruction, flags; generic address: space, width, offset, access size, address; value, mask."""


@pytest.mark.parametrize(
    ("einj", "extra"),
    [
        (Einj(), {SET_WITH_ADDRESS}),
        (Einj(parameters=False), set()),
        (Einj(v2_error_types=(2,)), {SET_WITH_ADDRESS, V2_GET_TYPE}),
    ],
)
def test_the_table_parses(einj: Einj, extra: set[int]) -> None:
    table = einj_table(einj, REGISTERS)
    signature, length = struct.unpack_from("<4sI", table)
    assert signature == b"EINJ"
    assert length == len(table)
    assert sum(table) % 256 == 0
    header_length, flags, entries = struct.unpack_from("<IB3xI", table, 36)
    assert header_length == 48 - 36
    assert flags == 0
    assert entries * 32 == len(table) - 48
    actions = set()
    for start in range(48, len(table), 32):
        action, instruction, _, space, width, _, access, address, _, mask = ENTRY.unpack_from(table, start)
        assert instruction <= 4
        assert (space, width, access) == (0, 64, 4)
        assert REGISTERS <= address < REGISTERS + 0x2000
        assert mask
        actions.add(action)
    assert actions == MANDATORY | extra
