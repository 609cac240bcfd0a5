# SPDX-License-Identifier: GPL-2.0-only
"""What every bit of a syndrome says (Arm ARM, ESR_EL1 and ESR_EL2: D24.2.39, D24.2.40), for people.

Tables in the order of the manual. `explain` covers all 64 bits, so that the values put together are the register again.
Which fields there are depends on others: a data abort has SET only where its status is an external abort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.arm64.esr import EC
from pytest_kvm_sea.arm64.sysregs import encode, name_of

Meaning: TypeAlias = "Mapping[int, str] | Callable[[int], str]"


@dataclass(frozen=True, slots=True)
class Bits:
    """A field that a syndrome may have."""

    name: str
    high: int
    low: int
    meaning: Meaning | None = None


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A field of one syndrome."""

    name: str
    high: int
    low: int
    value: int
    meaning: str
    """Empty where there is nothing to say: bits that are reserved, and zero as they should be."""

    @property
    def bits(self) -> str:
        """`31:26`, or `9`."""
        return f"{self.high}" if self.high == self.low else f"{self.high}:{self.low}"


CLASSES: dict[int, str] = {
    0x00: "unknown reason",
    0x01: "trapped WFI or WFE",
    0x03: "trapped MCR or MRC of coprocessor 15",
    0x04: "trapped MCRR or MRRC of coprocessor 15",
    0x05: "trapped MCR or MRC of coprocessor 14",
    0x06: "trapped LDC or STC",
    0x07: "trapped access to SVE, Advanced SIMD or floating point",
    0x08: "trapped VMRS",
    0x09: "trapped pointer authentication",
    0x0A: "trapped execution of an instruction that has no class of its own (LD64B, ST64B ...)",
    0x0C: "trapped MRRC of coprocessor 14",
    0x0D: "branch target exception",
    0x0E: "illegal execution state",
    0x11: "SVC in AArch32 state",
    0x12: "HVC in AArch32 state",
    0x13: "SMC in AArch32 state",
    0x14: "trapped MSRR, MRRS or 128-bit system instruction",
    0x15: "SVC in AArch64 state",
    0x16: "HVC in AArch64 state",
    0x17: "SMC in AArch64 state",
    0x18: "trapped MSR, MRS or system instruction",
    0x19: "trapped access to SVE",
    0x1A: "trapped ERET",
    0x1C: "failed pointer authentication",
    0x1D: "trapped access to SME",
    0x1E: "granule protection check",
    0x20: "instruction abort from a lower exception level",
    0x21: "instruction abort from the same exception level",
    0x22: "misaligned PC",
    0x24: "data abort from a lower exception level",
    0x25: "data abort from the same exception level",
    0x26: "misaligned SP",
    0x27: "memory copy or set (MOPS)",
    0x28: "floating-point exception in AArch32 state",
    0x2C: "floating-point exception in AArch64 state",
    0x2D: "guarded control stack",
    0x2F: "SError",
    0x30: "breakpoint from a lower exception level",
    0x31: "breakpoint from the same exception level",
    0x32: "software step from a lower exception level",
    0x33: "software step from the same exception level",
    0x34: "watchpoint from a lower exception level",
    0x35: "watchpoint from the same exception level",
    0x38: "BKPT in AArch32 state",
    0x3A: "vector catch in AArch32 state",
    0x3C: "BRK in AArch64 state",
    0x3D: "profiling exception",
}

_LEVELS = {"address size fault": 0x00, "translation fault": 0x04, "access flag fault": 0x08, "permission fault": 0x0C}
_ON_WALK = {
    "synchronous external abort": syndromes.fsc_sea_walk(0),
    "synchronous parity or ECC error": syndromes.fsc_parity_walk(0),
    "granule protection fault": 0x24,
}
STATUS: dict[int, str] = {
    **{base + level: f"{text}, level {level}" for text, base in _LEVELS.items() for level in range(4)},
    **{
        base + level: f"{text} on a table walk, level {level}"
        for text, base in _ON_WALK.items()
        for level in range(-1, 4)
    },
    0x10: "synchronous external abort, not on a table walk",
    0x11: "synchronous tag check fault",
    0x12: "synchronous external abort on a table walk, level -2",
    0x18: "synchronous parity or ECC error, not on a table walk",
    0x21: "alignment fault",
    0x22: "granule protection fault on a table walk, level -2",
    0x28: "granule protection fault, not on a table walk",
    0x29: "address size fault, level -1",
    0x2A: "translation fault, level -2",
    0x2B: "translation fault, level -1",
    0x2C: "address size fault, level -2",
    0x30: "TLB conflict abort",
    0x31: "unsupported atomic hardware update",
    0x34: "implementation defined: lockdown",
    0x35: "implementation defined: unsupported exclusive or atomic access",
}
"""DFSC and IFSC. What is missing is reserved."""

