# SPDX-License-Identifier: GPL-2.0-only
"""Rules of `known` about loads, stores and exclusives."""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import pstate, state
from tests.oracle import layout as at
from tests.oracle.case import Result
from tests.oracle.difference import ESR, FAR, M64, NOP, SCTLR, SPSR, Difference, reached_el1, with_system
from tests.oracle.instructions import MEMORY

_STORED_AT_ONCE: Final = 64
"""Bytes that one instruction stores at most: DC ZVA."""


def _base(d: Difference) -> int:
    """The base register of the instruction on which the simulated processor stopped, which it has left as it was."""
    number = d.ours.fields["Rn"]
    if number < 31:
        return d.simulated.x[number]
    before = d.simulated.system[SPSR] if reached_el1(d.simulated) else d.simulated.pstate
    return d.simulated.sp_el1 if before & 0xF == pstate.EL1H else d.simulated.sp_el0


def store_exclusive(d: Difference) -> Difference | bool:
    """The simulated one aborts, at the address of the store; QEMU goes on with a status of 1, and nothing is stored."""
    if not d.ours.name.startswith("EXCLUSIVE") or d.ours.number is None or not d.ours.is_data_abort:
        return False
    fields = d.ours.fields
    if fields["L"] or not d.ours.syndrome & esr.WNR or d.ours.far != _base(d):
        return False
    return d.instead(d.ours.number, failed_store(fields))


def failed_store(fields: dict[str, int]) -> int:
    """What a store-exclusive that fails comes to: MOV Ws, #1."""
    return encode("MOVE_WIDE", sf=0, opc=2, hw=0, imm16=1, Rd=fields["Rs"])


def plain_store(fields: dict[str, int]) -> int:
    """The store of a store-exclusive without its status."""
    rn, rt = fields["Rn"], fields["Rt"]
    if "Rt2" in fields:
        return encode("LDST_PAIR", opc=2 * fields["sz"], mode=2, L=0, imm7=0, Rt2=fields["Rt2"], Rn=rn, Rt=rt)
    return encode("LDST_UNSCALED", size=fields["size"], opc=0, imm9=0, Rn=rn, Rt=rt)


def last_address(d: Difference) -> bool:
    """Nothing but ISS.WnR of a store-exclusive whose address is -1."""
    if not d.ours.name.startswith("EXCLUSIVE") or not d.ours.is_data_abort or not d.ours.far == _base(d) == M64:
        return False
    if d.ours.syndrome & ~d.theirs.syndrome != esr.WNR:
        return False
    if not reached_el1(d.simulated):
        return d.qemu._replace(esr_el2=d.ours.syndrome) == d.simulated
    return with_system(d.qemu, ESR, d.ours.syndrome) == d.simulated


def sp_alignment(d: Difference) -> Difference | bool:
    """The simulated one checks SP, and should; QEMU does what is done without the check."""
    if not d.ours.ec == esr.EC.SP_ALIGNMENT != d.theirs.ec:
        return False
    # Both: what the case itself has switched on would stay on without it
    mode, sctlr = d.simulated.system[SPSR] & 0xF, d.simulated.system[SCTLR] & d.case.system["sctlr_el1"]
    sp = d.simulated.sp_el1 if mode == pstate.EL1H else d.simulated.sp_el0
    check = state.SCTLR_SA if mode else state.SCTLR_SA0
    return bool(sp & 15 and sctlr & check) and d.without_sctlr(state.SCTLR_SA | state.SCTLR_SA0)


