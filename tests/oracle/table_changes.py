# SPDX-License-Identifier: GPL-2.0-only
"""Cases that change translation tables, and do what the architecture asks for.

A descriptor that may be in a TLB is changed with TLB maintenance, and made invalid first where more changes than what
it permits (break-before-make, Arm ARM, D8.16). One that is invalid, or without access flag, is in no TLB.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import descriptors as d
from pytest_kvm_sea.arm64.operands import XZR, Cond, Label, Reg
from tests.oracle import layout as at
from tests.oracle import surroundings, tables
from tests.oracle.granules import LAST_LEVEL, Granule
from tests.oracle.instructions import Draft
from tests.oracle.sequences import Sequence, is_el0, mostly_at_el1, with_mmu
from tests.oracle.surroundings import Environment

_PERMISSIONS: Final = d.AP_EL0 | d.AP_READ_ONLY | d.PXN | d.UXN | d.ACCESS_FLAG
"""Bits that may change while the descriptor is in use."""
_FLIPPED: Final = (
    d.ACCESS_FLAG,
    d.ACCESS_FLAG,
    d.AP_READ_ONLY,
    d.AP_READ_ONLY,
    d.AP_EL0,
    d.AP_EL0 | d.AP_READ_ONLY,
    tables.NEVER,
)
_FETCH_FLIPPED: Final = (d.PXN, d.UXN, tables.NEVER, d.AP_EL0)
AT: Final = ("at s1e1r", "at s1e1w", "at s1e0r", "at s1e0w")
_TLBI_VA: Final = ("tlbi vae1", "tlbi vaae1")
_TLBI_VA_LAST: Final = ("tlbi vale1", "tlbi vaale1")
_TLBI_ALL: Final = ("tlbi vmalle1",)
_TLBI_ASID: Final = ("tlbi aside1",)
_BEYOND: Final = 1 << 54
"""An address of the lower half that no T0SZ includes."""
_READS: Final = ("ldr", "ldtr")
_WRITES: Final = ("str", "sttr")
_VA: Final = (1 << 44) - 1
"""What of a page's number is in the operand of a TLBI."""
_FLAGS: Final = (0, tables.USER, tables.READ_ONLY, tables.USER | tables.READ_ONLY)
_NEVER: Final = (0, d.UXN, d.PXN, tables.NEVER, tables.NEVER, tables.NEVER)


class Slot(NamedTuple):
    """An entry of a table that cases change."""

    granule: Granule
    level: int
    number: int
    va: int
    """An address that it translates."""

    @property
    def old(self) -> int:
        return tables.changing(self.level)[self.number]

    def has_another_granule(self) -> bool:
        """Whether this is an entry with a table that is made for another granule."""
        is_table = d.is_table(self.old, self.level)
        return is_table and self.old & d.ADDRESS_MASK != self.granule.table(LAST_LEVEL)


def slot(rng: random.Random, env: Environment) -> Slot:
    """Any, in a half and at a level where the tables have it; else one in the lower half, beyond its addresses."""
    for _ in range(8):
        half = int(rng.randrange(4) == 0)
        granule, size = env.granules[half], env.sizes[half]
        level = 2 if granule.first_level(size) <= 1 and rng.randrange(3) == 0 else LAST_LEVEL
        number = rng.randrange(at.CHANGING_ENTRIES[level])
        above = granule.shift(level - 1)
        start = (at.GUEST >> above) + tables.CHANGING_ENTRY[level - 1] << above
        va = start + (number << granule.shift(level)) + _offset(rng, granule, level)
        found = Slot(granule, level, number, surroundings.upper(env, va) if half else va)
        if not va >> 64 - size and not found.has_another_granule():
            return found
    return Slot(env.granules[0], LAST_LEVEL, rng.randrange(at.CHANGING_ENTRIES[LAST_LEVEL]), _BEYOND)


def _offset(rng: random.Random, granule: Granule, level: int) -> int:
    """In a page: anywhere, or such that an access reaches into the next one; in a block: where data are."""
    if level == LAST_LEVEL:
        return rng.choice((rng.randrange(0, granule.size, 8), rng.randrange(0, 4 * at.PAGE, 8), granule.size - 4))
    page = rng.choice((at.DATA, granule.page(tables.DATA_VIEW + rng.choice(tables.GOOD_VIEWS)), at.CODE))
    return (page + rng.randrange(0, at.PAGE, 8)) % (1 << granule.shift(level))