SERROR_STATUS = {0x00: "uncategorised", 0x11: "asynchronous SError"}
SYNCHRONOUS_STATE = {
    0b00: "recoverable (UER), or no FEAT_RAS",
    0b10: "uncontainable (UC)",
    0b11: "restartable (UEO)",
}
"""SET, of an external abort with FEAT_RAS."""
ASYNCHRONOUS_STATE = {
    0b000: "uncontainable (UC)",
    0b001: "unrecoverable (UEU)",
    0b010: "restartable (UEO)",
    0b011: "recoverable (UER)",
    0b110: "corrected (CE)",
}
"""AET, of an SError with FEAT_RAS."""
_SIZES = {0: "byte", 1: "halfword", 2: "word", 3: "doubleword"}
_DEBUG_STATUS = {0x22: "debug exception"}


def _status(value: int) -> str:
    return STATUS.get(value, "reserved")


def _register(value: int) -> str:
    return f"x{value}" if value < 31 else "xzr"


def _not_decoded(value: int) -> str:
    return "not taken apart here" if value else ""


def _reserved(value: int) -> str:
    return "reserved (RES0), or of a later extension" if value else ""


def res0(high: int, low: int) -> Bits:
    """Bits that should be zero."""
    return Bits("RES0", high, low, _reserved)


_NOT_VALID = "FAR is not valid"
_VALID = "FAR holds the address"
_EXTERNAL = {0: "", 1: "of the kind that the implementation signals with EA set"}
_CONDITION = (Bits("CV", 24, 24, {0: "COND is not valid", 1: "COND is valid"}), Bits("COND", 23, 20))


def _abort_middle(iss: int) -> tuple[Bits, ...]:
    """Bits 12:9, which an external abort has."""
    code = iss & syndromes.FSC_MASK
    external = syndromes.is_sea(code)
    if code == syndromes.FSC_SEA:
        state = Bits("SET", 12, 11, SYNCHRONOUS_STATE)
    elif code == syndromes.FSC_EXCLUSIVE_ATOMIC:
        state = Bits("LST", 12, 11)
    else:
        state = res0(12, 11)
    fnv = Bits("FnV", 10, 10, {0: _VALID, 1: _NOT_VALID}) if code == syndromes.FSC_SEA else res0(10, 10)
    return (state, fnv, Bits("EA", 9, 9, _EXTERNAL) if external else res0(9, 9))


def _data_abort(iss: int) -> tuple[Bits, ...]:
    access: tuple[Bits, ...] = (res0(23, 14),)
    if iss & syndromes.ISV:
        access = (
            Bits("SAS", 23, 22, _SIZES),
            Bits("SSE", 21, 21, {0: "", 1: "sign-extended"}),
            Bits("SRT", 20, 16, _register),
            Bits("SF", 15, 15, {0: "32-bit register", 1: "64-bit register"}),
            Bits("AR", 14, 14, {0: "", 1: "acquire or release"}),
        )
    return (
        Bits("ISV", 24, 24, {0: "no description of the instruction", 1: "SAS, SSE, SRT, SF and AR are valid"}),
        *access,
        Bits("VNCR", 13, 13, {0: "", 1: "an access by VNCR_EL2"}),
        *_abort_middle(iss),
        Bits("CM", 8, 8, {0: "", 1: "cache maintenance or address translation"}),
        Bits("S1PTW", 7, 7, {0: "", 1: "stage 2, on a stage-1 table walk"}),
        Bits("WnR", 6, 6, {0: "read", 1: "write"}),
        Bits("DFSC", 5, 0, _status),
    )


def _instruction_abort(iss: int) -> tuple[Bits, ...]:
    return (
        res0(24, 13),
        *_abort_middle(iss),
        res0(8, 8),
        Bits("S1PTW", 7, 7, {0: "", 1: "stage 2, on a stage-1 table walk"}),
        res0(6, 6),
        Bits("IFSC", 5, 0, _status),
    )


