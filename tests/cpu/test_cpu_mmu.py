# SPDX-License-Identifier: GPL-2.0-only
"""Stage 1: the tables of Arm ARM D8, one walk and one permission at a time."""

from __future__ import annotations

import pytest

from pytest_kvm_sea.arm64.assembler import X0, X1, X2, X3, Assembler, Offset
from pytest_kvm_sea.cpu.bus import Access, ExternalAbort, Stage2Fault
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.traps import Stage1Fault
from tests.cpu.cpu_machine import CODE, DATA, EL0T, TABLES, VECTORS, Machine

VA = 0x0000_1234_5678_9000
USER, READ_ONLY, AF, PXN, UXN = 1 << 6, 1 << 7, 1 << 10, 1 << 53, 1 << 54
DABT_EL1, DABT_EL0, IABT_EL1, IABT_EL0 = 0x9600_0000, 0x9200_0000, 0x8600_0000, 0x8200_0000
WNR, CM = 1 << 6, 1 << 8
UAO, PAN = 1 << 23, 1 << 22


def fsc_of(machine: Machine, va: int, access: Access = Access.READ, *, el: int = 1, pan: bool = False) -> int | None:
    """The status code of the fault, None where the access is permitted."""
    try:
        machine.cpu.stage1(va, access, el=el, pan=pan)
    except Stage1Fault as fault:
        return fault.fsc
    return None


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.enable_mmu()
    return made


def test_off_is_flat_up_to_the_physical_address_size() -> None:
    machine = Machine()
    assert machine.cpu.stage1(DATA + 5, Access.READ, el=0, pan=False) == DATA + 5
    assert fsc_of(machine, 1 << 48) == 0x00


@pytest.mark.parametrize(("level", "size"), [(1, 1 << 30), (2, 1 << 21), (3, 1 << 12)])
def test_pages_and_blocks_keep_the_low_bits(machine: Machine, level: int, size: int) -> None:
    ipa = 0x40_0000_0000
    machine.map(VA & -size, ipa, level=level)
    for va in (VA & -size, VA | size - 1):
        assert machine.cpu.stage1(va, Access.READ, el=1, pan=False) == ipa | va & size - 1


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_an_invalid_descriptor_faults_at_its_level(machine: Machine, level: int) -> None:
    if level:
        machine.map(VA, DATA, level=level, kind=0)
    assert fsc_of(machine, VA) == 0x04 + level


def test_a_block_at_level_0_and_the_reserved_encoding_at_level_3_are_invalid(machine: Machine) -> None:
    machine.map(VA, DATA, level=3, kind=1)
    assert fsc_of(machine, VA) == 0x07
    machine.map(VA ^ 1 << 46, 0, level=0, kind=1)
    assert fsc_of(machine, VA ^ 1 << 46) == 0x04


@pytest.mark.parametrize("level", [1, 2, 3])
def test_access_flag_and_output_size(machine: Machine, level: int) -> None:
    machine.map(VA, 0, AF, level=level)
    assert fsc_of(machine, VA) == 0x08 + level
    machine["tcr_el1"] = machine["tcr_el1"] & ~(7 << 32)  # 32 bits of output
    machine.map(VA, 1 << 32, level=level)
    assert fsc_of(machine, VA) == 0x00 + level


@pytest.mark.parametrize("size_offset", [16, 20, 24, 25, 30, 33, 34, 39])
def test_every_input_size_starts_at_its_level(size_offset: int) -> None:
    """A walk that reads its first descriptor at the wrong level or index does not find the page."""
    machine = Machine()
    machine.enable_mmu()
    top = 64 - size_offset
    level = next(level for level in range(4) if top > 39 - 9 * level)
    table = machine.entry(CODE, level) & ~0xFFF
    machine["tcr_el1"] = machine["tcr_el1"] & ~0x3F | size_offset
    machine["ttbr0_el1"] = table
    assert machine.cpu.stage1(CODE + 8, Access.FETCH, el=1, pan=False) == CODE + 8
    assert fsc_of(machine, 1 << top) == 0x04


