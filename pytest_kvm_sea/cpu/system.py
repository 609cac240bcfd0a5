# SPDX-License-Identifier: GPL-2.0-only
"""System registers and instructions as EL0 and EL1 see them (Arm ARM, D24.2 and C5).

What has no entry here is UNDEFINED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from pytest_kvm_sea.arm64.esr import EC, syndrome
from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.bus import Access
from pytest_kvm_sea.cpu.exceptions import Exceptions
from pytest_kvm_sea.cpu.state import (
    DISR_EL1,
    MAIR_EL1,
    PAR_EL1,
    SCTLR2_EL1,
    SCTLR_A,
    SCTLR_DZE,
    SCTLR_EL1,
    SCTLR_UCI,
    SCTLR_UCT,
    SCTLR_UMA,
    TCR_EL1,
    TTBR0_EL1,
    TTBR1_EL1,
)
from pytest_kvm_sea.cpu.traps import GuestException

COUNTER_FREQUENCY: Final = 1_000_000_000
"""The generic timer counts instructions, as if one took a nanosecond."""
_ID_SPACE: Final = (sysreg("s3_0_c0_c1_0"), sysreg("s3_0_c0_c7_7"))
"""Reads as zero where it has no register (Arm ARM, D24.1.1)."""
_XZR: Final = 31
_EL0VCTEN: Final = 1 << 1
_EL0PCTEN: Final = 1 << 0
_CNTKCTL_EL1: Final = sysreg("cntkctl_el1")
_ZERO_AT: Final = 0x7
_M64: Final = 0xFFFF_FFFF_FFFF_FFFF

_TRANSLATION: Final = frozenset({SCTLR_EL1, SCTLR2_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1})
"""Registers whose change changes what memory looks like."""


class System(Exceptions):
    """MRS, MSR, SYS and ISB: each gets the PC and gives the next one."""

    __slots__ = ()

    def isb(self, pc: int) -> int:
        """What was changed in memory is executed from now on."""
        for context in self.contexts:
            context.blocks.clear()
        return pc + 4

    def mrs(self, register: int, target: int, pc: int) -> int:
        """MRS: target is the number of a general-purpose register."""
        value = self.read_register(SysReg(register), target)
        if target != _XZR:
            self.x[target] = value
        return pc + 4

    def msr(self, register: int, source: int, pc: int) -> int:
        """MSR (register)."""
        self.write_register(SysReg(register), 0 if source == _XZR else self.x[source], source)
        return self.after(pc + 4)

    def read_register(self, register: SysReg, target: int = _XZR) -> int:
        """The value that MRS gives at the current exception level. Raises GuestException where it is not accessible."""
        entry = _REGISTERS.get(register)
        if entry is None:
            if _ID_SPACE[0] <= register <= _ID_SPACE[1] and self.el:
                return self.id_registers.get(register, 0)
            self.undefined()
        if entry.feature:
            self.require(entry.feature)
        if not self.el:
            self._check_el0(entry, register, target, read=True)
        if entry.read is None:
            self.undefined()
        return entry.read(self, register)

    def write_register(self, register: SysReg, value: int, source: int = _XZR) -> None:
        """What MSR does at the current exception level. Raises GuestException where it is not accessible."""
        entry = _REGISTERS.get(register)
        if entry is None:
            self.undefined()
        if entry.feature:
            self.require(entry.feature)
        if not self.el:
            self._check_el0(entry, register, source, read=False)
        if entry.write is None:
            self.undefined()
        entry.write(self, register, value)

    def msr_immediate(self, field: int, value: int, pc: int) -> int:
        """MSR (immediate); the field is op1:op2 (Arm ARM, C6.2 MSR (immediate))."""
        name = _PSTATE_FIELDS.get(field)
        if name is None:
            self.undefined(pc)
        if name in {"daifset", "daifclr"}:
            if not self.el and not self.sysregs[SCTLR_EL1] & SCTLR_UMA:
                raise GuestException(syndrome(EC.SYSREG, _msr_immediate_iss(field, value)))
            bits = value << 6
            self.pstate_bits = self.pstate_bits | bits if name == "daifset" else self.pstate_bits & ~bits
        elif name == "spsel":
            if not self.el:
                self.undefined(pc)
            self.enter_mode(1, value & 1)
        elif name == "pan":
            self.require("pan")
            if not self.el:
                self.undefined(pc)
            self.set_pstate_bit(pstate.PAN, value & 1)
        elif name == "ssbs":
            self.require("ssbs")
            self.set_pstate_bit(pstate.SSBS, value & 1)
        else:
            self.require("dit")
            self.set_pstate_bit(pstate.DIT, value & 1)
        return self.after(pc + 4)

    def set_pstate_bit(self, bit: int, value: int) -> None:
        self.pstate_bits = self.pstate_bits | bit if value else self.pstate_bits & ~bit
        self.enter_mode(self.el, self.spsel)

    def sys(self, operation: int, source: int, pc: int) -> int:
        """SYS: AT, DC, IC, TLBI. The operation is op1:CRn:CRm:op2 as in a SysReg."""
        value = 0 if source == _XZR else self.x[source]
        found = _OPERATIONS.get(operation)
        if found is None:
            if operation >> 7 & 0xF != _TLBI_CRN or operation >> 11 or not self.el:
                self.undefined(pc)
            found = _TLBI
        if not self.el:
            if found.el0 is None:
                self.undefined(pc)
            if not self.sysregs[SCTLR_EL1] & found.el0:
                raise GuestException(syndrome(EC.SYSREG, _trap_iss(0x4000 | operation, source, read=False)))
        found.action(self, value)
        return self.after(pc + 4)

    def _check_el0(self, entry: _Register, register: SysReg, number: int, *, read: bool) -> None:
        if entry.el0 is None:
            self.undefined()
        if (read and entry.read is None) or (not read and (entry.write is None or entry.el0_read_only)):
            self.undefined()
        if not entry.el0(self):
            raise GuestException(syndrome(EC.SYSREG, _trap_iss(register, number, read=read)))


def _trap_iss(register: int, number: int, *, read: bool) -> int:
    """ISS of a trapped MSR, MRS or system instruction (Arm ARM, D24.2.39, EC 0x18)."""
    op0, op1, crn, crm, op2 = register >> 14, register >> 11 & 7, register >> 7 & 15, register >> 3 & 15, register & 7
    return op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | number << 5 | crm << 1 | read


def _msr_immediate_iss(field: int, value: int) -> int:
    return _trap_iss((field >> 3) << 11 | 4 << 7 | value << 3 | field & 7, _XZR, read=False)


# Registers

_Read: TypeAlias = Callable[[System, SysReg], int]
_Write: TypeAlias = Callable[[System, SysReg, int], None]


class _Register(NamedTuple):
    read: _Read | None
    write: _Write | None
    el0: Callable[[System], bool] | None = None
    """None: UNDEFINED at EL0. Otherwise whether it is not trapped."""
    el0_read_only: bool = False
    feature: str = ""


def _stored(c: System, register: SysReg) -> int:
    return c.sysregs[register]


def _store(c: System, register: SysReg, value: int) -> None:
    c.sysregs[register] = value


def _set_translation(c: System, register: SysReg, value: int) -> None:
    c.sysregs[register] = value
    if register == SCTLR_EL1:
        c.strict_alignment = bool(value & SCTLR_A)
    c.invalidate_tlb()


def _set_vbar(c: System, register: SysReg, value: int) -> None:
    c.sysregs[register] = value & ~0x7FF


def _constant(value: int) -> _Read:
    return lambda _c, _register: value


def _identification(c: System, register: SysReg) -> int:
    return c.id_registers.get(register, 0)


def _ignore(c: System, register: SysReg, value: int) -> None:
    del c, register, value


def _bits(mask: int) -> _Register:
    """A register that shows bits of PSTATE."""

    def read(c: System, _register: SysReg) -> int:
        return c.pstate_bits & mask

    def write(c: System, _register: SysReg, value: int) -> None:
        c.pstate_bits = c.pstate_bits & ~mask | value & mask
        c.enter_mode(c.el, c.spsel)

    return _Register(read, write)


def _read_nzcv(c: System, _register: SysReg) -> int:
    return c.nzcv << 28


def _write_nzcv(c: System, _register: SysReg, value: int) -> None:
    c.fk, c.fa = pstate.RAW, value >> 28 & 0xF


def _read_sp_el0(c: System, _register: SysReg) -> int:
    if not c.spsel:
        c.undefined()
    return c.sp_el0


def _write_sp_el0(c: System, _register: SysReg, value: int) -> None:
    if not c.spsel:
        c.undefined()
    c.sp_el0 = value


def _write_spsel(c: System, _register: SysReg, value: int) -> None:
    c.enter_mode(1, value & 1)


def _read_isr(c: System, _register: SysReg) -> int:
    return pstate.A if c.vserror is not None else 0


def _counter(c: System, _register: SysReg) -> int:
    return c.instructions & _M64


def _no_floating_point(c: System, _register: SysReg) -> int:
    return c.fp_simd(0)


def _no_floating_point_write(c: System, _register: SysReg, _value: int) -> None:
    c.fp_simd(0)


def _always(_c: System) -> bool:
    return True


def _sctlr_allows(bit: int) -> Callable[[System], bool]:
    return lambda c: bool(c.sysregs[SCTLR_EL1] & bit)


def _cntkctl_allows(bits: int) -> Callable[[System], bool]:
    return lambda c: bool(c.sysregs[_CNTKCTL_EL1] & bits)


_PLAIN: Final = (
    "actlr_el1",
    "afsr0_el1",
    "afsr1_el1",
    "amair_el1",
    "cntkctl_el1",
    "contextidr_el1",
    "cpacr_el1",
    "csselr_el1",
    "elr_el1",
    "esr_el1",
    "far_el1",
    "mdscr_el1",
    "osdlr_el1",
    "par_el1",
    "spsr_el1",
    "tpidr_el1",
)
"""Registers that only hold what was written, for EL1."""


def _table() -> dict[SysReg, _Register]:
    plain = _Register(_stored, _store)
    translation = _Register(_stored, _set_translation)
    identification = _Register(_identification, None)
    zero = _Register(_constant(0), _ignore)
    names: dict[str, _Register] = {
        **dict.fromkeys(
            [
                "actlr_el1",
                "afsr0_el1",
                "afsr1_el1",
                "amair_el1",
                "cntkctl_el1",
                "contextidr_el1",
                "cpacr_el1",
                "csselr_el1",
                "elr_el1",
                "esr_el1",
                "far_el1",
                "mdscr_el1",
                "osdlr_el1",
                "par_el1",
                "spsr_el1",
                "tpidr_el1",
            ],
            plain,
        ),
        **dict.fromkeys(["sctlr_el1", "tcr_el1", "ttbr0_el1", "ttbr1_el1", "mair_el1"], translation),
        **dict.fromkeys(["midr_el1", "mpidr_el1", "clidr_el1", "ccsidr_el1", "rvbar_el1"], identification),
        "revidr_el1": _Register(_identification, None),
        "aidr_el1": identification,
        "sctlr2_el1": translation._replace(feature="ease"),
        "vbar_el1": _Register(_stored, _set_vbar),
        "sp_el0": _Register(_read_sp_el0, _write_sp_el0),
        "spsel": _Register(lambda c, _register: c.spsel, _write_spsel),
        "currentel": _Register(lambda c, _register: c.el << 2, None),
        "daif": _bits(pstate.DAIF)._replace(el0=_sctlr_allows(SCTLR_UMA)),
        "pan": _bits(pstate.PAN)._replace(feature="pan"),
        "dit": _bits(pstate.DIT)._replace(feature="dit", el0=_always),
        "ssbs": _bits(pstate.SSBS)._replace(feature="ssbs", el0=_always),
        "nzcv": _Register(_read_nzcv, _write_nzcv, _always),
        "isr_el1": _Register(_read_isr, None),
        "disr_el1": plain._replace(feature="ras"),
        # No error records
        "erridr_el1": _Register(_constant(0), None, feature="ras"),
        "errselr_el1": zero._replace(feature="ras"),
        "oslar_el1": _Register(None, _ignore),
        "oslsr_el1": _Register(_stored, None),
        **dict.fromkeys(("fpcr", "fpsr"), _Register(_no_floating_point, _no_floating_point_write, _always)),
        "tpidr_el0": plain._replace(el0=_always),
        "tpidrro_el0": plain._replace(el0=_always, el0_read_only=True),
        "ctr_el0": identification._replace(el0=_sctlr_allows(SCTLR_UCT)),
        "dczid_el0": identification._replace(el0=_always),
        "cntfrq_el0": _Register(_constant(COUNTER_FREQUENCY), None, _cntkctl_allows(_EL0VCTEN | _EL0PCTEN)),
        "cntvct_el0": _Register(_counter, None, _cntkctl_allows(_EL0VCTEN)),
        "cntpct_el0": _Register(_counter, None, _cntkctl_allows(_EL0PCTEN)),
    }
    return {sysreg(name): entry for name, entry in names.items()}


_REGISTERS: Final = _table()

_PSTATE_FIELDS: Final = {
    0o05: "spsel",
    0o04: "pan",
    0o31: "ssbs",
    0o32: "dit",
    0o36: "daifset",
    0o37: "daifclr",
}


# System instructions


class _Operation(NamedTuple):
    action: Callable[[System, int], None]
    el0: int | None = None
    """The bit of SCTLR_EL1 that allows it at EL0; None: UNDEFINED there."""


def _at(*, write: bool, el0: bool) -> _Operation:
    def action(c: System, va: int) -> None:
        c.sysregs[PAR_EL1] = c.translate(va, write=write, el0=el0)[1]

    return _Operation(action)


def _invalidate_instructions(c: System, _value: int) -> None:
    for context in c.contexts:
        context.blocks.clear()


def _invalidate_instructions_at(c: System, va: int) -> None:
    c.maintain(va)
    _invalidate_instructions(c, va)


def _operation(op1: int, crn: int, crm: int, op2: int) -> int:
    return op1 << 11 | crn << 7 | crm << 3 | op2


_TLBI_CRN: Final = 8
_TLBI: Final = _Operation(lambda c, _value: c.invalidate_tlb())
"""Every TLBI of EL1 drops everything: that is allowed, and simple."""
_BY_SET_AND_WAY: Final = _Operation(lambda _c, _value: None)
_CLEAN: Final = _Operation(lambda c, va: c.maintain(va))
_CLEAN_AT_EL0: Final = _Operation(lambda c, va: c.maintain(va), SCTLR_UCI)

_OPERATIONS: Final[dict[int, _Operation]] = {
    _operation(0, 7, 8, 0): _at(write=False, el0=False),
    _operation(0, 7, 8, 1): _at(write=True, el0=False),
    _operation(0, 7, 8, 2): _at(write=False, el0=True),
    _operation(0, 7, 8, 3): _at(write=True, el0=True),
    # IC IALLUIS, IALLU, IVAU
    _operation(0, 7, 1, 0): _Operation(_invalidate_instructions),
    _operation(0, 7, 5, 0): _Operation(_invalidate_instructions),
    _operation(3, 7, 5, 1): _Operation(_invalidate_instructions_at, SCTLR_UCI),
    # DC IVAC needs permission to write; ISW, CSW, CISW; CVAC, CVAU, CIVAC; ZVA
    _operation(0, 7, 6, 1): _Operation(lambda c, va: c.maintain(va, Access.WRITE)),
    _operation(0, 7, 6, 2): _BY_SET_AND_WAY,
    _operation(0, 7, 10, 2): _BY_SET_AND_WAY,
    _operation(0, 7, 14, 2): _BY_SET_AND_WAY,
    _operation(3, 7, 10, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 11, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 14, 1): _CLEAN_AT_EL0,
    _operation(3, 7, 4, 1): _Operation(lambda c, va: c.zero_block(va), SCTLR_DZE),
}

__all__ = ["COUNTER_FREQUENCY", "DISR_EL1", "System"]
