# SPDX-License-Identifier: GPL-2.0-only
"""Random instructions of an encoding class, with registers so that loads and stores go somewhere worth going."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from pytest_kvm_sea.arm64.encodings import ENCODINGS, Encoding
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle import layout as at
from tests.oracle.surroundings import M64, Environment, data_address

MEMORY: Final = frozenset(
    name for name in ENCODINGS if name.startswith(("LDST", "LDR", "PRFM", "EXCLUSIVE", "ORDERED", "CAS", "LDAPR"))
) | {"ATOMIC", "SWP"}
_AIMED: Final = 5
"""Of six loads and stores so many go to an address that was chosen."""
_NEAR: Final = 1 << 17
"""How far, in bytes, literals and branches go at most; more is outside of anything that is mapped."""
_SPREAD: Final = frozenset({"B", "B_COND", "TBZ", "CBZ"})
NOT_ONE: Final = "a bit that should be one is not"
_HINTS: Final = (*range(64), 1, 2, 2, 3, 16)


@dataclass(slots=True)
class Draft:
    """A case in the making."""

    rng: random.Random
    env: Environment
    pc: int
    code_at: int
    x: list[int]
    sp: list[int]
    """SP_EL0, SP_EL1."""
    pstate: int
    system: dict[str, int]
    words: list[int] = field(default_factory=list)
    compiled: bool = False
    forget: bool = False
    whole: bool = False
    pinned: set[int] = field(default_factory=set)
    """Registers whose value an instruction counts on."""
    index: int = 0
    """Of the case."""

    def pin(self, number: int, value: int) -> None:
        """Give a register a value, unless another instruction has given it one."""
        if number == 31:
            self.sp = [value & M64] * 2
        elif number not in self.pinned:
            self.x[number] = value & M64
        self.pinned.add(number)


def random_word(rng: random.Random, encoding: Encoding) -> int:
    """An allocated instruction of this class; bits that should be one are."""
    while True:
        word = rng.getrandbits(32) & ~encoding.mask | encoding.match | encoding.should_be
        if encoding.has(word):
            return word


def instruction(draft: Draft, name: str) -> int:
    """An instruction of this class, and registers for it."""
    encoding = ENCODINGS[name]
    while True:
        fields = encoding.decode(random_word(draft.rng, encoding))
        if name in MEMORY:
            _aim(draft, name, fields)
        elif name in _SPREAD:
            _branch(draft.rng, fields)
        elif name == "BR" and draft.rng.randrange(4):
            target = draft.pc + 4 * draft.rng.randrange(1, 200) + (draft.rng.randrange(8) == 0)
            draft.pin(fields["Rn"], target | draft.rng.getrandbits(8) << 56 if draft.rng.randrange(8) == 0 else target)
        elif name == "HINT":
            hint = draft.rng.choice(_HINTS)
            fields = {"CRm": hint >> 3, "op2": hint & 7}
        word = encoding.encode(**fields)
        if not unpredictable(word):
            return word


def _branch(rng: random.Random, fields: dict[str, int]) -> None:
    """Forward, beyond the instructions of the case: there is nothing but STOP, or another page. Never in circles."""
    name = next(each for each in ("imm26", "imm19", "imm14") if each in fields)
    if rng.randrange(4):
        fields[name] = rng.randrange(8, 3000)
    elif -at.WORDS < fields[name] < at.WORDS:
        fields[name] = at.WORDS


def _aim(draft: Draft, name: str, fields: dict[str, int]) -> None:
    """Set the base register so that the access is made to an address of `data_address`."""
    rng = draft.rng
    if "imm19" in fields:
        if rng.randrange(4):
            fields["imm19"] = rng.randrange(-_NEAR // 4, _NEAR // 4)
        return
    size = fields.get("size", 2 + (fields.get("opc", 0) == 2 or fields.get("sz", 0)))
    if name == "CASP":
        size = 3 + fields["sz"]
    target = data_address(rng, draft.env)
    if rng.randrange(4):
        target &= -1 << size
    elif name == "EXCLUSIVE_PAIR":
        target &= -16
    if rng.randrange(6) >= _AIMED:
        return
    draft.pin(fields["Rn"], target - _offset(draft, name, fields, size))


def _offset(draft: Draft, name: str, fields: dict[str, int], size: int) -> int:
    if name in {"LDST_UIMM", "PRFM_UIMM"}:
        return fields["imm12"] << size
    if name == "LDST_POST":
        return 0
    if "imm9" in fields:
        return fields["imm9"]
    if "imm7" in fields:
        return 0 if fields["mode"] == 1 else fields["imm7"] << size
    if "option" not in fields:
        return 0
    index = 0 if fields["Rm"] == 31 else draft.x[fields["Rm"]]
    if fields["option"] == 2:
        index &= M64 >> 32
    elif fields["option"] == 6:
        index = (index & M64 >> 32 ^ 1 << 31) - (1 << 31)
    draft.pinned.add(fields["Rm"])
    return index << (size if fields["S"] else 0)


def unpredictable(word: int) -> str:
    """Why a word is CONSTRAINED UNPREDICTABLE (Arm ARM, K1), empty if it is not, or not known here."""
    encoding = decode(word)
    if encoding is None:
        return ""
    name, f = encoding.name, encoding.decode(word)
    if name in {"LDST_PRE", "LDST_POST"} and f["Rn"] == f["Rt"] != 31:
        return "writeback into the register that is transferred"
    if name == "LDST_PAIR":
        if f["mode"] in {1, 3} and f["Rn"] in {f["Rt"], f["Rt2"]} - {31}:
            return "writeback into a register that is transferred"
        if f["L"] and f["Rt"] == f["Rt2"]:
            return "a pair loaded into one register"
    if name == "EXCLUSIVE_PAIR" and f["L"] and f["Rt"] == f["Rt2"]:
        return "a pair loaded into one register"
    if name in {"EXCLUSIVE", "EXCLUSIVE_PAIR"} and not f["L"] and _status_overlaps(f):
        return "the status of a store-exclusive goes into one of its operands"
    return _should_be(encoding, word)


def _status_overlaps(f: dict[str, int]) -> bool:
    return f["Rs"] in {f["Rt"], f.get("Rt2")} or f["Rs"] == f["Rn"] != 31


def exclusives_of_two_sizes(words: list[int]) -> bool:
    """Whether a store-exclusive has another size than a load before it (Arm ARM, B2: CONSTRAINED UNPREDICTABLE)."""
    sizes = set()
    for encoding, word in ((decode(word), word) for word in words):
        if encoding is not None and encoding.name in {"EXCLUSIVE", "EXCLUSIVE_PAIR"}:
            sizes.add(word >> 30 | word >> 19 & 4)
    return len(sizes) > 1


def _should_be(encoding: Encoding, word: int) -> str:
    if word & encoding.should_be != encoding.should_be:
        return NOT_ONE
    if encoding.name in {"EXCLUSIVE", "EXCLUSIVE_PAIR"}:
        f = encoding.decode(word)
        if f["L"] and f["Rs"] != 31:
            return NOT_ONE
    return ""


def as_it_should_be(word: int) -> int:
    """The same instruction with all bits one that should be."""
    encoding = decode(word)
    if encoding is None:
        return word
    fields = encoding.decode(word)
    if encoding.name in {"EXCLUSIVE", "EXCLUSIVE_PAIR"} and fields["L"]:
        fields["Rs"] = 31
    return encoding.encode(**fields)
