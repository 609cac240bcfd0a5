# SPDX-License-Identifier: GPL-2.0-only
"""Differences that are no bugs of the simulated processor, each with its reason. Whatever is not here fails a run.

What an encoding is that only one of the two has is in `encodings_of_one`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.arm64.sysregs import SYSREGS
from pytest_kvm_sea.cpu import pstate, state
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.encodings_of_one import only_in_qemu, only_in_the_model
from tests.oracle.instructions import MEMORY, exclusives_of_two_sizes, unpredictable
from tests.oracle.known_translation import reserved_block, walk_level, with_walk_level

_M64: Final = (1 << 64) - 1
_NZCV: Final = 0xF << 28
_VECTORS_END: Final = at.VECTORS + 0x800
_ESR: Final = at.SYSTEM.index("esr_el1")
_ELR: Final = at.SYSTEM.index("elr_el1")
_FAR: Final = at.SYSTEM.index("far_el1")
_PAR: Final = at.SYSTEM.index("par_el1")
_SCTLR: Final = at.SYSTEM.index("sctlr_el1")
_SPSR: Final = at.SYSTEM.index("spsr_el1")
_ALLINT: Final = 1 << 13
_UNKNOWN_AFTER_ILLEGAL: Final = _ALLINT | pstate.SSBS | pstate.DIT | pstate.UAO | pstate.PAN
_OWN_VALUES: Final = frozenset(
    SYSREGS[name]
    for name in SYSREGS
    if (name.startswith(("id_", "cnt")) and name != "cntkctl_el1")
    or name in {"revidr_el1", "aidr_el1", "ctr_el0", "dczid_el0", "clidr_el1", "ccsidr_el1", "rvbar_el1", "actlr_el1"}
)  # fmt: skip
_ID_SPACE: Final = range(0xC000, 0xC040)
_OP0_AND_CRN: Final = 1 << 19 | 0xF << 12
"""Of an MRS: 3 and 0 for identification."""


def normal(result: Result) -> Result:
    """The result without what QEMU does otherwise in every case.

    PSTATE.{N,Z,C,V} and DIT stay as they are when an exception is taken (Arm ARM, AArch64.TakeException); QEMU clears
    them. What they were is compared in SPSR_EL1. ALLINT is set then where there is FEAT_NMI (max of QEMU 9 and later).
    """
    if reached_el1(result):
        return result._replace(pstate=result.pstate & ~(_NZCV | pstate.DIT | _ALLINT))
    return result


def reached_el1(result: Result) -> bool:
    """Whether what ended the case was an exception to EL1, whose vector then called EL2."""
    return esr.ec(result.esr_el2) == esr.EC.HVC64 and at.VECTORS <= result.pc < _VECTORS_END


def ending(case: Case, result: Result) -> tuple[int, int | None]:
    """The syndrome of the exception that ended a case, and the instruction that took it; None if it is another one."""
    if reached_el1(result):
        syndrome, address = result.system[_ESR], result.system[_ELR]
    else:
        syndrome, address = result.esr_el2, result.pc
    if not syndrome >> 26 and not syndrome:
        return 0, None
    number, rest = divmod(address - case.pc + (case.pc - case.code_at & at.PAGE - 1), 4)
    return syndrome, case.words[number] if not rest and 0 <= number < len(case.words) else None


def _class(word: int | None) -> str:
    encoding = None if word is None else decode(word)
    return "" if encoding is None else encoding.name


def _store_exclusive(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    if not _class(word).startswith("EXCLUSIVE") or word is None or word >> 22 & 1:
        return False
    return esr.ec(syndrome) in {0x24, 0x25} and ending(case, qemu) != (syndrome, word)


def _sp_alignment(case: Case, qemu: Result, simulated: Result) -> bool:
    if not esr.ec(ending(case, simulated)[0]) == esr.EC.SP_ALIGNMENT != esr.ec(ending(case, qemu)[0]):
        return False
    mode, sctlr = simulated.system[_SPSR] & 0xF, simulated.system[_SCTLR]
    sp = simulated.sp_el1 if mode == pstate.EL1H else simulated.sp_el0
    return bool(sp & 15 and sctlr & (state.SCTLR_SA if mode else state.SCTLR_SA0))


def _ldapr(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    aligned = esr.ec(syndrome) in {0x24, 0x25} and esr.fsc(syndrome) == esr.FSC_ALIGNMENT
    return aligned and _class(word) in {"LDAPR", "LDAPR_UNSCALED"} and ending(case, qemu) != (syndrome, word)


def _wfe(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    wfe = ENCODINGS["HINT"].encode(CRm=0, op2=2)
    return syndrome >> 26 == esr.EC.WFX and word == wfe and ending(case, qemu) != (syndrome, word)


def _pc_alignment(case: Case, qemu: Result, simulated: Result) -> bool:
    is_abort = esr.ec(ending(case, qemu)[0]) in {0x20, 0x21}
    return is_abort and esr.ec(ending(case, simulated)[0]) == esr.EC.PC_ALIGNMENT


def _daif_syndrome(case: Case, qemu: Result, simulated: Result) -> bool:
    if _class(case.words[0]) != "MSR_IMM" or simulated.system[_ESR] >> 26 != esr.EC.SYSREG:
        return False
    ours = simulated.system[_ESR]
    op1, op2 = ours >> 14 & 7, ours >> 17 & 7
    swapped = ours & ~(0x3F << 14) | op1 << 17 | op2 << 14
    return _with_system(simulated, _ESR, swapped) == qemu


def _illegal_return(case: Case, qemu: Result, simulated: Result) -> bool:
    spsr = case.system["spsr_el1"]
    if _class(case.words[0]) != "ERET" or spsr & 0x1F in pstate.MODES:
        return False
    qemu, simulated = _without_tags(qemu), _without_tags(simulated)
    return _without(qemu, _UNKNOWN_AFTER_ILLEGAL) == _without(simulated, _UNKNOWN_AFTER_ILLEGAL)


def _limited_order(case: Case, qemu: Result, simulated: Result) -> bool:
    word = ending(case, simulated)[1]
    if _class(word) != "ORDERED" or word is None or word >> 15 & 1:
        return False
    return qemu._replace(esr_el2=qemu.esr_el2 | esr.AR) == simulated


def _maintenance(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    aborted = esr.ec(syndrome) in {0x24, 0x25} and syndrome & esr.CM
    return bool(aborted) and _class(word) == "SYS" and ending(case, qemu) != (syndrome, word)


def _device_shareability(case: Case, qemu: Result, simulated: Result) -> bool:
    ours, theirs = simulated.system[_PAR], qemu.system[_PAR]
    if _class(case.words[0]) != "SYS" or ours & 1 or ours >> 60:
        return False
    return ours >> 7 & 3 == 2 and _with_system(simulated, _PAR, theirs) == qemu and (ours ^ theirs) & ~(3 << 7) == 0


def _broken_misaligned(case: Case, qemu: Result, simulated: Result) -> bool:
    ours, theirs = simulated.system[_FAR], qemu.system[_FAR]
    if esr.fsc(simulated.system[_ESR]) != esr.FSC_SEA or not reached_el1(simulated):
        return False
    aligned = theirs in {ours & -size for size in (2, 4, 8, 64)}
    return aligned and _with_system(simulated, _FAR, theirs) == qemu


def _two_pages(case: Case, qemu: Result, simulated: Result) -> bool:
    ours, word = ending(case, simulated)
    theirs, same = ending(case, qemu)
    if word is None or word != same or _class(word) not in MEMORY or not reached_el1(simulated):
        return False
    next_page = (simulated.system[_FAR] | at.PAGE - 1) + 1
    far = qemu.system[_FAR] if reached_el1(qemu) else qemu.far_el2
    return esr.fsc(ours) == esr.FSC_SEA != esr.fsc(theirs) and far == next_page & _M64


def _half_a_store(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    if _class(word) not in MEMORY or ending(case, qemu) != (syndrome, word):
        return False
    return esr.ec(syndrome) in {0x24, 0x25} and qemu._replace(changes=simulated.changes) == simulated


def _own_value(case: Case, qemu: Result, simulated: Result) -> bool:
    encoding = decode(case.words[0])
    if encoding is None or encoding.name != "MRS":
        return False
    fields = encoding.decode(case.words[0])
    register = 0x8000 | fields["sysreg"]
    if fields["Rt"] == 31 or (register not in _OWN_VALUES and register not in _ID_SPACE):
        return False
    x = list(simulated.x)
    x[fields["Rt"]] = qemu.x[fields["Rt"]]
    return simulated._replace(x=tuple(x)) == qemu


def _unallocated_simd(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    if _class(word) != "FP_SIMD" or esr.ec(syndrome) != esr.EC.FP_ASIMD:
        return False
    return qemu == _with_system(simulated, _ESR, esr.syndrome(esr.EC.UNKNOWN))


def _unpredictable(case: Case, _qemu: Result, _simulated: Result) -> bool:
    return any(map(unpredictable, case.words)) or exclusives_of_two_sizes(case.words)


def _id_space(case: Case, qemu: Result, simulated: Result) -> bool:
    theirs, word = ending(case, qemu)
    if _class(word) != "MRS" or word is None or word & _OP0_AND_CRN != 1 << 19:
        return False
    undefined = _with_system(qemu, _ESR, esr.syndrome(esr.EC.UNKNOWN))
    return esr.ec(theirs) == esr.EC.SYSREG and undefined == simulated


def _only_qemu(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, simulated)
    return syndrome == esr.syndrome(esr.EC.UNKNOWN) and word is not None and bool(only_in_qemu(word))


def _only_model(case: Case, qemu: Result, simulated: Result) -> bool:
    syndrome, word = ending(case, qemu)
    return syndrome == esr.syndrome(esr.EC.UNKNOWN) and word is not None and bool(only_in_the_model(word))


def _with_system(result: Result, index: int, value: int) -> Result:
    return result._replace(system=(*result.system[:index], value, *result.system[index + 1 :]))


def _without(result: Result, bits: int) -> Result:
    """The result without these bits of PSTATE, wherever it was saved."""
    changed = _with_system(result, _SPSR, result.system[_SPSR] & ~bits) if result.system else result
    return changed._replace(pstate=changed.pstate & ~bits)


def _without_tags(result: Result) -> Result:
    """Addresses without their top byte."""
    low = _M64 >> 8
    for index in (_ELR, _FAR):
        result = _with_system(result, index, result.system[index] & low)
    return result._replace(pc=result.pc & low, far_el2=result.far_el2 & low)


class Known(NamedTuple):
    """A kind of difference."""

    name: str
    reason: str
    applies: Callable[[Case, Result, Result], bool]
    """Of a case, QEMU's result and the simulated one, which differ."""


