# SPDX-License-Identifier: GPL-2.0-only
"""Cases of the instructions that reach system registers, and of exceptions generated and returned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pytest_kvm_sea.arm64.asm_control import PSTATE_FIELDS, SYSTEM_OPERATIONS
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.arm64.sysregs import SYSREGS
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle.instructions import Draft, random_word
from tests.oracle.surroundings import M64, data_address, operand

_NOT_WRITTEN: Final = frozenset(
    {
        "mdscr_el1",  # debug exceptions, which the model does not have
        "oslar_el1",  # not among the registers that a record sets: what one case writes the next would find
        "osdlr_el1",
        "actlr_el1",
        "afsr0_el1",
        "afsr1_el1",
        "amair_el1",
        "csselr_el1",
        "errselr_el1",
    }
)
_FROM_EL0: Final = tuple(name for name in SYSREGS if SYSREGS[name] >> 11 & 7 == 3)
_SEMIHOSTING: Final = 0xF000


def mrs(draft: Draft) -> None:
    rng = draft.rng
    name = rng.choice(_FROM_EL0 if rng.randrange(3) == 0 else tuple(SYSREGS))
    register: int = SYSREGS[name]
    if rng.randrange(20) == 0:
        register = rng.getrandbits(15) | 0x8000
    draft.words.append(ENCODINGS["MRS"].encode(sysreg=register & 0x7FFF, Rt=rng.randrange(32)))


def msr(draft: Draft) -> None:
    rng = draft.rng
    names = _FROM_EL0 if rng.randrange(3) == 0 else tuple(SYSREGS)
    name = rng.choice([each for each in names if each not in _NOT_WRITTEN])
    rt = rng.randrange(31)
    draft.pin(rt, _value(draft, name))
    draft.words.append(ENCODINGS["MSR"].encode(sysreg=SYSREGS[name] & 0x7FFF, Rt=rt))
    if name in {"pan", "spsel", "sctlr_el1", "ttbr0_el1", "tcr_el1"} and rng.randrange(2):
        # What it changes shows in an access
        draft.pin(base := (rt + 1) % 30, data_address(rng, draft.env))
        draft.words += [
            ENCODINGS["ISB"].encode(CRm=15),
            ENCODINGS["LDST_UIMM"].encode(size=3, opc=1, imm12=0, Rn=base, Rt=(rt + 2) % 30),
        ]


def _value(draft: Draft, name: str) -> int:
    """A value that leaves the vectors where they can be fetched from."""
    rng, now = draft.rng, draft.system.get(name, 0)
    if name == "sctlr_el1":
        bits = (state.SCTLR_A, state.SCTLR_SA, state.SCTLR_SA0, state.SCTLR_SPAN, state.SCTLR_UMA, state.SCTLR_M)
        return now ^ rng.choice(bits)
    if name in {"tcr_el1", "mair_el1"}:
        return now ^ rng.choice((0, 1 << 37, 1 << 38, 1 << 23)) if name == "tcr_el1" else operand(rng)
    if name in {"ttbr0_el1", "ttbr1_el1"}:
        return now | rng.getrandbits(16) << 48
    if name == "vbar_el1":
        # Bits 10:5 are RES0, but QEMU takes them for part of the address
        return now | rng.randrange(0x20)
    if name == "cpacr_el1":
        return rng.choice((0, 2 << 20))
    if name == "spsr_el1":
        return operand(rng) & M64 >> 32
    if name in {"contextidr_el1", "cntkctl_el1"}:
        return operand(rng) & 0xFFFF_FFFF if name == "contextidr_el1" else rng.randrange(4)
    return operand(rng)


def msr_immediate(draft: Draft) -> None:
    rng = draft.rng
    op1, op2, greatest = PSTATE_FIELDS[rng.choice(tuple(PSTATE_FIELDS))]
    value = rng.randrange(greatest + 1)
    if rng.randrange(20) == 0:
        op1, op2 = rng.randrange(8), rng.randrange(8)
    draft.words.append(ENCODINGS["MSR_IMM"].encode(op1=op1, CRm=value, op2=op2))


def system_operation(draft: Draft) -> None:
    rng = draft.rng
    name = rng.choice(tuple(SYSTEM_OPERATIONS))
    op1, crn, crm, op2 = SYSTEM_OPERATIONS[name]
    if rng.randrange(20) == 0:
        op1, crn, crm, op2 = rng.choice((0, 3)), rng.choice((7, 8)), rng.randrange(16), rng.randrange(8)
    rt = rng.randrange(32)
    if rt < 31:
        draft.pin(rt, data_address(rng, draft.env))
    draft.words.append(ENCODINGS["SYS"].encode(op1=op1, CRn=crn, CRm=crm, op2=op2, Rt=rt))


def eret(draft: Draft) -> None:
    """To every mode, also to ones that there are not; with targets near and odd."""
    rng = draft.rng
    spsr = rng.getrandbits(32) & ~(pstate.IL | 0x1F) | rng.choice((*pstate.MODES,) * 4 + tuple(range(16)))
    draft.system["spsr_el1"] = spsr | pstate.IL * (rng.randrange(20) == 0)
    kind = rng.randrange(8)
    # Beyond the instruction itself, which would return to itself for ever
    target = draft.pc + 4 * rng.randrange(1, 1000)
    if kind == 0:
        target |= rng.getrandbits(8) << 56
    elif kind == 1:
        target = operand(rng)
    elif kind == 2:
        target += rng.randrange(4)
    draft.system["elr_el1"] = target
    if rng.randrange(8):
        draft.pstate = draft.pstate & ~0xF | rng.choice((pstate.EL1T, pstate.EL1H))
    draft.words.append(ENCODINGS["ERET"].encode())


def halt(draft: Draft) -> None:
    """HLT, but not the one that calls the emulator."""
    word = random_word(draft.rng, ENCODINGS["HLT"])
    draft.words.append(word ^ 1 << 5 if word >> 5 & 0xFFFF == _SEMIHOSTING else word)


SYSTEM_MAKERS: Final[dict[str, Callable[[Draft], None]]] = {
    "MRS": mrs,
    "MSR": msr,
    "MSR_IMM": msr_immediate,
    "SYS": system_operation,
    "ERET": eret,
    "HLT": halt,
}
