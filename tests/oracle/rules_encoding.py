# SPDX-License-Identifier: GPL-2.0-only
"""Rules of `known` about encodings that one of the two does not have, and those of which the architecture leaves open
what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle.case import Result
from tests.oracle.difference import ESR, FAR, NOP, PAR, SPSR, Difference, reached_el1, with_register, with_system
from tests.oracle.encodings_of_one import only_in_qemu, only_in_the_model
from tests.oracle.instructions import NOT_ONE, as_it_should_be, exclusives_of_two_sizes, unpredictable
from tests.oracle.rules_memory import failed_store, plain_store
from tests.oracle.rules_system import trap_iss
from tests.oracle.rules_translation import with_walk_level_of

_SYSTEM: Final = 0xD500_0000
_FP_TRAPPED: Final = esr.syndrome(esr.EC.FP_ASIMD, 1 << 24 | 0xE << 20)
_DC_CVAP, _DC_CVAC = (encode("SYS", op1=3, CRn=7, CRm=crm, op2=1, Rt=0) for crm in (12, 10))
_AT_WITH_PAN: Final = {
    encode("SYS", op1=0, CRn=7, CRm=9, op2=write, Rt=0): encode("SYS", op1=0, CRn=7, CRm=8, op2=write, Rt=0)
    for write in (0, 1)
}
"""AT S1E1RP and S1E1WP, and those that do not look at PSTATE.PAN."""
_PAR_SH: Final = 3 << 7
_LINE: Final = 64
"""Bytes of a cache line."""
_INSTRUCTION_SYNDROME: Final = 0x7FF << 14
"""ISV to AR."""
_FLAGS: Final[dict[int, Callable[[int, int, int, int], tuple[int, int, int, int]]]] = {
    encode("MSR_IMM", op1=0, CRm=0, op2=0): lambda n, z, c, v: (n, z, 1 - c, v),
    encode("MSR_IMM", op1=0, CRm=0, op2=1): lambda _n, z, c, _v: (1 - (c | z), z & c, c | z, (1 - c) & z),
    encode("MSR_IMM", op1=0, CRm=0, op2=2): lambda _n, z, c, v: (0, z | v, c & (1 - v), 0),
}
"""CFINV, XAFLAG, AXFLAG (Arm ARM, C6.2): what becomes of N, Z, C, V."""


def only_qemu(d: Difference) -> str:
    """Nothing but UNDEFINED here, and there what the feature would do, or its trap."""
    number, word = d.ours.number, d.ours.word
    if d.ours.syndrome != esr.syndrome(esr.EC.UNKNOWN) or number is None or word is None:
        return ""
    if d.simulated != d.undefined(number) or not any(_is(d, each) for each in _effects(d, number, word)):
        return ""
    return only_in_qemu(word)


def _is(d: Difference, result: Result) -> bool:
    """Whether QEMU has done this; of a fault of stage 2 in a walk it may have another level."""
    return with_walk_level_of(d.qemu, result) == result


def _effects(d: Difference, number: int, word: int) -> Iterator[Result]:
    """What an instruction of `encodings_of_one` can come to: nothing, a trap, or what a similar one does.

    What it reads is taken as QEMU has it.
    """
    undefined = d.undefined(number)
    if word >> 24 != _SYSTEM >> 24:
        yield with_system(undefined, ESR, _FP_TRAPPED)
        return
    yield with_system(undefined, ESR, esr.syndrome(esr.EC.SYSREG, trap_iss(word)))
    done = d.as_if(number, NOP)
    yield done
    if word in _FLAGS:
        yield _with_flags(done, _FLAGS[word])
    elif word >> 21 & 1:
        yield with_register(done, word & 31, d.qemu.x[word & 31]) if word & 31 < 31 else done
    register = word & 31
    if word - register == _DC_CVAP:
        found = d.as_if(number, _DC_CVAC | register)
        yield found
        yield _as_a_load(found)
        if register < 31:
            # PAN, which restricts loads and not maintenance, restricts it there
            yield _as_a_load(d.as_if(number, encode("LDST_UNSCALED", size=0, opc=1, imm9=0, Rn=register, Rt=31)))
    elif word - register in _AT_WITH_PAN:
        found = d.as_if(number, _AT_WITH_PAN[word - register] | register)
        yield found
        if _is_possible(par := d.qemu.system[PAR], found.system[PAR]):
            yield with_system(found, PAR, par)


def _is_possible(par: int, without_pan: int) -> bool:
    """Whether PSTATE.PAN can make this of PAR_EL1: a permission fault. SH is another matter (`device_shareability`)."""
    return (par & 1 == 1 and par >> 1 & 0x3C == esr.FSC_PERMISSION) or (par ^ without_pan) & ~_PAR_SH == 0


def _as_a_load(result: Result) -> Result:
    """An abort of cache maintenance as QEMU has it: of a load, of the whole line."""
    not_said = esr.CM | esr.WNR | _INSTRUCTION_SYNDROME
    if not reached_el1(result):
        return result._replace(esr_el2=result.esr_el2 & ~not_said, far_el2=result.far_el2 & -_LINE)
    result = with_system(result, ESR, result.system[ESR] & ~not_said)
    return with_system(result, FAR, result.system[FAR] & -_LINE)


def _with_flags(result: Result, change: Callable[[int, int, int, int], tuple[int, int, int, int]]) -> Result:
    """The result with N, Z, C, V otherwise, where they are saved."""
    in_el1 = reached_el1(result)
    saved = result.system[SPSR] if in_el1 else result.pstate
    n, z, c, v = change(*(saved >> bit & 1 for bit in (31, 30, 29, 28)))
    changed = saved & ~(0xF << 28) | n << 31 | z << 30 | c << 29 | v << 28
    return with_system(result, SPSR, changed) if in_el1 else result._replace(pstate=changed)


def only_model(d: Difference) -> str:
    """Nothing but UNDEFINED there."""
    if d.theirs.syndrome != esr.syndrome(esr.EC.UNKNOWN) or d.theirs.number is None or d.theirs.word is None:
        return ""
    return only_in_the_model(d.theirs.word) if d.qemu == d.undefined(d.theirs.number) else ""


def constrained(d: Difference) -> str:
    """One instruction, of which one of the two makes nothing at all, or of which only the operands concerned differ."""
    word = d.case.words[0]
    reason = unpredictable(word)
    if not reason or len(d.case.words) > 1:
        return ""
    none = (d.undefined(0), d.as_if(0, NOP))
    if reason == NOT_ONE:
        allowed = (*none, d.as_if(0, as_it_should_be(word)))
        return reason if d.qemu in allowed and d.simulated in allowed else ""
    if d.qemu in none or d.simulated in none:
        return reason
    return reason if _apart_from_operands(d, word) else ""


def _apart_from_operands(d: Difference, word: int) -> bool:
    """Whether they are equal but for the registers that the instruction names, and what it has stored."""
    encoding = decode(word)
    fields = {} if encoding is None else encoding.decode(word)
    qemu, simulated = d.qemu, d.simulated
    for number in {fields[name] for name in ("Rs", "Rt", "Rt2", "Rn") if name in fields}:
        if number < 31:
            simulated = with_register(simulated, number, qemu.x[number])
    if [address for address, _ in qemu.changes] == [address for address, _ in simulated.changes]:
        simulated = simulated._replace(changes=qemu.changes)
    return qemu == simulated


def two_sizes(d: Difference) -> bool:
    """One store-exclusive has failed there; or it has stored, whatever its status."""
    if not exclusives_of_two_sizes(d.case.words):
        return False
    for number, fields in enumerate(map(_store_exclusive, d.case.words)):
        if fields and d.instead(number, failed_store(fields)).agree:
            return True
        if fields and _has_stored(d.instead(number, plain_store(fields)), fields["Rs"]):
            return True
    return False


def _store_exclusive(word: int) -> dict[str, int]:
    """The fields of a store-exclusive, none of another instruction."""
    encoding = decode(word)
    fields = {} if encoding is None or not encoding.name.startswith("EXCLUSIVE") else encoding.decode(word)
    return fields if fields.get("L") == 0 else {}


def _has_stored(d: Difference, status: int) -> bool:
    if d.agree or status == 31 or d.qemu.x[status] > 1:
        return d.agree
    return with_register(d.simulated, status, d.qemu.x[status]) == d.qemu