KNOWN: Final = (
    Known(
        "store-exclusive that fails and would abort",
        "IMPLEMENTATION DEFINED whether the abort or the failure of the monitor comes first (ExclusiveMonitorsPass)",
        _store_exclusive,
    ),
    Known(
        "SP alignment",
        "QEMU does not check the alignment of SP (CheckSPAlignment)",
        _sp_alignment,
    ),
    Known(
        "LDAPR, LDAPUR, STLUR alignment",
        "must be aligned (AArch64.CheckAlignment), but QEMU 7.2 does not check LDAPR, and max of 10.0 has FEAT_LSE2",
        _ldapr,
    ),
    Known(
        "WFE trapped",
        "QEMU does not trap WFE (SCTLR_EL1.nTWE)",
        _wfe,
    ),
    Known(
        "misaligned PC that cannot be fetched from",
        "the PC alignment fault has priority (Arm ARM, D1, synchronous exceptions); QEMU takes the abort",
        _pc_alignment,
    ),
    Known(
        "syndrome of a trapped MSR DAIFSet, DAIFClr",
        "QEMU has op1 and op2 in each other's place in ISS (Arm ARM, D24.2.39, EC 0x18)",
        _daif_syndrome,
    ),
    Known(
        "illegal exception return",
        "SSBS, DIT, UAO, ALLINT are UNKNOWN after it (SetPSTATEFromPSR); QEMU does not restore PAN, nor untag ELR",
        _illegal_return,
    ),
    Known(
        "AR of LDLAR and STLLR",
        "whether ISS.AR tells of LORelease and LOAcquire, too, is not said (D24.2.40); QEMU: no, the model: yes",
        _limited_order,
    ),
    Known(
        "cache maintenance that aborts",
        "QEMU has no caches, and does not translate the address (Arm ARM, D7: it faults as a load does)",
        _maintenance,
    ),
    Known(
        "PAR_EL1.SH of Device memory",
        "is 0b10 (Arm ARM, D24.2.127); QEMU has that of the descriptor",
        _device_shareability,
    ),
    Known(
        "FAR of an external abort",
        "QEMU makes aligned accesses of a misaligned one, and of DC ZVA, to a page without RAM; FAR: the first one",
        _broken_misaligned,
    ),
    Known(
        "access to two pages that both fail",
        "QEMU translates the second before it accesses the first, which has no RAM; the model goes page by page",
        _two_pages,
    ),
    Known(
        "block at a level that has none",
        "is a translation fault (Arm ARM, D8.3); QEMU 7.2 does not mind, and max has FEAT_LPA: level 1 for 64 KiB",
        reserved_block,
    ),
    Known(
        "level of a stage-2 fault in a walk",
        "is that of stage 2 (Arm ARM, D24.2.40, S1PTW); QEMU 7.2 has that of stage 1",
        walk_level,
    ),
    Known(
        "half of a store",
        "what a store that faults leaves in the part that could be written is UNKNOWN (Arm ARM, D1, Data Aborts)",
        _half_a_store,
    ),
    Known(
        "registers with a value of their own",
        "identification, caches, counters: what the processor is, not what it does",
        _own_value,
    ),
    Known(
        "unallocated floating point and SIMD",
        "the model does not decode these and traps them all (docs/model.md); QEMU knows which are UNDEFINED",
        _unallocated_simd,
    ),
    Known(
        "CONSTRAINED UNPREDICTABLE",
        "the architecture leaves open what it does (Arm ARM, K1); `instructions.unpredictable` has the reasons",
        _unpredictable,
    ),
    Known(
        "FEAT_IDST",
        "QEMU's max reports an ID register that cannot be read with EC 0x18; UNDEFINED without the feature",
        _id_space,
    ),
    Known("in QEMU only", "a feature that the model does not have: see `encodings_of_one`", _only_qemu),
    Known("in the model only", "a feature that this processor of QEMU does not have: `encodings_of_one`", _only_model),
)


def known(case: Case, qemu: Result, simulated: Result) -> Known | None:
    """What explains a difference, if anything does."""
    if qemu.trouble or simulated.trouble:
        return None
    for theirs in (qemu, with_walk_level(qemu, simulated)):
        found = next((each for each in KNOWN if each.applies(case, theirs, simulated)), None)
        if found is not None:
            return found
    return None
