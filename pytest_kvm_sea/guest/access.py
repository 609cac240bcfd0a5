# SPDX-License-Identifier: GPL-2.0-only
"""Kinds of access to memory, as a table: what tests are parametrised over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.operands import X9, X10, X11, Post, Pre, Reg, half

ACCESS_BASE = X9
"""Where `Guest.access` has the address when the access is made: a test can look at it in the saved registers."""
ACCESS_DATA = (X10, X11)
"""Where it has what is stored, or loads to; the second is for pairs."""
WRITEBACK = 8
"""By how many bytes pre- and post-index accesses move the base."""

Emit: TypeAlias = Callable[[Assembler, Reg, Reg, Reg], None]
"""(assembler, data, second datum of a pair, base)"""


@dataclass(frozen=True, slots=True)
class AccessKind:
    """One kind of access."""

    name: str
    mnemonic: str
    size: int
    """Bytes that are accessed."""
    emit: Emit
    is_write: bool = False
    writeback: bool = False
    """The base register changes."""
    pre_index: bool = False
    isv: bool = True
    """An abort on it has an instruction syndrome (ESR_EL2.ISV, Arm ARM D24.2.40): one register, no writeback."""
    is_fetch: bool = False
    """The access is the fetch of an instruction at the address: ELR is the address, not the branch."""
    signed_bits: int = 0
    """The datum is sign-extended to so many bits; 0: it is not."""
    alignment: int = 0
    """What a test should align the address to; 0: to the size."""
    misalignment: int = 0
    """Added to the aligned address."""

    def address_near(self, address: int) -> int:
        """The address at or before ``address`` that this access fits: aligned, or off by one for the unaligned."""
        boundary = self.alignment or self.size
        return (address & -boundary) + self.misalignment

    def __str__(self) -> str:
        return self.name


_KINDS = (
    AccessKind("ldrb", "ldrb", 1, lambda asm, data, _, base: asm.ldrb(half(data), base)),
    AccessKind("ldrh", "ldrh", 2, lambda asm, data, _, base: asm.ldrh(half(data), base)),
    AccessKind("ldr-w", "ldr", 4, lambda asm, data, _, base: asm.ldr(half(data), base)),
    AccessKind("ldr-x", "ldr", 8, lambda asm, data, _, base: asm.ldr(data, base)),
    AccessKind("ldrsb", "ldrsb", 1, lambda asm, data, _, base: asm.ldrsb(data, base), signed_bits=64),
    AccessKind("ldrsh", "ldrsh", 2, lambda asm, data, _, base: asm.ldrsh(data, base), signed_bits=64),
    AccessKind("ldrsw", "ldrsw", 4, lambda asm, data, _, base: asm.ldrsw(data, base), signed_bits=64),
    AccessKind("ldrsb-w", "ldrsb", 1, lambda asm, data, _, base: asm.ldrsb(half(data), base), signed_bits=32),
    AccessKind("ldrsh-w", "ldrsh", 2, lambda asm, data, _, base: asm.ldrsh(half(data), base), signed_bits=32),
    AccessKind("strb", "strb", 1, lambda asm, data, _, base: asm.strb(half(data), base), is_write=True),
    AccessKind("strh", "strh", 2, lambda asm, data, _, base: asm.strh(half(data), base), is_write=True),
    AccessKind("str-w", "str", 4, lambda asm, data, _, base: asm.str(half(data), base), is_write=True),
    AccessKind("str-x", "str", 8, lambda asm, data, _, base: asm.str(data, base), is_write=True),
    AccessKind("ldp", "ldp", 16, lambda asm, data, other, base: asm.ldp(data, other, base), isv=False),
    AccessKind("stp", "stp", 16, lambda asm, data, other, base: asm.stp(data, other, base), is_write=True, isv=False),
    AccessKind("ldr-unaligned", "ldr", 8, lambda asm, data, _, base: asm.ldr(data, base), alignment=16, misalignment=1),
    AccessKind(
        "str-unaligned",
        "str",
        8,
        lambda asm, data, _, base: asm.str(data, base),
        is_write=True,
        alignment=16,
        misalignment=1,
    ),
    AccessKind(
        "ldr-post",
        "ldr",
        8,
        lambda asm, data, _, base: asm.ldr(data, Post(base, WRITEBACK)),
        writeback=True,
        isv=False,
    ),
    AccessKind(
        "str-post",
        "str",
        8,
        lambda asm, data, _, base: asm.str(data, Post(base, WRITEBACK)),
        is_write=True,
        writeback=True,
        isv=False,
    ),
    AccessKind(
        "ldr-pre",
        "ldr",
        8,
        lambda asm, data, _, base: asm.ldr(data, Pre(base, WRITEBACK)),
        writeback=True,
        pre_index=True,
        isv=False,
    ),
    AccessKind(
        "str-pre",
        "str",
        8,
        lambda asm, data, _, base: asm.str(data, Pre(base, WRITEBACK)),
        is_write=True,
        writeback=True,
        pre_index=True,
        isv=False,
    ),
    AccessKind("fetch", "blr", 4, lambda asm, _data, _other, base: asm.blr(base), isv=False, is_fetch=True),
)

ACCESSES: dict[str, AccessKind] = {kind.name: kind for kind in _KINDS}
"""All kinds of access by name."""