def fresh(rng: random.Random, place: Slot) -> int:
    """A descriptor to come: other permissions, another address, another kind, or an invalid one."""
    granule, level, old = place.granule, place.level, place.old
    kind = rng.randrange(8)
    if kind == 0:
        return 0
    if kind < 3:
        return old & ~d.VALID
    if kind < 5 and old:
        return old ^ rng.choice(_FLIPPED)
    flags = rng.choice(_FLAGS) | rng.choice(_NEVER) | rng.choice((0, tables.NOT_GLOBAL))
    if level == LAST_LEVEL:
        outputs = (at.DATA, at.DATA + at.PAGE, at.CODE, at.READ_ONLY, at.HOLE, at.BROKEN, tables.TOO_HIGH | at.DATA)
        new = tables.leaf(granule, rng.choice(outputs), flags)
        return new ^ (d.ACCESS_FLAG * (rng.randrange(8) == 0) | d.TABLE_OR_PAGE * (rng.randrange(8) == 0))
    if kind == 5:
        return tables.leaf(granule, at.GUEST, flags, level=level)
    forbids = (0, 0, tables.TABLE_PXN, tables.TABLE_UXN, tables.TABLE_NO_USER, tables.TABLE_READ_ONLY)
    return d.table(granule.table(LAST_LEVEL)) | rng.choice(forbids)


def may_be_cached(descriptor: int, level: int) -> bool:
    """Whether a TLB may have it (Arm ARM, D8.16: not what causes translation and access flag faults)."""
    if not descriptor & d.VALID or (level == LAST_LEVEL and not descriptor & d.TABLE_OR_PAGE):
        return False
    return d.is_table(descriptor, level) or bool(descriptor & d.ACCESS_FLAG)


def needs_break(old: int, new: int, level: int) -> bool:
    """Whether the old descriptor must have been invalid before the new one is there."""
    if not may_be_cached(old, level) or not new & d.VALID:
        return False
    return d.is_table(old, level) or bool((old ^ new) & ~_PERMISSIONS)


def asid(draft: Draft) -> int:
    """The one in use: TCR_EL1.A1 says which register has it."""
    return draft.system["ttbr1_el1" if draft.system["tcr_el1"] >> 22 & 1 else "ttbr0_el1"] >> 48


class _Change(Sequence):
    """With registers for one entry of a table, and for what it translates."""

    def __init__(self, draft: Draft, place: Slot, *, anywhere: bool = True) -> None:
        """``anywhere``: the operand of a TLBI is any address of the page or block, for its low bits are ignored."""
        super().__init__(draft)
        self._rng = draft.rng
        self._place = place
        view = tables.TABLE_VIEW[place.level] + is_el0(draft)
        self.entry = self.register(draft.env.granules[0].page(view) + place.number * 8)
        self.address = self.register(place.va)
        # Below a table there are pages, of which a TLBI names one
        level = LAST_LEVEL if d.is_table(place.old, place.level) else place.level
        size = 1 << place.granule.shift(level)
        page = place.va & -size | self._rng.randrange(size) if anywhere else place.va
        self.operand = self.register(asid(draft) << 48 | page >> 12 & _VA)

    def put(self, value: Reg) -> None:
        """Store a descriptor, and wait for it."""
        if self._rng.randrange(3):
            self.str(value, self.entry)
        else:
            self.stlr(value, self.entry)
        self.dsb(self._rng.choice(("sy", "ish", "ishst", "st", "nsh")))

    def invalidate(self) -> None:
        """A TLBI that reaches the entry, and wait for it."""
        names: tuple[str, ...] = _TLBI_ALL + _TLBI_VA * 2
        if not d.is_table(self._place.old, self._place.level):
            names += _TLBI_VA_LAST * 2
            if self._place.old & tables.NOT_GLOBAL:
                names += _TLBI_ASID * 4
        name = self._rng.choice(names)
        shareable = self._rng.randrange(2)
        self.system(name + "is" * shareable, XZR if name in _TLBI_ALL else self.operand)
        self.dsb(self._rng.choice(("sy", "ish") if shareable else ("sy", "ish", "nsh")))

    def access(self, name: str = "") -> None:
        """Of this sort, or any."""
        name = name or self._rng.choice((*_READS, *_WRITES, "ldr", "str", "br"))
        if name == "br":
            self.br(self.address)
        else:
            getattr(self, name)(self.register(), self.address)

    def use(self) -> str:
        """An access that the entry permits, so that a TLB has it; its sort. It is empty where the entry is no use."""
        if not may_be_cached(self._place.old, self._place.level):
            return ""
        name = self._rng.choice(_READS if self._place.old & d.AP_READ_ONLY else _READS + _WRITES)
        self.access(name)
        return name


