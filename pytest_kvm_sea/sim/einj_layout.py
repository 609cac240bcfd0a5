# SPDX-License-Identifier: GPL-2.0-only
"""EINJ's files in debugfs: which there are on a platform, and how they look before anybody has written to them.

| file                                      | there with                              | reads                         |
|-------------------------------------------|-----------------------------------------|-------------------------------|
| available_error_type                      | the driver                              | a line per type               |
| error_type                                | the driver                              | the text; before 6.17 `0x%llx`|
| error_inject                              | the driver                              | nothing: EACCES               |
| flags, notrigger; param1 to param4        | SET_ERROR_TYPE_WITH_ADDRESS             | `0x%08x`; `0x%016x`           |
| component_idN, component_syndromeN        | EINJv2 in firmware and kernel (6.17)    | 32 hexadecimal digits         |
| vendor; vendor_flags                      | a vendor extension                      | its line; `0x%08x`            |
| oem_error                                 | a vendor's structure behind that        | bytes                         |
| ../../cxl/einj_types                      | CXL error types (bits 12 to 17)         | a line per type               |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.sim.debugfs import Entry

if TYPE_CHECKING:
    from pytest_kvm_sea.platforms.model import Einj, Platform

DIRECTORY = "/sys/kernel/debug/apei/einj"
CXL_TYPES = "/sys/kernel/debug/cxl/einj_types"
VENDOR = 1 << 31
V2_SUPPORTED = 1 << 30
"""A bit of GET_ERROR_TYPE: there is an EINJV2_GET_ERROR_TYPE as well."""
COMPONENT_BYTES = 16
KNOBS = {"flags": 32, "param1": 64, "param2": 64, "param3": 64, "param4": 64, "notrigger": 32}
"""Numbers, and their width in bits; vendor_flags is one more."""
WIDTHS = KNOBS | {"vendor_flags": 32}

_SEVERITIES = ("Correctable", "Uncorrectable non-fatal", "Uncorrectable fatal")
_TYPES = {
    1 << (3 * index + severity): f"{what} {word}"
    for index, what in enumerate(("Processor", "Memory", "PCI Express", "Platform"))
    for severity, word in enumerate(_SEVERITIES)
} | {VENDOR: "Vendor Defined Error Types"}
_TYPES_V2 = {1 << index: f"EINJV2 {what} Error" for index, what in enumerate(("Processor", "Memory", "PCI Express"))}
_TYPES_CXL = {
    1 << (12 + 3 * index + severity): f"CXL.{what} Protocol {word}"
    for index, what in enumerate(("cache", "mem"))
    for severity, word in enumerate(_SEVERITIES)
}


def available(einj: Einj) -> int:
    """What GET_ERROR_TYPE gives."""
    return sum(set(einj.error_types)) | (V2_SUPPORTED if einj.v2_error_types else 0)


def files(platform: Platform) -> dict[str, Entry]:
    """The driver's files on this platform, by path. None at all without table or module."""
    einj, v2 = platform.firmware.einj, platform.kernel.einj_v2
    if not (einj.table and einj.module):
        return {}
    entries = {
        "available_error_type": Entry(0o400, _listing(einj, v2=v2)),
        "error_type": Entry(0o600, b"" if v2 else b"0x0\n"),
        "error_inject": Entry(0o200),
    }
    if einj.parameters:
        entries |= {name: Entry(0o600, hexadecimal(0, width)) for name, width in KNOBS.items()}
        if not einj.notrigger:
            del entries["notrigger"]
    if v2:
        for number in range(einj.v2_components):
            blank = Entry(0o600, component_line(bytes(COMPONENT_BYTES)))
            entries |= {f"component_id{number}": blank, f"component_syndrome{number}": blank}
    if einj.vendor:
        entries["vendor"] = Entry(0o400, f"{einj.vendor}\n".encode())
        entries["vendor_flags"] = Entry(0o600, hexadecimal(0, WIDTHS["vendor_flags"]))
    if einj.oem_error:
        entries["oem_error"] = Entry(0o600, bytes(einj.oem_error))
    found = {f"{DIRECTORY}/{name}": entry for name, entry in entries.items()}
    if any(bit in _TYPES_CXL for bit in einj.error_types):
        found[CXL_TYPES] = Entry(0o400, _lines(_TYPES_CXL, einj.error_types))
    return found


def _listing(einj: Einj, *, v2: bool) -> bytes:
    """The types of EINJv2 are listed where its components could be set up, and that takes the parameters."""
    return _lines(_TYPES, einj.error_types) + (_lines(_TYPES_V2, einj.v2_error_types, "V2_") if v2 else b"")


def _lines(names: dict[int, str], offered: tuple[int, ...], prefix: str = "") -> bytes:
    return "".join(f"{prefix}0x{bit:08x}\t{text}\n" for bit, text in names.items() if bit in offered).encode()


def hexadecimal(value: int, width: int) -> bytes:
    """How debugfs shows a number of 32 or 64 bits."""
    return b"0x%0*x\n" % (width // 4, value)


def component_line(value: bytes) -> bytes:
    """How the driver shows 16 bytes: most significant first."""
    return value[::-1].hex().encode() + b"\n"


def component_value(line: bytes) -> bytes:
    """The inverse. ValueError for what the driver does not write."""
    value = bytes.fromhex(line.strip().decode("ascii", "replace"))[::-1]
    if len(value) != COMPONENT_BYTES:
        raise ValueError(f"{line!r} is not 16 bytes")
    return value
