# SPDX-License-Identifier: GPL-2.0-only
"""Statements of guest code that concern the processor: system registers, barriers, exceptions."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvm_sea.arm64.asm_control import PSTATE_FIELDS, SYSTEM_OPERATIONS
from pytest_kvm_sea.arm64.operands import XZR, X
from pytest_kvm_sea.guest.base import USER_ENTRY, USER_STACK_TOP, GuestBase
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.values import Operand, Value, as_value

MAX_ARGUMENTS = 8
"""How many arguments a call takes: x0 to x7."""


class SystemStatements(GuestBase):
    """System registers, PSTATE, barriers, exception-generating instructions."""

    def read_sysreg(self, name: str) -> Value:
        """A system register, named as in an MRS."""
        self.begin()
        return self.code.define(lambda rd: self.asm.mrs(rd, name))

    def write_sysreg(self, name: str, value: Operand) -> None:
        self.begin()
        self.asm.msr(name, self.code.evaluate(as_value(value)))

    def msr_imm(self, field: str, value: int) -> None:
        """A field of PSTATE, e.g. ``pan``."""
        self.begin()
        if field not in PSTATE_FIELDS:
            raise GuestBuildError(f"msr_imm: {field!r} is no field of PSTATE; it takes {', '.join(PSTATE_FIELDS)}")
        self.asm.msr_imm(field, value)

    def daifset(self, mask: int) -> None:
        """Mask exceptions: 8 debug, 4 SError, 2 IRQ, 1 FIQ."""
        self.msr_imm("daifset", mask)

    def daifclr(self, mask: int) -> None:
        """Unmask exceptions."""
        self.msr_imm("daifclr", mask)

    def system(self, operation: str, operand: Operand | None = None) -> None:
        """AT, DC, IC or TLBI by name: ``g.system("dc civac", address)``."""
        self.begin()
        if operation not in SYSTEM_OPERATIONS:
            raise GuestBuildError(f"system: {operation!r} is unknown; it takes {', '.join(SYSTEM_OPERATIONS)}")
        self.asm.system(operation, XZR if operand is None else self.code.evaluate(as_value(operand)))

    def isb(self) -> None:
        self.begin()
        self.asm.isb()

    def dsb(self, option: str = "sy") -> None:
        self.begin()
        self.asm.dsb(option)

    def dmb(self, option: str = "sy") -> None:
        self.begin()
        self.asm.dmb(option)

    def nop(self) -> None:
        self.begin()
        self.asm.nop()

    def wfi(self) -> None:
        self.begin()
        self.asm.wfi()

    def brk(self, number: int = 0) -> None:
        self.begin()
        self.asm.brk(number)

    def word(self, instruction: int) -> None:
        """An instruction as a number, for what has no statement here or is UNDEFINED on purpose."""
        self.begin()
        self.asm.word(instruction)

    def svc(self, number: int = 0, *arguments: Operand) -> Value:
        """A call to EL1, with arguments in x0 and on; the result is x0."""
        self.begin()
        self.pass_arguments(arguments)
        self.asm.svc(number)
        return self.result()

    def hvc(self, number: int = 0, *arguments: Operand) -> Value:
        """A call to the hypervisor, with arguments in x0 and on; the result is x0."""
        self.begin()
        self.pass_arguments(arguments)
        self.asm.hvc(number)
        return self.result()

    def enter_el0(self, pstate: Operand = 0) -> None:
        """Run the program's ``user`` function at EL0, on its stack. Only exceptions come back."""
        self.begin()
        if not self.linker.has_user:
            raise GuestBuildError("enter_el0: this program has no user function; give one to GuestProgram.build")
        register = self.code.take()
        self.asm.adr(register, USER_ENTRY)
        self.asm.msr("elr_el1", register)
        self.asm.adr(register, USER_STACK_TOP)
        self.asm.msr("sp_el0", register)
        self.asm.msr("spsr_el1", self.code.evaluate(as_value(pstate)))
        self.asm.eret()

    def exception_return(self, address: Operand, pstate: Operand) -> None:
        """ERET to an address with a PSTATE, both as numbers; what comes next here is reached only by its label."""
        self.begin()
        self.asm.msr("elr_el1", self.code.evaluate(as_value(address)))
        self.begin()
        self.asm.msr("spsr_el1", self.code.evaluate(as_value(pstate)))
        self.asm.eret()

    def pass_arguments(self, arguments: Sequence[Operand]) -> None:
        """Have the arguments of a call in x0 and on."""
        if len(arguments) > MAX_ARGUMENTS:
            raise GuestBuildError(f"a call with {len(arguments)} arguments; it takes at most {MAX_ARGUMENTS}")
        for register, argument in zip(X, arguments, strict=False):
            self.code.begin()
            self.code.evaluate(as_value(argument), register)

    def result(self) -> Value:
        """What a call left in x0."""
        return self.code.define(lambda rd: self.asm.mov(rd, X[0]))