def _begin(draft: Draft) -> Slot:
    with_mmu(draft)
    mostly_at_el1(draft)
    return slot(draft.rng, draft.env)


def change_entry(draft: Draft) -> None:
    """One descriptor becomes another one. What was translated before it is translated differently after it."""
    rng, place = draft.rng, _begin(draft)
    old, new = place.old, fresh(rng, place)
    code = _Change(draft, place)
    used = code.use() if rng.randrange(4) else ""
    if not used and rng.randrange(2) and not is_el0(draft):
        code.probe(rng.choice(AT), code.address)
    value = code.register(new)
    if needs_break(old, new, place.level):
        code.put(XZR)
        code.invalidate()
        code.put(value)
    else:
        code.put(value)
        if may_be_cached(old, place.level) or rng.randrange(8) == 0:
            code.invalidate()
    code.isb()
    if rng.randrange(2) and not is_el0(draft):
        code.probe(rng.choice(AT), code.address)
    code.access(used if rng.randrange(3) else "")
    code.finish(forget=True)


def change_fetched(draft: Draft) -> None:
    """A page with code that has been called: then it cannot be, or can."""
    rng, place = draft.rng, _begin(draft)
    place = place._replace(granule=draft.env.granules[0], level=LAST_LEVEL, number=rng.choice(tables.EXECUTABLE))
    granule = place.granule
    start = (at.GUEST >> granule.shift(2)) + tables.CHANGING_ENTRY[2] << granule.shift(2)
    place = place._replace(va=start + place.number * granule.size + at.RETURN % granule.size)
    # QEMU, 10.0 as well, forgets of code only the 4 KiB that a TLBI names
    code = _Change(draft, place, anywhere=False)
    code.blr(code.address)
    code.put(code.register(rng.choice((0, *(place.old ^ bits for bits in (*_FETCH_FLIPPED, d.ACCESS_FLAG))))))
    code.invalidate()
    code.isb()
    code.blr(code.address)
    code.finish(forget=True)


def change_asid(draft: Draft) -> None:
    """A page that is not global is changed; with another ASID there is nothing to be invalidated."""
    rng, place = draft.rng, _begin(draft)
    while not place.old & tables.NOT_GLOBAL:
        place = slot(rng, draft.env)
    code = _Change(draft, place)
    register = "ttbr1_el1" if draft.system["tcr_el1"] >> 22 & 1 else "ttbr0_el1"
    other = code.register(draft.system[register] ^ rng.randrange(1, 1 << 8) << 48)
    used = code.use()
    new = place.old & ~d.VALID if rng.randrange(2) else place.old ^ rng.choice((d.AP_READ_ONLY, d.AP_EL0))
    code.put(code.register(new))
    code.msr(register, other)
    code.isb()
    if rng.randrange(2):
        code.probe(rng.choice(AT), code.address)
    code.access(used)
    code.finish(forget=True)


def change_in_a_loop(draft: Draft) -> None:
    """Two descriptors take turns, of which one is invalid or permits something else; AT tells which one it is, and
    accesses that come to fail do."""
    rng, place = draft.rng, _begin(draft)
    while not place.old & d.VALID:
        place = slot(rng, draft.env)
    code = _Change(draft, place)
    other = code.register(rng.choice((0, place.old ^ d.AP_READ_ONLY, place.old ^ d.AP_EL0, place.old ^ d.ACCESS_FLAG)))
    rounds, seen, par = code.register(rng.randrange(2, 5)), code.register(), code.register()
    code.label(again := Label("again"))
    if rng.randrange(2):
        code.use()
    code.atomic("swp", other, other, code.entry)
    code.dsb()
    code.invalidate()
    code.isb()
    code.system(rng.choice(AT), code.address)
    code.isb()
    code.mrs(par, "par_el1")
    code.extr(seen, seen, seen, 7)
    code.eor(seen, seen, par)
    code.subs(rounds, rounds, 1)
    code.b_cond(Cond.NE, again)
    code.finish(forget=True, compiled=True)


TABLE_MAKERS: Final[dict[str, Callable[[Draft], None]]] = {
    **{f"tables {number}": change_entry for number in range(4)},
    "tables fetch": change_fetched,
    "tables ASID": change_asid,
    "tables loop": change_in_a_loop,
}
