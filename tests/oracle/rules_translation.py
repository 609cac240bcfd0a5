# SPDX-License-Identifier: GPL-2.0-only
"""Rules of `known` about stage 1 and its walks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import encode
from pytest_kvm_sea.cpu import mmu
from tests.oracle import layout as at
from tests.oracle import stage2, tables
from tests.oracle.case import Result
from tests.oracle.difference import PAR, Difference, reached_el1
from tests.oracle.granules import of

_TCR: Final = at.SYSTEM.index("tcr_el1")
_LEVEL: Final = 3
_AT: Final = encode("SYS", op1=0, CRn=7, CRm=8, op2=0, Rt=0)
_REGISTER: Final = 31
_AT_FIELDS: Final = _REGISTER | 3 << 5
"""Of AT S1E1R, S1E1W, S1E0R, S1E0W: the register, and which of them."""


def reserved_block(d: Difference) -> Difference | bool:
    """The simulated one ends with a translation fault at a block that its level does not have; QEMU uses the block."""
    tcr = d.simulated.system[_TCR]
    is_abort = d.ours.is_data_abort or d.ours.is_instruction_abort
    if reached_el1(d.simulated) and is_abort and _is_reserved(tcr, d.ours.far, esr.fsc(d.ours.syndrome)):
        return _with_blocks_everywhere(d)
    word = d.case.words[0]
    if word & ~_AT_FIELDS != _AT or word & _REGISTER == _REGISTER:
        return False
    par = d.simulated.system[PAR]
    found = par & 1 and _is_reserved(tcr, d.case.x[word & _REGISTER], par >> 1 & 0x3F)
    return _with_blocks_everywhere(d) if found else False


def _is_reserved(tcr: int, va: int, fsc: int) -> bool:
    if fsc & ~_LEVEL != esr.FSC_TRANSLATION:
        return False
    half = va >> 55 & 1
    return tables.reserved_block_level(of(tcr, half), tcr >> 16 * half & 0x3F, va) == fsc & _LEVEL


def _with_blocks_everywhere(d: Difference) -> Difference:
    """The same with a processor that has blocks at every level, and forgets what it translated then."""
    with blocks_everywhere():
        return d.again()


@contextmanager
def blocks_everywhere() -> Iterator[None]:
    """Meanwhile the simulated processor has blocks at every level."""
    halves = mmu._HALVES
    lenient = tuple(
        half._replace(granules=tuple(granule._replace(largest_block=0) for granule in half.granules)) for half in halves
    )
    try:
        mmu._HALVES = lenient  # type: ignore[misc, assignment]
        yield
    finally:
        mmu._HALVES = halves  # type: ignore[misc]


def walk_level(d: Difference) -> Difference | bool:
    """QEMU has another level of a fault of stage 2 in a walk of stage 1, and the simulated one's is right."""
    qemu = with_walk_level_of(d.qemu, d.simulated)
    return d.with_qemu(qemu) if qemu != d.qemu else False


def with_walk_level_of(qemu: Result, simulated: Result) -> Result:
    """QEMU's result with the level of a fault of stage 2 in a walk that the simulated one has, if that is right."""
    ours, theirs = simulated.esr_el2, qemu.esr_el2
    if not ours & theirs & esr.S1PTW or ours & _LEVEL != stage2.level(simulated.hpfar_el2 << 8):
        return qemu
    return qemu._replace(esr_el2=theirs & ~_LEVEL | ours & _LEVEL)