def load_acquire_alignment(d: Difference) -> Difference | bool:
    """QEMU does what an LDR would that need not be aligned."""
    if not d.ours.is_data_abort or esr.fsc(d.ours.syndrome) != esr.FSC_ALIGNMENT or d.ours.number is None:
        return False
    fields = d.ours.fields
    if d.ours.name == "LDAPR":
        ordinary = encode("LDST_UNSCALED", size=fields["size"], opc=1, imm9=0, Rn=fields["Rn"], Rt=fields["Rt"])
    elif d.ours.name == "LDAPR_UNSCALED":
        ordinary = encode("LDST_UNSCALED", **fields)
    else:
        return False
    qemu = d.qemu
    if d.theirs.number == d.ours.number and not reached_el1(qemu) and qemu.esr_el2 & esr.ISV:
        if not qemu.esr_el2 & esr.AR:
            return False
        # Which an LDR does not have
        qemu = qemu._replace(esr_el2=qemu.esr_el2 & ~esr.AR)
    return d.with_qemu(qemu).instead(d.ours.number, ordinary)


def limited_order(d: Difference) -> bool:
    """Nothing but ISS.AR of LDLAR and STLLR."""
    if d.ours.name != "ORDERED" or d.ours.fields["o0"]:
        return False
    return d.qemu._replace(esr_el2=d.qemu.esr_el2 | esr.AR) == d.simulated


def maintenance(d: Difference) -> Difference | bool:
    """The simulated one aborts at the address in Rt; for QEMU the operation is a NOP."""
    if d.ours.name != "SYS" or d.ours.number is None or not d.ours.is_data_abort:
        return False
    flags = d.ours.syndrome & (esr.CM | esr.WNR)
    register = d.ours.fields["Rt"]
    address = 0 if register == 31 else d.simulated.x[register]
    return flags == esr.CM | esr.WNR and d.ours.far == address and d.instead(d.ours.number, NOP)


def broken_misaligned(d: Difference) -> bool:
    """Nothing but FAR_EL1 of an external abort, where QEMU has the address rounded down."""
    ours, theirs = d.simulated.system[FAR], d.qemu.system[FAR]
    if esr.fsc(d.simulated.system[ESR]) != esr.FSC_SEA or not reached_el1(d.simulated):
        return False
    aligned = theirs in {ours & -size for size in (2, 4, 8, 64)}
    return aligned and with_system(d.simulated, FAR, theirs) == d.qemu


def two_pages(d: Difference) -> bool:
    """An external abort on the first page here, another abort on the second one there; nothing else is different."""
    if d.ours.word is None or d.ours.number != d.theirs.number or d.ours.name not in MEMORY:
        return False
    if not reached_el1(d.simulated) or not d.ours.is_data_abort or not d.theirs.is_data_abort:
        return False
    second = (d.ours.far | at.PAGE - 1) + 1 & M64
    if not esr.fsc(d.ours.syndrome) == esr.FSC_SEA != esr.fsc(d.theirs.syndrome) or d.theirs.far != second:
        return False
    if (d.ours.syndrome ^ d.theirs.syndrome) & esr.WNR or _before(d.qemu) != _before(d.simulated):
        return False
    if not reached_el1(d.qemu):
        return d.stage2_instead(esr.EC.DABT_LOWER)
    theirs = with_system(with_system(d.qemu, ESR, d.ours.syndrome), FAR, d.ours.far)
    return d.ours.ec == d.theirs.ec and theirs == d.simulated


def _before(result: Result) -> tuple[object, ...]:
    """What an instruction found that was stopped by an abort."""
    before = result.system[SPSR] if reached_el1(result) else result.pstate
    return result.x, result.sp_el0, result.sp_el1, before, result.changes


def half_a_store(d: Difference) -> bool:
    """The same abort; memory differs nowhere but next to its address."""
    if d.ours.name not in MEMORY or d.ours != d.theirs or not d.ours.is_data_abort or not d.ours.syndrome & esr.WNR:
        return False
    if d.qemu._replace(changes=d.simulated.changes) != d.simulated:
        return False
    return len(_offsets(d)) == len({*d.qemu.changes} ^ {*d.simulated.changes}) > 0


def _offsets(d: Difference) -> list[int]:
    """How far from the address of the abort what differs is, within a page, where it is near."""
    different = {*d.qemu.changes} ^ {*d.simulated.changes}
    distances = [(address - d.ours.far) % at.PAGE for address, _ in different]
    return [each for each in distances if min(each, at.PAGE - each) < _STORED_AT_ONCE]
