# SPDX-License-Identifier: GPL-2.0-only
"""Differences that are no bugs of the simulated processor, each with its reason. Whatever is not here fails a run.

The rules are in `rules_memory`, `rules_system` and `rules_encoding`; what only one of the two has is in
`encodings_of_one`. A rule says as exactly as it can what each side has to have done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.oracle import rules_encoding, rules_memory, rules_system, rules_translation
from tests.oracle.difference import Difference


class Known(NamedTuple):
    """A kind of difference."""

    name: str
    reason: str
    applies: Callable[[Difference], Difference | bool | str]
    """Whether this is it. A string says which feature or reason, where there are several; a difference is what is left
    if the instruction does what QEMU seems to have done."""


class Explanation(NamedTuple):
    """Why a case differs."""

    known: Known
    detail: str = ""


KNOWN: Final = (
    Known(
        "in QEMU only",
        "a feature that the model does not have, or an error of QEMU: see `encodings_of_one`",
        rules_encoding.only_qemu,
    ),
    Known(
        "in the model only",
        "a feature that this processor of QEMU does not have: `encodings_of_one`",
        rules_encoding.only_model,
    ),
    Known(
        "store-exclusive that fails and would abort",
        "IMPLEMENTATION DEFINED whether the abort or the failure of the monitor comes first (ExclusiveMonitorsPass)",
        rules_memory.store_exclusive,
    ),
    Known(
        "store-exclusive to the last address",
        "for QEMU a monitor that is clear has the address -1: it accesses that, and ISS.WnR says that it reads",
        rules_memory.last_address,
    ),
    Known(
        "SP alignment",
        "QEMU does not check the alignment of SP (CheckSPAlignment)",
        rules_memory.sp_alignment,
    ),
    Known(
        "LDAPR, LDAPUR, STLUR alignment",
        "must be aligned (AArch64.CheckAlignment), but QEMU 7.2 does not check LDAPR, and max of 10.0 has FEAT_LSE2",
        rules_memory.load_acquire_alignment,
    ),
    Known(
        "WFE trapped",
        "QEMU does not trap WFE (SCTLR_EL1.nTWE)",
        rules_system.wfe,
    ),
    Known(
        "misaligned PC that cannot be fetched from",
        "the PC alignment fault has priority (Arm ARM, D1, synchronous exceptions); QEMU takes the abort",
        rules_system.pc_alignment,
    ),
    Known(
        "syndrome of a trapped MSR DAIFSet, DAIFClr",
        "QEMU has op1 and op2 in each other's place in ISS (Arm ARM, D24.2.39, EC 0x18)",
        rules_system.daif_syndrome,
    ),
    Known(
        "illegal exception return",
        "SSBS, DIT, UAO, ALLINT are UNKNOWN after it (SetPSTATEFromPSR); QEMU does not restore PAN, nor untag ELR",
        rules_system.illegal_return,
    ),
    Known(
        "AR of LDLAR and STLLR",
        "whether ISS.AR tells of LORelease and LOAcquire, too, is not said (D24.2.40); QEMU: no, the model: yes",
        rules_memory.limited_order,
    ),
    Known(
        "cache maintenance that aborts",
        "QEMU has no caches, and does not translate the address (Arm ARM, D7: it faults as a load does)",
        rules_memory.maintenance,
    ),
    Known(
        "PAR_EL1.SH of Device memory",
        "is 0b10 (Arm ARM, D24.2.127); QEMU has that of the descriptor",
        rules_system.device_shareability,
    ),
    Known(
        "FAR of an external abort",
        "QEMU makes aligned accesses of a misaligned one, and of DC ZVA, to a page without RAM; FAR: the first one",
        rules_memory.broken_misaligned,
    ),
    Known(
        "access to two pages that both fail",
        "QEMU translates the second before it accesses the first, which has no RAM; the model goes page by page",
        rules_memory.two_pages,
    ),
    Known(
        "block at a level that has none",
        "is a translation fault (Arm ARM, D8.3); QEMU 7.2 does not mind, and max has FEAT_LPA: level 1 for 64 KiB",
        rules_translation.reserved_block,
    ),
    Known(
        "level of a stage-2 fault in a walk",
        "is that of stage 2 (Arm ARM, D24.2.40, S1PTW); QEMU 7.2 has that of stage 1",
        rules_translation.walk_level,
    ),
    Known(
        "half of a store",
        "what a store that faults leaves in the part that could be written is UNKNOWN (Arm ARM, D1, Data Aborts)",
        rules_memory.half_a_store,
    ),
    Known(
        "registers with a value of their own",
        "identification, caches, counters: what the processor is, not what it does",
        rules_system.own_value,
    ),
    Known(
        "CONSTRAINED UNPREDICTABLE",
        "the architecture leaves open what it does (Arm ARM, K1); `instructions.unpredictable` has the reasons",
        rules_encoding.constrained,
    ),
    Known(
        "exclusives of two sizes",
        "whether the store is done is CONSTRAINED UNPREDICTABLE (Arm ARM, B2.12); QEMU stores, with either status",
        rules_encoding.two_sizes,
    ),
    Known(
        "FEAT_IDST",
        "QEMU's max reports an ID register that cannot be read with EC 0x18; UNDEFINED without the feature",
        rules_system.id_space,
    ),
)


def known(difference: Difference) -> Explanation | None:
    """What explains a difference, if anything does."""
    if difference.qemu.trouble or difference.simulated.trouble:
        return None
    for each in KNOWN:
        found = each.applies(difference)
        if isinstance(found, Difference):
            # There may be another one behind it
            found = found.agree or known(found) is not None
        if found:
            return Explanation(each, found if isinstance(found, str) else "")
    return None