def _serror(iss: int) -> tuple[Bits, ...]:
    if iss & syndromes.IDS:
        return (
            Bits("IDS", 24, 24, {1: "the rest is implementation defined"}),
            Bits("IMPLEMENTATION DEFINED", 23, 0),
        )
    state = Bits("AET", 12, 10, ASYNCHRONOUS_STATE) if iss & syndromes.FSC_MASK == 0x11 else res0(12, 10)
    return (
        Bits("IDS", 24, 24, {0: "the rest is as the architecture says"}),
        res0(23, 14),
        Bits("IESB", 13, 13, {0: "", 1: "synchronised by an implicit error synchronisation event"}),
        state,
        Bits("EA", 9, 9, _EXTERNAL),
        res0(8, 6),
        Bits("DFSC", 5, 0, lambda value: SERROR_STATUS.get(value, "reserved")),
    )


def _system_register(iss: int) -> tuple[Bits, ...]:
    register = name_of(encode(iss >> 20 & 3, iss >> 14 & 7, iss >> 10 & 15, iss >> 1 & 15, iss >> 17 & 7))
    return (
        res0(24, 22),
        Bits("Op0", 21, 20, lambda _value: register),
        Bits("Op2", 19, 17),
        Bits("Op1", 16, 14),
        Bits("CRn", 13, 10),
        Bits("Rt", 9, 5, _register),
        Bits("CRm", 4, 1),
        Bits("Direction", 0, 0, {0: "write (MSR)", 1: "read (MRS)"}),
    )


def _wfx(_iss: int) -> tuple[Bits, ...]:
    return (
        *_CONDITION,
        res0(19, 10),
        Bits("RN", 9, 5, _register),
        res0(4, 3),
        Bits("RV", 2, 2, {0: "RN is not valid", 1: "RN is valid"}),
        Bits("TI", 1, 0, {0: "WFI", 1: "WFE", 2: "WFIT", 3: "WFET"}),
    )


def _step(_iss: int) -> tuple[Bits, ...]:
    return (
        Bits("ISV", 24, 24, {0: "EX is not valid", 1: "EX is valid"}),
        res0(23, 7),
        Bits("EX", 6, 6, {0: "", 1: "a load-exclusive was stepped"}),
        Bits("IFSC", 5, 0, _DEBUG_STATUS),
    )


def _watchpoint(_iss: int) -> tuple[Bits, ...]:
    return (
        res0(24, 14),
        Bits("VNCR", 13, 13, {0: "", 1: "an access by VNCR_EL2"}),
        res0(12, 11),
        Bits("FnV", 10, 10, {0: _VALID, 1: _NOT_VALID}),
        res0(9, 9),
        Bits("CM", 8, 8, {0: "", 1: "cache maintenance"}),
        res0(7, 7),
        Bits("WnR", 6, 6, {0: "read", 1: "write"}),
        Bits("DFSC", 5, 0, _DEBUG_STATUS),
    )


def _fixed(*fields: Bits) -> Callable[[int], tuple[Bits, ...]]:
    return lambda _iss: fields


_CALL = _fixed(res0(24, 16), Bits("imm16", 15, 0, lambda value: f"#{value:#x}"))
_NOTHING = _fixed(res0(24, 0))
_ERET = _fixed(
    res0(24, 2), Bits("ERET", 1, 1, {0: "ERET", 1: "ERETAA or ERETAB"}), Bits("ERETA", 0, 0, {0: "ERETAA", 1: "ERETAB"})
)
_BREAKPOINT = _fixed(res0(24, 6), Bits("IFSC", 5, 0, _DEBUG_STATUS))