def test_halves_have_their_own_size_tables_and_disable_bit(machine: Machine) -> None:
    high = 0xFFFF_0000_0000_0000
    assert machine.cpu.stage1(high | DATA, Access.READ, el=1, pan=False) == DATA
    machine["ttbr1_el1"] = TABLES + 0x70000
    assert fsc_of(machine, high | DATA) == 0x04
    assert fsc_of(machine, DATA) is None
    machine["ttbr1_el1"] = TABLES
    machine["tcr_el1"] |= 1 << 23
    assert (fsc_of(machine, high | DATA), fsc_of(machine, DATA)) == (0x04, None)
    machine["tcr_el1"] ^= 1 << 23 | 1 << 7
    assert (fsc_of(machine, high | DATA), fsc_of(machine, DATA)) == (None, 0x04)
    assert fsc_of(machine, 0x0001_0000_0000_0000) == 0x04, "between the halves"


def test_top_byte_ignored(machine: Machine) -> None:
    tagged = 0xAB << 56 | DATA
    assert fsc_of(machine, tagged) == 0x04
    machine["tcr_el1"] |= 1 << 37
    assert machine.cpu.stage1(tagged, Access.READ, el=1, pan=False) == DATA
    assert fsc_of(machine, 0xAB << 56 | 1 << 55 | DATA) == 0x04, "TBI1 is off"


_PERMISSIONS = [
    # attributes, (EL1 read, write, fetch), (EL0 read, write, fetch)
    (0, "rwx", "--x"),
    (USER, "rw-", "rwx"),
    (READ_ONLY, "r-x", "--x"),
    (USER | READ_ONLY, "r-x", "r-x"),
    (PXN, "rw-", "--x"),
    (UXN, "rwx", "---"),
    (USER | UXN, "rw-", "rw-"),
    (USER | READ_ONLY | PXN | UXN, "r--", "r--"),
]
_ACCESSES = {"r": Access.READ, "w": Access.WRITE, "x": Access.FETCH}


