# SPDX-License-Identifier: GPL-2.0-only
"""A case on which the two processors differ, with what the rules of `known` ask about it.

Most of them ask what the simulated processor would have done if one instruction had been another: UDF where QEMU says
UNDEFINED, NOP where it does nothing. That, then, has to be exactly what QEMU did.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle import layout as at
from tests.oracle.case import Case, Result

Simulate = Callable[[Case], Result]

M64: Final = (1 << 64) - 1
ESR: Final = at.SYSTEM.index("esr_el1")
ELR: Final = at.SYSTEM.index("elr_el1")
FAR: Final = at.SYSTEM.index("far_el1")
PAR: Final = at.SYSTEM.index("par_el1")
SCTLR: Final = at.SYSTEM.index("sctlr_el1")
SPSR: Final = at.SYSTEM.index("spsr_el1")
UDF: Final = encode("UDF", imm16=0)
NOP: Final = encode("HINT", CRm=0, op2=0)
ALLINT: Final = 1 << 13
_NZCV: Final = 0xF << 28
_VECTORS_END: Final = at.VECTORS + 0x800
_DATA_ABORTS: Final = frozenset({esr.EC.DABT_LOWER, esr.EC.DABT_CURRENT})
_INSTRUCTION_ABORTS: Final = frozenset({esr.EC.IABT_LOWER, esr.EC.IABT_CURRENT})


def normal(result: Result) -> Result:
    """The result without what QEMU does otherwise in every case.

    PSTATE.{N,Z,C,V} and DIT stay as they are when an exception is taken (Arm ARM, AArch64.TakeException); QEMU clears
    them. What they were is compared in SPSR_EL1. ALLINT is set then where there is FEAT_NMI (max of QEMU 9 and later).
    """
    if reached_el1(result):
        return result._replace(pstate=result.pstate & ~(_NZCV | pstate.DIT | ALLINT))
    return result


def reached_el1(result: Result) -> bool:
    """Whether what ended the case was an exception to EL1, whose vector then called EL2."""
    return esr.ec(result.esr_el2) == esr.EC.HVC64 and at.VECTORS <= result.pc < _VECTORS_END


def with_system(result: Result, index: int, value: int) -> Result:
    """The result with another value in a system register."""
    return result._replace(system=(*result.system[:index], value, *result.system[index + 1 :]))


def with_register(result: Result, number: int, value: int) -> Result:
    """The result with another value in a general-purpose register; 31 is none."""
    return result._replace(x=(*result.x[:number], value, *result.x[number + 1 :])) if number < 31 else result


class Ending(NamedTuple):
    """The exception that ended a case."""

    syndrome: int = 0
    number: int | None = None
    """Which of the instructions took it; None: another one, behind them."""
    word: int | None = None
    far: int = 0

    @property
    def ec(self) -> int:
        return esr.ec(self.syndrome)

    @property
    def name(self) -> str:
        """The encoding class of the instruction, empty if there is none."""
        encoding = None if self.word is None else decode(self.word)
        return "" if encoding is None else encoding.name

    @property
    def fields(self) -> dict[str, int]:
        encoding = None if self.word is None else decode(self.word)
        return {} if encoding is None or self.word is None else encoding.decode(self.word)

    @property
    def is_data_abort(self) -> bool:
        return self.ec in _DATA_ABORTS

    @property
    def is_instruction_abort(self) -> bool:
        return self.ec in _INSTRUCTION_ABORTS


def ending(case: Case, result: Result) -> Ending:
    """How a case ended; a reset, with no syndrome at all, is an `Ending` of nothing."""
    if reached_el1(result):
        syndrome, address, far = result.system[ESR], result.system[ELR], result.system[FAR]
    else:
        syndrome, address, far = result.esr_el2, result.pc, result.far_el2
    if not syndrome:
        return Ending()
    number, rest = divmod(address - case.pc + (case.pc - case.code_at & at.PAGE - 1), 4)
    if rest or not 0 <= number < len(case.words):
        return Ending(syndrome, far=far)
    return Ending(syndrome, number, case.words[number], far)


class Difference:
    """A case and two results, which are not the same, or no longer if one instruction is another one."""

    def __init__(self, case: Case, qemu: Result, simulated: Result, simulate: Simulate) -> None:
        self.case = case
        self.qemu = qemu
        self.simulated = simulated
        self._simulate = simulate
        self.theirs = ending(case, qemu)
        self.ours = ending(case, simulated)

    def stage2_instead(self, exception_class: int) -> bool:
        """Whether QEMU has taken this exception to EL2, and nothing to EL1: its syndrome registers are as they were.

        Nothing is said of general-purpose registers and memory. No case that writes one of the four does so before a
        load or store.
        """
        if reached_el1(self.qemu) or esr.ec(self.qemu.esr_el2) != exception_class:
            return False
        before = tuple(self.case.system[name] for name in at.SYSTEM)
        ours = self.simulated
        for index in (ESR, ELR, FAR, SPSR):
            ours = with_system(ours, index, before[index])
        return ours.system == self.qemu.system

    @property
    def agree(self) -> bool:
        return self.qemu == self.simulated

    def with_qemu(self, qemu: Result) -> Difference:
        """With another result of QEMU's."""
        return Difference(self.case, qemu, self.simulated, self._simulate)

    def again(self) -> Difference:
        """Simulated once more, with nothing in the TLB afterwards."""
        case = copy(self.case)
        case.forget = True
        return Difference(case, self.qemu, self._simulate(case), self._simulate)

    def instead(self, number: int, word: int) -> Difference:
        """QEMU's result as it is, and the simulated one with another instruction in the place of this one."""
        case = copy(self.case)
        case.words = [*case.words[:number], word, *case.words[number + 1 :]]
        return Difference(case, self.qemu, self._simulate(case), self._simulate)

    def as_if(self, number: int, word: int) -> Result:
        """The simulated result with another instruction in the place of this one."""
        return self.instead(number, word).simulated

    def undefined(self, number: int) -> Result:
        """The result if this instruction were UNDEFINED."""
        return self.as_if(number, UDF)

    def without_sctlr(self, bits: int) -> Difference:
        """The simulated one without some bits of SCTLR_EL1. Those that QEMU has left as they were do not count."""
        case, before = copy(self.case), self.case.system["sctlr_el1"]
        case.system = {**case.system, "sctlr_el1": before & ~bits}
        unchanged = self.qemu.system[SCTLR] == before
        qemu = with_system(self.qemu, SCTLR, before & ~bits) if unchanged else self.qemu
        return Difference(case, qemu, self._simulate(case), self._simulate)
