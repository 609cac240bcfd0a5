# SPDX-License-Identifier: GPL-2.0-only
"""Where everything lies in the memory of the emulated machine, and the two tables that a record is.

QEMU's machine *virt* has its RAM from 1 GiB on. The first MiB of it holds QEMU's device tree. The harness runs at EL2
with its MMU off; the guest, EL1 and EL0, sees through stage 2 only the 2 MiB from `GUEST` on (`stage2`).
"""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg

RAM: Final = 0x4000_0000
HARNESS: Final = RAM + 0x10_0000
STATE: Final = HARNESS + 0x8000
"""What the harness remembers while a case runs: input record, output record, how many are left."""
STAGE2: Final = HARNESS + 0x1_0000
PRISTINE: Final = HARNESS + 0x8_0000
"""A copy of `SCANNED`, one part after the other, as every case finds it."""
GUEST: Final = RAM + 0x20_0000
GUEST_SIZE: Final = 0x20_0000
INPUT: Final = RAM + 0x40_0000

PAGE: Final = 0x1000
VECTORS: Final = GUEST
RETURN: Final = VECTORS + 0x40
"""Between two vectors: a RET."""
CODE: Final = GUEST + 0x1000
CODE_PAGES: Final = 2
DATA: Final = GUEST + 0x1_0000
DATA_PAGES: Final = 4
DATA_END: Final = DATA + DATA_PAGES * PAGE
READ_ONLY: Final = DATA_END
"""Stage 2 lets nobody write here."""
HOLE: Final = READ_ONLY + PAGE
"""Stage 2 has nothing here."""
BROKEN: Final = HOLE + PAGE
"""Stage 2 maps it to a physical address where nothing answers: an external abort."""
NOTHING_THERE: Final = 0x0B00_0000
"""Such an address (a gap in the memory map of *virt*)."""
DATA_AGAIN: Final = DATA + 0x8000
DATA_AGAIN_END: Final = DATA + 0x1_0000
"""Stage 2 maps this to the data pages once more, so that a page of 64 KiB ends in data as it begins."""
STAGE1: Final = GUEST + 0x4_0000
STAGE1_END: Final = GUEST + 0xF_0000
"""The tables that nobody can change."""
NO_TABLE: Final = GUEST + 0x10_0000
BROKEN_TABLE: Final = GUEST + 0x11_0000
"""As `HOLE` and `BROKEN`, aligned as a table of any granule."""
CODE_AGAIN: Final = GUEST + 0x3_0000 + (CODE - GUEST)
"""Stage 2 maps this to the code pages, and lets the guest write."""
CHANGING: Final = {3: GUEST + 0x3_0000, 2: GUEST + 0xF_0000}
"""By level: a table that the guest can write to, which is walked for addresses of its own.

These and `CODE_AGAIN` are where no page or block leads to that accesses to data go to, for any granule: what a case
writes there by chance would stay.
"""
CHANGING_ENTRIES: Final = {3: 32, 2: 16}
"""How many entries are in use; the other ones are zero and stay so."""
SCANNED: Final = (
    (DATA, DATA_PAGES * PAGE),
    *((CHANGING[level], count * 8) for level, count in CHANGING_ENTRIES.items()),
)
"""(address, size) of what a case may change: it is compared, and put back."""

WORDS: Final = 16
"""Instructions of a record; the last ones are `STOP`."""
STOP: Final = 0xD4000001 | 0x5EA << 5
"""SVC #0x5ea. All of the code pages holds it."""

SYSTEM: Final = (
    "sctlr_el1",
    "tcr_el1",
    "ttbr0_el1",
    "ttbr1_el1",
    "mair_el1",
    "vbar_el1",
    "cpacr_el1",
    "cntkctl_el1",
    "esr_el1",
    "far_el1",
    "elr_el1",
    "spsr_el1",
    "par_el1",
    "contextidr_el1",
    "tpidr_el0",
    "tpidrro_el0",
    "tpidr_el1",
    "disr_el1",
)
"""System registers that a record sets, and that are given back."""
TRANSLATION: Final = SYSTEM[:4]
"""Those of them that are in the TLB."""
SYSTEM_REGISTERS: Final[tuple[SysReg, ...]] = tuple(map(sysreg, SYSTEM))

# Indices of 64-bit fields; general-purpose registers are 0 to 30 in both records
SP_EL0: Final = 31
SP_EL1: Final = 32
PSTATE: Final = 33
PC: Final = 34
CODE_AT: Final = 35
"""The physical address of the instructions."""
CODE_WORDS: Final = 36
SYSTEM_IN: Final = CODE_WORDS + WORDS // 2
FORGET: Final = SYSTEM_IN + len(SYSTEM)
"""Not zero: the case changes tables, so that the TLB has to be invalidated when they have been put back."""
RECORD_IN: Final = 64

ESR_EL2: Final = 35
FAR_EL2: Final = 36
HPFAR_EL2: Final = 37
CHANGES: Final = 38
"""How many doublewords of `SCANNED` differ from `PRISTINE`; the first `CHANGES_KEPT` are in the list."""
ENTRY: Final = 39
"""Which of the 16 vectors of EL2 was taken."""
SYSTEM_OUT: Final = 40
CHANGE_LIST: Final = 64
CHANGES_KEPT: Final = 32
RECORD_OUT: Final = CHANGE_LIST + 2 * CHANGES_KEPT

assert FORGET < RECORD_IN
assert len(SYSTEM) <= CHANGE_LIST - SYSTEM_OUT


def output(count: int) -> int:
    """The address of the first output record of a batch of ``count``."""
    return INPUT + count * RECORD_IN * 8


def ram_size(count: int) -> int:
    """Bytes of RAM for a batch, in whole MiB."""
    return (output(count) + count * RECORD_OUT * 8 - RAM + 0xF_FFFF) & ~0xF_FFFF
