# SPDX-License-Identifier: GPL-2.0-only
"""Stories and records as a run of `test_sea_to_user` gives them, with the addresses of one such run."""

from __future__ import annotations

from typing import Any

from pytest_kvm_sea.reports.record import Outcome, Record, TestId
from pytest_kvm_sea.reports.story import Event, Field, Instruction, Place, Story, Syndrome, Taint

GVA, IPA, HVA, HPA = "0x81234b80", "0xff81234b80", "0x7fec53834b80", "0xa0850eb80"
_SETUP = (
    ("KVM_CREATE_VM", (("IPA", "48 bits"), ("revision", "mainline"))),
    ("KVM_SET_USER_MEMORY_REGION", (("slot", "0"), ("ipa", "0x0"), ("size", "16 MiB"), ("hva", "0x7fec93800000"))),
    ("KVM_CREATE_VCPU", (("vCPU", "0"), ("entry", "0x1096c"))),
    (
        "KVM_SET_USER_MEMORY_REGION",
        (("slot", "1"), ("ipa", "0xff80000000"), ("size", "1 GiB"), ("hva", "0x7fec52600000")),
    ),
    ("KVM_ENABLE_CAP", (("capability", "245, KVM_CAP_ARM_SEA_TO_USER"),)),
)
_EINJ = (
    ("echo 0x10 > error_type", "Memory Uncorrectable non-fatal"),
    ("echo 0x2 > flags", "the address is in param1"),
    (f"echo {HPA} > param1", "the cell"),
    ("echo 0xfffffffffffff000 > param2", "its mask, one page"),
    ("echo 1 > notrigger", "the guest consumes it, nobody else"),
    ("echo 1 > error_inject", "the cell is broken from here on"),
)


def events() -> list[Event]:
    """All steps of test_sea_to_user, from KVM_CREATE_VM to the assertion that failed."""
    found = [Event(0.0002 * n, "vmm", "kvm", title, facts, "setup") for n, (title, facts) in enumerate(_SETUP)]
    found += [Event(0.0018, "vmm", "kvm", "read pagemap", (("hva", HVA), ("hpa", HPA)), "einj")]
    found += [
        Event(0.002 + 0.0001 * n, "vmm", "kvm", what, (("", why),), "einj") for n, (what, why) in enumerate(_EINJ)
    ]
    return [
        *found,
        Event(0.0027, "kvm", "firmware", "EINJ executes", (("hpa", HPA), ("granule", "64 bytes")), "einj"),
        Event(0.003, "vmm", "kvm", "KVM_RUN", (("vCPU", "0"), ("pc", "0x1096c")), "run"),
        Event(0.0034, "guest", "vmm", "ucall SYNC(1)", (("pc", "0x10998"),), "ucall"),
        Event(0.0035, "vmm", "kvm", "KVM_RUN", (("vCPU", "0"),), "run"),
        Event(0.0036, "guest", "firmware", "loads from the cell", (("gva", GVA), ("ipa", IPA), ("hpa", HPA)), "sea"),
        Event(0.0036, "guest", "kvm", "SEA, taken to EL2", (("ESR_EL2", "0x92000010"), ("pc", "0x109a0")), "sea"),
        Event(0.0037, "kvm", "kvm", "APEI claims nothing", (), "sea"),
        Event(
            0.0038,
            "kvm",
            "vmm",
            "KVM_EXIT_ARM_SEA",
            (("gva", GVA), ("gpa", "0xff81234000"), ("esr", "0x92000010"), ("flags", "0x1, GPA_VALID")),
            "sea",
        ),
        Event(0.004, "vmm", "kvm", "KVM_SET_VCPU_EVENTS", (("ext_dabt_pending", "1"),), "inject"),
        Event(0.0041, "kvm", "guest", "abort", (("ESR_EL1", "0x96000010"), ("FAR_EL1", GVA)), "inject"),
        Event(0.0042, "vmm", "kvm", "KVM_RUN", (("vCPU", "0"),), "run"),
        Event(0.0043, "guest", "guest", "vector, current EL with SP_ELx", (("pc", "0x10200"),), "vector"),
        Event(0.0049, "guest", "vmm", "ucall PRINTF", (("text", "Guest SEA esr_el1=0x96000010"),), "ucall"),
        Event(0.0052, "guest", "vmm", "ucall ABORT", (("at", "expect_sea+0x48"),), "error"),
        Event(
            0.0053,
            "vmm",
            "vmm",
            "GuestFailure",
            (("", "FnV (bit 10 of ESR_EL1): the guest expected 1, it has 0; FAR_EL1 is garbage and nobody says so"),),
            "error",
        ),
    ]


