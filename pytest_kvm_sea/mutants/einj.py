# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of the EINJ driver, and of the firmware behind it (drivers/acpi/apei/einj-core.c)."""

from __future__ import annotations

from pytest_kvm_sea.mutants.change import Edit, Value
from pytest_kvm_sea.mutants.mutant import Mutant
from pytest_kvm_sea.sim import einj
from pytest_kvm_sea.sim.einj_layout import WIDTHS
from pytest_kvm_sea.sim.firmware import Status

_DRIVER = "sim.einj:Driver"
_CHECK = f"{_DRIVER}._check"
_TARGET = f"{_DRIVER}._check_target"
_VALID = f"{_DRIVER}._valid"
_REQUEST = f"{_DRIVER}._request"
_TYPES = "test_einj_driver::test_error_types_that_the_driver_refuses"
_PARAMETERS = "test_einj_driver::test_parameters_that_the_driver_refuses"
_OUTCOME = "test_einj_driver::test_the_firmware_refuses"
_TOLD = ("test_einj_driver::test_what_the_firmware_is_told",)
_FORMATS = ("test_einj_driver::test_formats",)
_PERSISTENT = ("test_einj_driver::test_what_was_chosen_stays_chosen",)


def _errno(status: Status, code: int) -> tuple[Value, ...]:
    """The driver gives another errno for a status of the firmware."""
    return (Value("sim.einj:_FIRMWARE_ERRNO", {**einj._FIRMWARE_ERRNO, status: code}),)  # noqa: SLF001 - what it is


MUTANTS = (
    Mutant(
        "mask-not-checked",
        "Any mask in param2 is taken, also one that lets the firmware break what it likes.",
        (Edit(_TARGET, "if mask & page_mask != page_mask:", "if False:"),),
        (f"{_PARAMETERS}[no-mask]", f"{_PARAMETERS}[wide-mask]"),
    ),
    Mutant(
        "target-not-checked",
        "The address in param1 need not be memory.",
        (Edit(_TARGET, "if not self._physical.map.kinds(base, base + size) & self._targets:", "if False:"),),
        (f"{_PARAMETERS}[no-memory]",),
    ),
    Mutant(
        "einj-flags-not-checked",
        "Flags that nobody has defined reach the firmware.",
        (Edit(_CHECK, "if flags & ~self._flags:", "if False:"),),
        (f"{_PARAMETERS}[unknown-flag]",),
    ),
    Mutant(
        "types-not-offered",
        "An error type that the firmware does not offer is accepted.",
        (Edit(_VALID, "number & (self._available | self._available_v2))", "number)"),),
        (f"{_TYPES}[0x200]",),
    ),
    Mutant(
        "two-types-at-once",
        "More than one error type is accepted.",
        (Edit(_VALID, "number >> 32 or single & (single - 1)", "number >> 32"),),
        (f"{_TYPES}[0x18]",),
    ),
    Mutant(
        "type-cut-to-32-bits",
        "An error type of more than 32 bits is cut.",
        (Edit(_VALID, "number >> 32 or single & (single - 1)", "single % (1 << 32) & (single % (1 << 32) - 1)"),),
        (f"{_TYPES}[0x100000010]",),
    ),
    Mutant(
        "no-type-accepted",
        "An error type of 0 is accepted.",
        (
            Edit(
                _VALID,
                "bool(number & VENDOR or number & (self._available | self._available_v2))",
                "not number & ~(VENDOR | self._available)",
            ),
        ),
        (f"{_TYPES}[0x0]",),
    ),
    Mutant(
        "refused-type-is-chosen",
        "A text that error_type refuses takes back what was chosen before.",
        (Edit(f"{_DRIVER}.set_raw_error_type", "_ACCEPTED.pack(value, ", "_ACCEPTED.pack(0, "),),
        _PERSISTENT,
    ),
    Mutant(
        "knobs-forgotten",
        "An injection sets the parameters back to 0.",
        (
            Edit(
                f"{_DRIVER}._execute",
                "    status = ",
                '    for name in ("param1", "param2", "notrigger"):\n        self.store(name, 0)\n    status = ',
            ),
        ),
        _PERSISTENT,
    ),
    Mutant(
        "param1-in-32-bits",
        "param1 has 32 bits.",
        (Value("sim.einj:WIDTHS", {**WIDTHS, "param1": 32}),),
        _TOLD,
    ),
    Mutant(
        "parameters-exchanged",
        "Address and mask have changed places on their way to the firmware.",
        (
            Edit(
                _REQUEST,
                "Request(error_type, flags, param1, param2, self",
                "Request(error_type, flags, param2, param1, self",
            ),
        ),
        _TOLD,
    ),
    Mutant(
        "mask-of-a-page",
        "The firmware gets a mask for the whole page, and breaks its first granule.",
        (
            Edit(
                _REQUEST,
                "Request(error_type, flags, param1, param2, self",
                "Request(error_type, flags, param1, param2 & -4096, self",
            ),
        ),
        _TOLD,
    ),
    Mutant(
        "type-not-told",
        "The firmware is told of a corrected error whatever was chosen.",
        (Edit(_REQUEST, "    param1, param2 =", "    error_type = 8\n    param1, param2 ="),),
        _TOLD,
    ),
    Mutant(
        "busy-is-eio",
        "A firmware that is busy gives EIO, as if something might have happened.",
        _errno(Status.FAILED, 5),
        (f"{_OUTCOME}[busy]", "test_einj_driver::test_journal[failed]"),
    ),
    Mutant(
        "time-out-is-busy",
        "A command that does not end gives EBUSY, as if nothing had happened.",
        _errno(Status.TIMEOUT, 16),
        (f"{_OUTCOME}[time-out]", "test_einj_driver::test_after_a_time_out_the_next_injection_succeeds"),
    ),
    Mutant(
        "status-ignored",
        "The firmware's status is not looked at.",
        (Edit(f"{_DRIVER}._execute", "if status is not Status.SUCCESS:", "if False:"),),
        (_OUTCOME,),
        defects=("F1.12",),
    ),
    Mutant(
        "notrigger-ignored",
        "error_inject triggers the error although notrigger is 1, and the kernel takes the page offline.",
        (Edit(f"{_DRIVER}._execute", 'if not self.value("notrigger"):', "if True:"),),
        ("test_einj_driver::test_notrigger",),
    ),
    Mutant(
        "numbers-in-decimal",
        "The files show their numbers in decimal.",
        (Edit("sim.einj_layout:hexadecimal", 'b"0x%0*x\\n" % (width // 4, value)', 'b"%d\\n" % value'),),
        _FORMATS,
    ),
    Mutant(
        "granule-after",
        "The firmware breaks the granule after the one that it was told.",
        (Edit("sim.firmware:Firmware._target", "// GRANULE * GRANULE)", "// GRANULE * GRANULE + GRANULE)"),),
        ("test_vmm_reactions::test_log_for_the_customer", "test_vmm_reactions::test_distinct_pages_are_counted"),
    ),
    Mutant(
        "page-in-place-of-granule",
        "The firmware breaks the whole page.",
        (
            Edit(
                "sim.firmware:Firmware.execute",
                "self._physical.poison(target, GRANULE)",
                "self._physical.poison(target // 4096 * 4096, 4096)",
            ),
        ),
        ("test_vmm_reactions::test_distinct_pages_are_counted",),
    ),
)
