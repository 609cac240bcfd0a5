# SPDX-License-Identifier: GPL-2.0-only
"""Exception generation, hints, barriers, system registers and instructions (Arm ARM, C4.1.93)."""

from __future__ import annotations

from pytest_kvm_sea.cpu.emitter import Emitter, Fields, semantics

_WFE, _WFI, _ESB = 2, 3, 16


@semantics("SVC")
def supervisor_call(e: Emitter, f: Fields) -> None:
    e.call("svc", e.constant(f["imm16"]))


@semantics("HVC")
def hypervisor_call(e: Emitter, f: Fields) -> None:
    e.call("hvc", e.constant(f["imm16"]))


@semantics("SMC")
def secure_monitor_call(e: Emitter, f: Fields) -> None:
    e.call("smc", e.constant(f["imm16"]))


@semantics("BRK")
def breakpoint_instruction(e: Emitter, f: Fields) -> None:
    e.call("brk", e.constant(f["imm16"]))


@semantics("HLT")
@semantics("UDF")
@semantics("SYSL")
def undefined(e: Emitter, f: Fields) -> None:  # noqa: ARG001
    """HLT without a debugger, and SYSL, which has no instruction here."""
    e.call("undefined")


@semantics("ERET")
def exception_return(e: Emitter, f: Fields) -> None:  # noqa: ARG001
    e.call("eret")


@semantics("HINT")
def hint(e: Emitter, f: Fields) -> None:
    """WFE, WFI and ESB; all others (NOP, YIELD, SEV, BTI, the PAC hints, CSDB, …) do nothing here."""
    number = f["CRm"] << 3 | f["op2"]
    if number in {_WFE, _WFI, _ESB}:
        e.call({_WFE: "wfe", _WFI: "wfi", _ESB: "esb"}[number])


@semantics("DSB")
@semantics("DMB")
@semantics("SB")
def barrier(e: Emitter, f: Fields) -> None:
    """Nothing to do: one processor, in order."""


@semantics("CLREX")
def clear_exclusive(e: Emitter, f: Fields) -> None:  # noqa: ARG001
    e.call_only("clear_exclusive")


@semantics("ISB")
def instruction_barrier(e: Emitter, f: Fields) -> None:  # noqa: ARG001
    e.call("isb")


@semantics("MSR_IMM")
def write_pstate_field(e: Emitter, f: Fields) -> None:
    e.call("msr_immediate", e.constant(f["op1"] << 3 | f["op2"]), e.constant(f["CRm"]))


@semantics("MSR")
def write_system_register(e: Emitter, f: Fields) -> None:
    e.call("msr", e.constant(0x8000 | f["sysreg"]), e.constant(f["Rt"]))


@semantics("MRS")
def read_system_register(e: Emitter, f: Fields) -> None:
    e.call("mrs", e.constant(0x8000 | f["sysreg"]), e.constant(f["Rt"]))


@semantics("SYS")
def system_instruction(e: Emitter, f: Fields) -> None:
    operation = f["op1"] << 11 | f["CRn"] << 7 | f["CRm"] << 3 | f["op2"]
    e.call("sys", e.constant(operation), e.constant(f["Rt"]))


@semantics("FP_SIMD")
def floating_point(e: Emitter, f: Fields) -> None:  # noqa: ARG001
    e.call("fp_simd")
