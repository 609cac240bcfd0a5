# SPDX-License-Identifier: GPL-2.0-only
"""Where everything lies in the memory of the emulated machine, and the two tables that a record is.

QEMU's machine *virt* has its RAM from 1 GiB on. The first MiB of it holds QEMU's device tree. The harness runs at EL2
with its MMU off; the guest, EL1 and EL0, sees through stage 2 only the 2 MiB from `GUEST` on (`tables`).
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
"""A copy of the data pages, as every case finds them."""
GUEST: Final = RAM + 0x20_0000
GUEST_SIZE: Final = 0x20_0000
INPUT: Final = RAM + 0x40_0000

PAGE: Final = 0x1000
VECTORS: Final = GUEST
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
STAGE1: Final = GUEST + 0x4_0000
STAGE1_PAGES: Final = 16

WORDS: Final = 8
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
SYSTEM_IN: Final = 40
RECORD_IN: Final = 64

ESR_EL2: Final = 35
FAR_EL2: Final = 36
HPFAR_EL2: Final = 37
CHANGES: Final = 38
"""How many doublewords of the data pages differ from `PRISTINE`; the first `CHANGES_KEPT` are in the list."""
ENTRY: Final = 39
"""Which of the 16 vectors of EL2 was taken."""
SYSTEM_OUT: Final = 40
CHANGE_LIST: Final = 64
CHANGES_KEPT: Final = 32
RECORD_OUT: Final = CHANGE_LIST + 2 * CHANGES_KEPT

assert len(SYSTEM) <= RECORD_IN - SYSTEM_IN
assert len(SYSTEM) <= CHANGE_LIST - SYSTEM_OUT


def output(count: int) -> int:
    """The address of the first output record of a batch of ``count``."""
    return INPUT + count * RECORD_IN * 8


def ram_size(count: int) -> int:
    """Bytes of RAM for a batch, in whole MiB."""
    return (output(count) + count * RECORD_OUT * 8 - RAM + 0xF_FFFF) & ~0xF_FFFF