def story(target: str = "sim-ampereone-mainline", **changed: Any) -> Story:
    """Of a test that failed in the guest's handler."""
    names = [*(f"x{n}" for n in range(31)), "sp_el1", "pc", "pstate", "esr_el1", "far_el1", "elr_el1", "spsr_el1"]
    values: dict[str, Any] = {
        "kernel": "7.3.4",
        "events": events(),
        "places": [
            Place(GVA, IPA, HVA, HPA, "poisoned by EINJ"),
            Place(GVA, "0xff81234000", what="reported by KVM_EXIT_ARM_SEA"),
        ],
        "registers": {"vCPU 0": {name: f"0x{n * 0x1111:016x}" for n, name in enumerate(names)}},
        "code": {
            "vCPU 0": [
                Instruction("0x10998", "d2896e89", "mov x9, #0x4b74", place="start+0x2c, g.access(kind, gva)"),
                Instruction("0x1099c", "f2b02469", "movk x9, #0x8123, lsl #16", place="start+0x30"),
                Instruction("0x109a0", "f940012a", "ldr x10, [x9]", is_pc=True, place="access"),
                Instruction("0x109a4", "d503201f", "nop", place="access+0x4"),
            ]
        },
        "syndromes": [_syndrome("arm_sea.esr", "0x92000010", "0x24"), _syndrome("ESR_EL1", "0x96000010", "0x25")],
        "expected": "assert sea.gva == broken.gva\nassert 0x81234b80 == 0x81234b84",
        "console": [f"Guest SEA esr_el1=0x96000010, far_el1={GVA}\n"],
        "kernel_log": ["[  112.41] EINJ: Error INJection is initialized.", "[  113.02] Memory failure: 0xa0850e"],
        "taint": Taint(0, 512, ("W (9): kernel issued warning",)),
        "notes": ["the kernel's log was read from /dev/kmsg"],
    }
    return Story(target, **{**values, **changed})


def _syndrome(register: str, value: str, ec: str) -> Syndrome:
    place = "a lower exception level" if ec == "0x24" else "the current exception level"
    return Syndrome(
        register,
        value,
        (
            Field("EC", "31:26", ec, f"data abort from {place}"),
            Field("IL", "25", "1", "32-bit instruction"),
            Field("ISV", "24", "0", "no syndrome of the instruction"),
            Field("SET", "12:11", "0", "recoverable (UER)"),
            Field("FnV", "10", "0", "FAR is valid"),
            Field("EA", "9", "0", "external abort type"),
            Field("CM", "8", "0", "no cache maintenance"),
            Field("S1PTW", "7", "0", "not on a walk"),
            Field("WnR", "6", "0", "a read"),
            Field("DFSC", "5:0", "0x10", "synchronous external abort, not on a table walk"),
        ),
    )


def record(
    outcome: Outcome, name: str = "test_sea_to_user", platform: str = "ampereone", *, told: bool = True, **changed: Any
) -> Record:
    """Of a test on a simulated platform."""
    target = f"sim-{platform}-mainline"
    values: dict[str, Any] = {
        "duration": 0.0123,
        "start": 1_760_000_000.0,
        "properties": {
            "kvm_sea_host": "sim",
            "kvm_sea_platform": platform,
            "kvm_sea_revision": "mainline",
        },
        "story": story(target).as_json() if told else None,
        "worker": "gw0",
    }
    if outcome.is_bad:
        values["message"] = "pytest_kvm_sea.vmm.errors.GuestFailure: FnV: expected 1, it is 0; guest at expect_sea+0x48"
        values["detail"] = (
            "    def test_sea_to_user(kvm_sea_vm):\n>       vcpu.expect_done()\nE       GuestFailure: <FnV>"
        )
        values["output"] = {"Captured stdout call": "broken: 0xa0850eb80\n"}
    if outcome in (Outcome.SKIP, Outcome.XFAIL):
        values["reason"] = "[einj-table] the firmware has no EINJ table; enable error injection | [root] run as root"
    test = TestId(f"selftests/test_sea_to_user.py::{name}[{target}-anonymous]")
    return Record(test, outcome, **{**values, **changed})