@pytest.mark.parametrize(("attributes", "el1", "el0"), _PERMISSIONS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_permissions(machine: Machine, attributes: int, el1: str, el0: str, level: int) -> None:
    machine.map(VA & -(1 << 39 - 9 * level), 0, attributes, level=level)
    for el, allowed in ((1, el1), (0, el0)):
        for letter, access in _ACCESSES.items():
            expected = None if letter in allowed else 0x0C + level
            assert fsc_of(machine, VA, access, el=el) == expected, (el, letter)


def test_write_implies_execute_never(machine: Machine) -> None:
    machine["sctlr_el1"] |= 1 << 19
    machine.map(VA, DATA)
    assert fsc_of(machine, VA, Access.FETCH) == 0x0F
    machine.map(VA, DATA, READ_ONLY)
    assert fsc_of(machine, VA, Access.FETCH) is None
    machine.map(VA, DATA, USER)
    assert fsc_of(machine, VA, Access.FETCH, el=0) == 0x0F


def test_privileged_access_never(machine: Machine) -> None:
    machine.map(VA, DATA, USER | READ_ONLY)
    assert fsc_of(machine, VA, pan=True) == 0x0F
    assert fsc_of(machine, VA, Access.FETCH, pan=True) is None
    assert fsc_of(machine, VA, el=0, pan=True) is None
    assert fsc_of(machine, DATA, pan=True) is None


@pytest.mark.parametrize(
    ("bit", "access", "el"),
    [(61, Access.READ, 0), (62, Access.WRITE, 1), (60, Access.FETCH, 0), (59, Access.FETCH, 1)],
)
def test_table_attributes_restrict_what_lies_below(machine: Machine, bit: int, access: Access, el: int) -> None:
    machine.map(VA, DATA, USER | (READ_ONLY if access is Access.FETCH else 0))
    assert fsc_of(machine, VA, access, el=el) is None
    machine.set_bits(machine.entry(VA, 1), 1 << bit)
    assert fsc_of(machine, VA, access, el=el) == 0x0F


_FAULTS = [
    # instruction, mode, ESR_EL1 for a page without a mapping
    ("ldr", 5, DABT_EL1 | 0x04),
    ("str", 5, DABT_EL1 | WNR | 0x04),
    ("ldr", 0, DABT_EL0 | 0x04),
    ("dc civac", 5, DABT_EL1 | WNR | CM | 0x04),
    ("ic ivau", 5, DABT_EL1 | WNR | CM | 0x04),
    ("br", 5, IABT_EL1 | 0x04),
    ("br", 0, IABT_EL0 | 0x04),
]


@pytest.mark.parametrize(("what", "mode", "esr"), _FAULTS)
def test_faults_go_to_el1(what: str, mode: int, esr: int) -> None:
    def build(asm: Assembler) -> None:
        if what == "br":
            asm.br(X0)
        elif what == "ldr":
            asm.ldr(X1, X0)
        elif what == "str":
            asm.str(X1, X0)
        else:
            asm.system(what, X0)

    machine = Machine(build)
    machine.enable_mmu()
    machine.map(CODE, CODE, USER | READ_ONLY)
    machine.cpu.pstate = mode
    machine.cpu.x[0] = VA
    before = list(machine.cpu.x)
    assert machine.vector() == (0x400 if mode == EL0T else 0x200)
    assert machine["esr_el1"] == esr
    assert machine["far_el1"] == VA
    assert machine["elr_el1"] == (VA if what == "br" else CODE)
    assert machine.cpu.x == before


def test_unprivileged_loads_have_the_rights_of_el0() -> None:
    def build(asm: Assembler) -> None:
        asm.ldtr(X1, X0)
        asm.ldtr(X2, X3)

    machine = Machine(build)
    machine.enable_mmu()
    machine.map(VA, DATA, USER)
    machine.fill(DATA, (0x1122).to_bytes(8, "little"))
    machine.cpu.pstate = 0x5 | 1 << 22
    machine.cpu.x[0], machine.cpu.x[3] = VA, DATA
    assert machine.vector() == 0x200
    assert machine.cpu.x[1] == 0x1122
    assert (machine["esr_el1"], machine["far_el1"]) == (DABT_EL1 | 0x0F, DATA)


@pytest.mark.parametrize("store", [False, True], ids=["ldtr", "sttr"])
@pytest.mark.parametrize(
    ("bits", "status"),
    [
        pytest.param(0, 0x0F, id="neither"),
        pytest.param(UAO, None, id="uao"),
        pytest.param(UAO | PAN, None, id="uao-pan"),
    ],
)
def test_uao_makes_unprivileged_accesses_ordinary_ones(store: bool, bits: int, status: int | None) -> None:
    """A page of EL1 alone is reached then; PAN restricts nothing there."""
    machine = Machine(lambda a: a.sttr(X1, X0) if store else a.ldtr(X1, X0))
    machine.enable_mmu()
    machine.cpu.pstate = 0x5 | bits
    machine.cpu.x[0] = DATA
    if status is None:
        machine.finish()
    else:
        assert machine.vector() == 0x200
        assert machine["esr_el1"] & 0x3F == status


def test_uao_does_not_lift_pan() -> None:
    """An ordinary access of EL1 to a page of EL0 is what PAN is against."""
    machine = Machine(lambda a: a.ldtr(X1, X0))
    machine.enable_mmu()
    machine.map(VA, DATA, USER)
    machine.cpu.pstate = 0x5 | UAO | PAN
    machine.cpu.x[0] = VA
    assert machine.vector() == 0x200
    assert machine["esr_el1"] & 0x3F == 0x0F


@pytest.mark.parametrize("operation", ["dc cvau", "dc civac", "dc ivac", "ic ivau", "dc zva"])
def test_pan_does_not_restrict_cache_maintenance_but_dc_zva(operation: str) -> None:
    """Which is a store (Arm ARM, D8.4.3: what PSTATE.PAN has no effect on)."""
    machine = Machine(lambda a: a.system(operation, X0))
    machine.enable_mmu()
    machine.map(VA, DATA, USER)
    machine.cpu.pstate = 0x5 | PAN
    machine.cpu.x[0] = VA
    if operation == "dc zva":
        assert machine.vector() == 0x200
        assert machine["esr_el1"] == DABT_EL1 | WNR | 0x0F
    else:
        machine.finish()


def test_uao_is_read_and_written_at_el1() -> None:
    def build(asm: Assembler) -> None:
        asm.msr_imm("uao", 1)
        asm.mrs(X1, "uao")
        asm.msr("uao", X0)
        asm.mrs(X2, "uao")

    machine = Machine(build)
    machine.finish()
    assert (machine.cpu.x[1], machine.cpu.x[2]) == (UAO, 0)


@pytest.mark.parametrize("el0", [False, True])
def test_uao_is_undefined_without_the_feature_and_at_el0(el0: bool) -> None:
    machine = Machine(lambda a: a.msr_imm("uao", 1), Features(uao=el0))
    machine.cpu.pstate = EL0T if el0 else 0x5
    assert machine.vector() == (0x400 if el0 else 0x200)
    assert machine["esr_el1"] >> 26 == 0


def test_pan_can_change_between_two_accesses() -> None:
    def build(asm: Assembler) -> None:
        asm.ldr(X1, X0)
        asm.msr_imm("pan", 1)
        asm.ldr(X2, X0)

    machine = Machine(build)
    machine.enable_mmu()
    machine.map(VA, DATA, USER)
    machine.cpu.x[0] = VA
    machine.cpu.pstate = 0x3C5
    assert machine.vector() == 0x200
    assert (machine["esr_el1"], machine["elr_el1"]) == (DABT_EL1 | 0x0F, CODE + 8)


def test_a_changed_descriptor_is_seen_after_tlbi_only_when_it_was_cached() -> None:
    def build(asm: Assembler) -> None:
        asm.ldr(X1, X0)
        asm.str(X3, X2)
        asm.dsb()
        asm.system("tlbi vmalle1")
        asm.isb()
        asm.ldr(X2, X0)

    machine = Machine(build)
    machine.enable_mmu()
    machine.map(VA, DATA)
    machine.map(TABLES, machine.entry(VA, 3) & ~0xFFF)
    machine.fill(DATA + 0x1000, (7).to_bytes(8, "little"))
    machine.cpu.x[0] = VA
    machine.cpu.x[2] = TABLES | machine.entry(VA, 3) & 0xFFF
    machine.cpu.x[3] = machine.peek(machine.entry(VA, 3)) + 0x1000
    machine.finish()
    assert (machine.cpu.x[1], machine.cpu.x[2]) == (0, 7)


_AT = [("at s1e1r", 0, None), ("at s1e1w", 0, None), ("at s1e0r", 0, 0x0F), ("at s1e1w", READ_ONLY, 0x0F)]


@pytest.mark.parametrize(("operation", "attributes", "fsc"), _AT)
def test_address_translation_instructions(operation: str, attributes: int, fsc: int | None) -> None:
    machine = Machine(lambda asm: asm.system(operation, X0))
    machine.enable_mmu()
    machine["mair_el1"] = 0xFF << 8
    machine.map(VA, DATA, attributes | 1 << 2 | 3 << 8)
    machine.cpu.x[0] = VA + 0x123
    machine.finish()
    par = machine["par_el1"]
    if fsc is None:
        assert par == 0xFF << 56 | DATA | 1 << 11 | 1 << 9 | 3 << 7
    else:
        assert par == 1 << 11 | fsc << 1 | 1


_UNREADABLE = [(Stage2Fault(0x07), 0x1C7), (ExternalAbort(), 0x157)]


@pytest.mark.parametrize(("cause", "iss"), _UNREADABLE, ids=["stage 2", "external abort"])
@pytest.mark.parametrize("operation", ["at s1e1r", "at s1e0w"])
def test_address_translation_of_el1_that_cannot_read_a_descriptor(operation: str, cause: Exception, iss: int) -> None:
    """The abort is taken, with CM and WnR set, and PAR_EL1 does not have it (Arm ARM, AArch64.AT)."""
    machine = Machine(lambda asm: asm.system(operation, X0))
    machine.enable_mmu()
    machine.map(VA, DATA)
    machine["par_el1"] = 0x801
    descriptor = machine.entry(VA, 3)
    if isinstance(cause, ExternalAbort):
        machine.ram.poison[descriptor] = cause
    else:
        machine.ram.page_faults[descriptor >> 12] = cause
    machine.cpu.x[0] = VA
    trap = machine.run()
    assert (hex(trap.esr), trap.far, trap.ipa is not None) == (hex(0x9200_0000 | iss), VA, not iss & 0x10)
    assert (machine.cpu.pc, machine["par_el1"]) == (CODE, 0x801)


def test_translate_has_no_side_effects_and_reports_walks_that_fail() -> None:
    machine = Machine()
    machine.enable_mmu()
    machine.map(VA, DATA)
    before = dict(machine.cpu.sysregs)
    assert machine.cpu.translate(VA, write=True, el0=False)[0] == DATA
    machine.cpu.invalidate_tlb()
    descriptor = machine.entry(VA, 3)
    machine.ram.page_faults[descriptor >> 12] = Stage2Fault(0x06)
    assert machine.cpu.translate(VA, write=False, el0=False) == (None, 1 << 11 | 1 << 9 | 1 << 8 | 0x06 << 1 | 1)
    machine.ram.page_faults[descriptor >> 12] = ExternalAbort(walk_level=2)
    assert machine.cpu.translate(VA, write=False, el0=False) == (None, 1 << 11 | 1 << 9 | 1 << 8 | 0x16 << 1 | 1)
    machine.ram.page_faults.clear()
    machine.ram.poison[descriptor] = ExternalAbort()
    assert machine.cpu.translate(VA, write=False, el0=False) == (None, 1 << 11 | 0x17 << 1 | 1)
    assert machine.cpu.sysregs == before
    assert VECTORS not in {ipa for ipa, _ in machine.ram.asked}


GRANULES = {"4k": (12, 9, 0, 2, (1, 2)), "16k": (14, 11, 2, 1, (2,)), "64k": (16, 13, 1, 3, (2,))}
"""page shift, bits that a level resolves, TG0, TG1, levels with blocks (Arm ARM, D8.2.8 to D8.2.10)."""


class Tables:
    """Tables of any granule in a machine's memory, made by the rules and not by the walk that they test."""

    def __init__(self, granule: str, size_offset: int, *, high: bool = False) -> None:
        self.page_shift, self.level_bits, tg0, tg1, self.blocks = GRANULES[granule]
        self.machine = Machine()
        self.bits = 64 - size_offset
        levels = -(-(self.bits - self.page_shift) // self.level_bits)
        self.first = 4 - levels
        self.top = 0xFFFF_FFFF_FFFF_FFFF & -(1 << self.bits) if high else 0
        self.machine["tcr_el1"] = size_offset | size_offset << 16 | tg0 << 14 | tg1 << 30 | 5 << 32
        self.machine["ttbr1_el1" if high else "ttbr0_el1"] = 1 << 16
        self.machine["sctlr_el1"] |= 1
        self.made: dict[tuple[int, ...], int] = {(): 1 << 16}
        self.next = (1 << 16) + (1 << self.page_shift)

    def shift(self, level: int) -> int:
        return self.page_shift + self.level_bits * (3 - level)

    def put(self, va: int, ipa: int, level: int, kind: int, attributes: int = AF) -> None:
        path: tuple[int, ...] = ()
        for step in range(self.first, level):
            index = self.index(va, step)
            if (*path, index) not in self.made:
                self.made[*path, index] = self.next
                self.write(self.made[path] + 8 * index, self.next | 3)
                self.next += 1 << self.page_shift
            path = (*path, index)
        self.write(self.made[path] + 8 * self.index(va, level), ipa | attributes | kind)

    def index(self, va: int, level: int) -> int:
        width = self.level_bits if level > self.first else self.bits - self.shift(level)
        return va >> self.shift(level) & (1 << width) - 1

    def write(self, address: int, value: int) -> None:
        self.machine.fill(address, value.to_bytes(8, "little"))
        self.machine.cpu.invalidate_tlb()

    def translate(self, va: int) -> int:
        return self.machine.cpu.stage1(va, Access.READ, el=1, pan=False)


@pytest.mark.parametrize("high", [False, True], ids=["ttbr0", "ttbr1"])
@pytest.mark.parametrize("size_offset", [16, 17, 22, 25, 28, 31, 36, 39])
@pytest.mark.parametrize("granule", GRANULES)
def test_granules(granule: str, size_offset: int, high: bool) -> None:
    """Every size of the address space begins at its level; pages and blocks keep the low bits."""
    tables = Tables(granule, size_offset, high=high)
    va = tables.top | 0x0000_9ABC_DEF1_2345 & (1 << tables.bits) - 1
    for level in (3, *tables.blocks):
        if level < tables.first:
            continue
        tables = Tables(granule, size_offset, high=high)
        size = 1 << tables.shift(level)
        tables.put(va, 0x5A_0000_0000_00 & -size, level, 3 if level == 3 else 1)
        assert tables.translate(va) == 0x5A_0000_0000_00 & -size | va & size - 1
        for wrong in (va ^ size, va ^ 1 << tables.bits - 1):
            assert fsc_of(tables.machine, wrong) in range(0x04, 0x08)


@pytest.mark.parametrize("granule", GRANULES)
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_what_each_granule_has_no_blocks_for(granule: str, level: int) -> None:
    tables = Tables(granule, 16)
    if level < tables.first:
        pytest.skip("the walk begins below")
    va = 0x1234_5678_9ABC
    tables.put(va, 0, level, 1)
    assert fsc_of(tables.machine, va) == (None if level in tables.blocks else 0x04 + level)


@pytest.mark.parametrize("granule", GRANULES)
def test_the_low_bits_of_a_table_descriptor_are_no_address(granule: str) -> None:
    """Tables are as large as pages: what is below in the descriptor is ignored."""
    tables = Tables(granule, 25)
    va = 0x12_3456_7000
    tables.put(va, 0, 3, 3)
    path = tuple(tables.index(va, level) for level in range(tables.first, 3))
    entry = tables.made[path[:-1]] + 8 * path[-1]
    tables.write(entry, tables.made[path] | 0xFFF & ~3 | 3 | ((1 << tables.page_shift) - 1 & ~0xFFF))
    assert fsc_of(tables.machine, va) is None


def test_the_reserved_granule_is_4k() -> None:
    tables = Tables("4k", 25)
    tables.machine["tcr_el1"] |= 3 << 14
    tables.put(0x1000, 0, 3, 3)
    assert fsc_of(tables.machine, 0x1000) is None


def test_code_runs_from_pages_of_64k() -> None:
    """With one entry of a table for what is sixteen pages of the bus."""

    def code(a: Assembler) -> None:
        a.mov(X0, 0x1_0000)
        a.ldr(X1, Offset(X0, 0x4008))
        a.str(X1, Offset(X0, 0x5000))

    machine = Machine(code)
    machine["tcr_el1"] = 16 | 16 << 16 | 1 << 14 | 3 << 30 | 5 << 32
    machine.fill(TABLES, (TABLES + 0x1_0000 | 3).to_bytes(8, "little"))
    machine.fill(TABLES + 0x1_0000, (TABLES + 0x2_0000 | 3).to_bytes(8, "little"))
    table = TABLES + 0x2_0000
    for page in range(16):
        machine.fill(table + 8 * page, (page << 16 | AF | 3).to_bytes(8, "little"))
    machine["ttbr0_el1"] = TABLES
    machine["sctlr_el1"] |= 1
    machine.fill(0x1_4008, b"sixtyfou")
    machine.cpu.invalidate_tlb()
    machine.finish()
    assert bytes(machine.ram.view[0x1_5000:0x1_5008]) == b"sixtyfou"