LAYOUTS: dict[int, Callable[[int], tuple[Bits, ...]]] = {
    EC.UNKNOWN: _NOTHING,
    EC.WFX: _wfx,
    EC.FP_ASIMD: _fixed(*_CONDITION, res0(19, 0)),
    EC.ILLEGAL_STATE: _NOTHING,
    EC.SVC64: _CALL,
    EC.HVC64: _CALL,
    EC.SMC64: _CALL,
    EC.SYSREG: _system_register,
    EC.ERET: _ERET,
    EC.IABT_LOWER: _instruction_abort,
    EC.IABT_CURRENT: _instruction_abort,
    EC.PC_ALIGNMENT: _NOTHING,
    EC.DABT_LOWER: _data_abort,
    EC.DABT_CURRENT: _data_abort,
    EC.SP_ALIGNMENT: _NOTHING,
    EC.SERROR: _serror,
    EC.BREAKPOINT_LOWER: _BREAKPOINT,
    EC.BREAKPOINT_CURRENT: _BREAKPOINT,
    EC.STEP_LOWER: _step,
    EC.STEP_CURRENT: _step,
    EC.WATCHPOINT_LOWER: _watchpoint,
    EC.WATCHPOINT_CURRENT: _watchpoint,
    EC.BRK64: _fixed(res0(24, 16), Bits("Comment", 15, 0, lambda value: f"#{value:#x}")),
}
"""The fields of the ISS by exception class."""

_HEAD = (
    res0(63, 56),
    Bits("ISS2", 55, 32, _not_decoded),
    Bits("EC", 31, 26, lambda value: CLASSES.get(value, "reserved")),
    Bits("IL", 25, 25, {0: "16-bit instruction", 1: "32-bit instruction, or no instruction to speak of"}),
)
_ABORTS = frozenset({EC.IABT_LOWER, EC.IABT_CURRENT, EC.DABT_LOWER, EC.DABT_CURRENT})
_DATA = frozenset({EC.DABT_LOWER, EC.DABT_CURRENT})
_WITH_FAR = _ABORTS | {EC.PC_ALIGNMENT, EC.WATCHPOINT_LOWER, EC.WATCHPOINT_CURRENT}


def explain(esr: int) -> list[FieldValue]:
    """All fields of a syndrome register, from bit 63 down."""
    return [_value(field, esr) for field in _HEAD] + explain_iss(syndromes.ec(esr), esr & syndromes.ISS_MASK)


def explain_iss(exception_class: int, iss: int) -> list[FieldValue]:
    """The fields of an ISS (bits 24:0) by itself, as KVM_EXIT_ARM_NISV gives it."""
    layout = LAYOUTS.get(exception_class)
    fields: Sequence[Bits] = (Bits("ISS", 24, 0, _not_decoded),) if layout is None else layout(iss)
    return [_value(field, iss) for field in fields]


def summary(esr: int) -> str:
    """A syndrome in one sentence: what happened, how, and whether FAR tells where."""
    exception_class, iss = syndromes.ec(esr), esr & syndromes.ISS_MASK
    parts = [CLASSES.get(exception_class, f"reserved exception class {exception_class:#x}")]
    if exception_class in _ABORTS:
        parts.append(_status(syndromes.fsc(esr)))
    if exception_class in _DATA:
        parts.append("write" if esr & syndromes.WNR else "read")
    if exception_class == EC.SERROR:
        parts.append("implementation defined syndrome" if iss & syndromes.IDS else _serror_summary(iss))
    if exception_class in {EC.SVC64, EC.HVC64, EC.SMC64, EC.BRK64}:
        parts.append(f"#{iss & 0xFFFF:#x}")
    if exception_class == EC.SYSREG:
        parts.append(f"{explain_iss(exception_class, iss)[1].meaning}, {'read' if iss & 1 else 'write'}")
    if (far := far_valid(esr)) is not None:
        parts.append(_VALID if far else _NOT_VALID)
    return "; ".join(parts)


def far_valid(esr: int) -> bool | None:
    """Whether FAR holds the address; None for an exception that leaves FAR alone."""
    if syndromes.ec(esr) not in _WITH_FAR:
        return None
    return not any(field.name == "FnV" and field.value for field in explain(esr))


def _serror_summary(iss: int) -> str:
    status = iss & syndromes.FSC_MASK
    text = SERROR_STATUS.get(status, "reserved status")
    return f"{text}, {ASYNCHRONOUS_STATE.get(iss >> 10 & 7, 'reserved state')}" if status == 0x11 else text


def _value(field: Bits, register: int) -> FieldValue:
    value = register >> field.low & ((1 << field.high - field.low + 1) - 1)
    return FieldValue(field.name, field.high, field.low, value, _meaning(field.meaning, value))


def _meaning(meaning: Meaning | None, value: int) -> str:
    if meaning is None:
        return ""
    return meaning(value) if callable(meaning) else meaning.get(value, "reserved")
