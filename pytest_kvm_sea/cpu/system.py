# SPDX-License-Identifier: GPL-2.0-only
"""System registers and instructions as EL0 and EL1 see them (Arm ARM, D24.2 and C5).

What has no entry here is UNDEFINED.
"""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.esr import EC, syndrome
from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.exceptions import Exceptions
from pytest_kvm_sea.cpu.state import SCTLR_EL1, SCTLR_UMA
from pytest_kvm_sea.cpu.system_operations import OPERATIONS, invalidate_instructions
from pytest_kvm_sea.cpu.system_registers import REGISTERS, Register
from pytest_kvm_sea.cpu.traps import GuestException, Trap, TrapTaken

_ID_SPACE: Final = (sysreg("s3_0_c0_c1_0"), sysreg("s3_0_c0_c7_7"))
"""Reads as zero where it has no register (Arm ARM, D24.1.1)."""
_XZR: Final = 31
_SYS: Final = 1 << 14
"""op0 of SYS."""
_EL2_OP1: Final = (4, 5)
"""op1 of what EL2 has: registers of its own, and EL1's and EL0's under another name."""
_PSTATE_FIELDS: Final = {
    0o05: "spsel",
    0o36: "daifset",
    0o37: "daifclr",
}
"""op1:op2 of MSR (immediate); those that write one bit are below."""
_PSTATE_BITS: Final = {
    0o03: ("uao", pstate.UAO),
    0o04: ("pan", pstate.PAN),
    0o31: ("ssbs", pstate.SSBS),
    0o32: ("dit", pstate.DIT),
}
"""With the feature that there must be. What has op1 = 0 is EL1's."""


class System(Exceptions):
    """MRS, MSR, SYS and ISB: each gets the PC and gives the next one."""

    __slots__ = ()

    def isb(self, pc: int) -> int:
        """What was changed in memory is executed from now on."""
        invalidate_instructions(self)
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
        entry = REGISTERS.get(register)
        if entry is None:
            self._check_el2(register, target, read=True)
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
        entry = REGISTERS.get(register)
        if entry is None:
            self._check_el2(register, source, read=False)
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
        if field in _PSTATE_BITS:
            feature, bit = _PSTATE_BITS[field]
            self.require(feature)
            if not self.el and not field >> 3:
                self.undefined(pc)
            self.set_pstate_bit(bit, value & 1)
            return self.after(pc + 4)
        name = _PSTATE_FIELDS.get(field)
        if name is None:
            self.undefined(pc)
        if name in {"daifset", "daifclr"}:
            if not self.el and not self.sysregs[SCTLR_EL1] & SCTLR_UMA:
                raise GuestException(syndrome(EC.SYSREG, _msr_immediate_iss(field, value)))
            bits = value << 6
            self.pstate_bits = self.pstate_bits | bits if name == "daifset" else self.pstate_bits & ~bits
        else:
            if not self.el:
                self.undefined(pc)
            self.enter_mode(1, value & 1)
        return self.after(pc + 4)

    def set_pstate_bit(self, bit: int, value: int) -> None:
        self.pstate_bits = self.pstate_bits | bit if value else self.pstate_bits & ~bit
        self.enter_mode(self.el, self.spsel)

    def sys(self, operation: int, source: int, pc: int) -> int:
        """SYS: AT, DC, IC, TLBI. The operation is op1:CRn:CRm:op2 as in a SysReg."""
        value = 0 if source == _XZR else self.x[source]
        found = OPERATIONS.get(operation)
        if found is None:
            self._check_el2(_SYS | operation, source, read=False)
            self.undefined(pc)
        if not self.el:
            if found.el0 is None:
                self.undefined(pc)
            if not self.sysregs[SCTLR_EL1] & found.el0:
                raise GuestException(syndrome(EC.SYSREG, _trap_iss(_SYS | operation, source, read=False)))
        found.action(self, value)
        return self.after(pc + 4)

    def _check_el2(self, register: int, number: int, *, read: bool) -> None:
        """Registers and instructions of EL2 are taken to EL2 where HCR_EL2.NV says so: KVM emulates them."""
        if self.nv and self.el and register >> 11 & 7 in _EL2_OP1:
            raise TrapTaken(Trap(syndrome(EC.SYSREG, _trap_iss(register, number, read=read)), 0, None))

    def _check_el0(self, entry: Register, register: SysReg, number: int, *, read: bool) -> None:
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
