# SPDX-License-Identifier: GPL-2.0-only
"""Data accesses and instruction fetch: translation, alignment, aborts with their syndromes (Arm ARM, D24.2.40).

An access is made in parts that do not cross a page, in the order of their addresses. All parts of a store are found
reachable before the first byte is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.esr import EC, syndrome
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.bus import PAGE_MASK, PAGE_SIZE, Access, ExternalAbort, Page, Stage2Fault
from pytest_kvm_sea.cpu.mmu import Mmu
from pytest_kvm_sea.cpu.state import (
    SCTLR2_EASE,
    SCTLR2_EL1,
    SCTLR_EL1,
    SCTLR_SA,
    SCTLR_SA0,
)
from pytest_kvm_sea.cpu.traps import GuestException, Stage1Fault, Trap, TrapTaken, WalkAborted

_M64: Final = 0xFFFF_FFFF_FFFF_FFFF
_CANONICAL: Final = 0x00FF_FFFF_FFFF_FFFF
GARBAGE_FAR: Final = 0x5EAB_AD00_DEAD_0BAD
"""What FAR holds when a core that does not track the address of an SEA sets FnV."""
_SEA_VECTOR: Final = 0x180
BLOCK_SIZE: Final = 64
"""What DC ZVA zeroes."""


class _Request(NamedTuple):
    """An access as its syndrome describes it."""

    va: int
    access: Access
    iss: int


class Memory(Mmu):
    """The exact paths. What they find is left in ``reads`` and ``writes`` of the context for the fast ones."""

    __slots__ = ()

    # Data

    def load(self, va: int, size: int, iss: int) -> int:
        """The value of ``size`` bytes, little-endian. ``iss`` is what a trap's syndrome says about the register."""
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va)
        offset = va & PAGE_MASK
        if offset + size <= PAGE_SIZE:
            view = self.reads.get(va >> 12)
            if view is None:
                view = self._open(va, size, Access.READ, iss)
            return int.from_bytes(view[offset : offset + size], "little")
        return int.from_bytes(self._gather(va, size, iss, self.el), "little")

    def store(self, va: int, size: int, value: int, iss: int) -> None:
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va, write=True)
        data = (value & (1 << size * 8) - 1).to_bytes(size, "little")
        offset = va & PAGE_MASK
        if offset + size <= PAGE_SIZE:
            view = self.writes.get(va >> 12)
            if view is None:
                view = self._open(va, size, Access.WRITE, iss)
            view[offset : offset + size] = data
        else:
            self._scatter(va, data, iss, self.el)

    def load_pair(self, va: int, size: int) -> tuple[int, int]:
        """LDP: two values; each is aligned to its own size under SCTLR_EL1.A."""
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va)
        data = self._gather(va, size * 2, 0, self.el)
        return int.from_bytes(data[:size], "little"), int.from_bytes(data[size:], "little")

    def store_pair(self, va: int, size: int, first: int, second: int) -> None:
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va, write=True)
        ones = (1 << size * 8) - 1
        self._scatter(va, (first & ones | (second & ones) << size * 8).to_bytes(size * 2, "little"), 0, self.el)

    def load_unprivileged(self, va: int, size: int, iss: int) -> int:
        """LDTR: with the permissions of EL0, unless PSTATE.UAO overrides that."""
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va)
        return int.from_bytes(self._gather(va, size, iss, self._unprivileged_el), "little")

    def store_unprivileged(self, va: int, size: int, value: int, iss: int) -> None:
        va &= _M64
        if self.strict_alignment and va & size - 1:
            raise self._alignment_fault(va, write=True)
        self._scatter(va, (value & (1 << size * 8) - 1).to_bytes(size, "little"), iss, self._unprivileged_el)

    @property
    def _unprivileged_el(self) -> int:
        return self.el if self.pstate_bits & pstate.UAO else 0

    def load_ordered(self, va: int, size: int, iss: int) -> int:
        """LDAR: must be aligned."""
        self.require_aligned(va, size, write=False)
        return self.load(va, size, iss)

    def store_ordered(self, va: int, size: int, value: int, iss: int) -> None:
        self.require_aligned(va, size, write=True)
        self.store(va, size, value, iss)

    def load_exclusive(self, va: int, size: int) -> int:
        """LDXR, LDXP: sets the monitor."""
        self.require_aligned(va, size, write=False)
        data = self._gather(va & _M64, size, 0, self.el)
        self.monitor = (va & _M64, data)
        return int.from_bytes(data, "little")

    def store_exclusive(self, va: int, size: int, value: int) -> int:
        """STXR, STXP: 0 if the monitor let it through, else 1. Aborts are taken even where the store would fail.

        The monitor notices a store of anybody, this processor's own as well, by what is in memory (Arm ARM, B2.12).
        """
        self.require_aligned(va, size, write=True)
        va &= _M64
        view = self.writes.get(va >> 12)
        if view is None:
            view = self._open(va, size, Access.WRITE, 0)
        monitor, self.monitor = self.monitor, None
        offset = va & PAGE_MASK
        if monitor != (va, bytes(view[offset : offset + size])):
            return 1
        view[offset : offset + size] = (value & (1 << size * 8) - 1).to_bytes(size, "little")
        return 0

    def clear_exclusive(self) -> None:
        self.monitor = None

    def atomic(self, va: int, size: int, operand: int, operation: int) -> int:
        """LDADD to LDUMIN (operation 0 to 7) and SWP (8): the old value."""
        view, offset = self._for_update(va, size)
        ones = (1 << size * 8) - 1
        old = int.from_bytes(view[offset : offset + size], "little")
        new = _ATOMICS[operation](old, operand & ones, 1 << size * 8 - 1) & ones
        view[offset : offset + size] = new.to_bytes(size, "little")
        return old

    def compare_and_swap(self, va: int, size: int, expected: int, new: int) -> int:
        """CAS, CASP: the old value."""
        view, offset = self._for_update(va, size)
        ones = (1 << size * 8) - 1
        old = int.from_bytes(view[offset : offset + size], "little")
        if old == expected & ones:
            view[offset : offset + size] = (new & ones).to_bytes(size, "little")
        return old

    def zero_block(self, va: int) -> None:
        """DC ZVA: a store of zeros to the whole block that the address is in."""
        va &= _M64
        view = self.writes.get(va >> 12)
        if view is None:
            # FAR is the address given, not that of the block
            page = self._reach(va, BLOCK_SIZE, Access.WRITE, 0, self.el, aligned=True)
            view = page.view
            if page.stable:
                self.writes[va >> 12] = view
        offset = va & PAGE_MASK & -BLOCK_SIZE
        view[offset : offset + BLOCK_SIZE] = bytes(BLOCK_SIZE)

    def maintain(self, va: int, access: Access = Access.READ) -> None:
        """Cache maintenance by address: nothing to do here but to translate, and to fault."""
        self._reach(va & _M64, 1, access, esr.CM | esr.WNR, self.el)

    def address_translation(self, va: int, *, write: bool, el0: bool) -> int:
        """AT of EL1: the value of PAR_EL1. A descriptor that cannot be read is an exception (Arm ARM, AArch64.AT)."""
        try:
            return self.translate_unless_aborted(va, write=write, el0=el0)[1]
        except WalkAborted as aborted:
            access = Access.WRITE if write else Access.READ
            raise self._walk_aborted(aborted, _Request(va, access, esr.CM | esr.WNR)) from None

    def require_aligned(self, va: int, size: int, *, write: bool) -> None:
        if va & size - 1:
            raise self._alignment_fault(va & _M64, write=write)

    def misaligned_sp(self) -> None:
        """A load or store by an SP that is not a multiple of 16: a fault where SCTLR_EL1.SA or SA0 says so."""
        if self.sysregs[SCTLR_EL1] & (SCTLR_SA if self.el else SCTLR_SA0):
            raise GuestException(syndrome(EC.SP_ALIGNMENT))

    # Instructions

    def fetch(self, pc: int) -> tuple[memoryview, bool]:
        """The page to execute from, and whether it is stable; if it is not, this one instruction has been checked."""
        if pc & 3:
            raise GuestException(syndrome(EC.PC_ALIGNMENT), pc)
        view = self.context.fetches.get(pc >> 12)
        if view is not None:
            return view, True
        page = self._reach(pc, 4, Access.FETCH, 0, self.el)
        if page.stable:
            self.context.fetches[pc >> 12] = page.view
        return page.view, page.stable

    def branch_address(self, pc: int) -> int:
        """Where a branch goes: a top byte that is ignored does not reach the PC (AArch64.BranchAddr)."""
        if self.ignores_top_byte(pc):
            return pc & _CANONICAL if not pc >> 55 & 1 else pc | _M64 & ~_CANONICAL
        return pc

    # Parts

    def _gather(self, va: int, size: int, iss: int, el: int) -> bytes:
        """Load across page boundaries, and with other permissions than the current ones."""
        data = b""
        for start, length in _parts(va, size):
            view = self.reads.get(start >> 12) if el == self.el else None
            if view is None:
                view = self._open(start, length, Access.READ, iss, el)
            offset = start & PAGE_MASK
            data += view[offset : offset + length]
        return data

    def _scatter(self, va: int, data: bytes, iss: int, el: int) -> None:
        """Store across page boundaries: nothing is written if a part faults."""
        targets = []
        for start, length in _parts(va, len(data)):
            view = self.writes.get(start >> 12) if el == self.el else None
            if view is None:
                view = self._open(start, length, Access.WRITE, iss, el)
            offset = start & PAGE_MASK
            targets.append(view[offset : offset + length])
        for target in targets:
            length = len(target)
            target[:] = data[:length]
            data = data[length:]

    def _for_update(self, va: int, size: int) -> tuple[memoryview, int]:
        """The page of an atomic, which reads first: WnR says whether a read would have been possible."""
        self.require_aligned(va, size, write=False)
        va &= _M64
        view = self.writes.get(va >> 12)
        if view is None:
            self._open(va, size, Access.READ, 0)
            view = self._open(va, size, Access.WRITE, 0)
        return view, va & PAGE_MASK

    def _open(self, va: int, size: int, access: Access, iss: int, el: int | None = None) -> memoryview:
        """The page of an access within one page; a stable page is remembered for the current context."""
        own = el is None or el == self.el
        page = self._reach(va, size, access, iss, self.el if el is None else el)
        if page.stable and own:
            (self.writes if access is Access.WRITE else self.reads)[va >> 12] = page.view
        return page.view

    def _reach(self, va: int, size: int, access: Access, iss: int, el: int, *, aligned: bool = False) -> Page:
        """Translate, ask the bus, and turn whatever goes wrong into an exception.

        ``aligned``: the access is to the aligned block of this size that the address is in.
        """
        if access is Access.WRITE:
            iss |= esr.WNR
        # Maintenance of caches is no access that PAN restricts (Arm ARM, D8.4.3)
        pan = self.pan and el == 1 and not iss & esr.CM
        try:
            ipa = self.stage1(va, access, el=el, pan=pan)
        except Stage1Fault as fault:
            raise GuestException(self._abort_el1(access) | iss & (esr.WNR | esr.CM) | fault.fsc, va) from None
        except WalkAborted as aborted:
            raise self._walk_aborted(aborted, _Request(va, access, iss)) from None
        try:
            page = self.bus.page(ipa, access)
            if not page.stable:
                self.bus.check(ipa & -size if aligned else ipa, size, access)
        except Stage2Fault as fault:
            raise TrapTaken(Trap(_abort_el2(access) | iss | fault.fsc, va, ipa)) from None
        except ExternalAbort as abort:
            raise self._external(abort, None, _Request(va, access, iss), ipa) from None
        return page

    # Syndromes

    def _abort_el1(self, access: Access) -> int:
        lower = EC.IABT_LOWER if access is Access.FETCH else EC.DABT_LOWER
        return syndrome(lower + self.el)

    def _alignment_fault(self, va: int, *, write: bool = False) -> GuestException:
        return GuestException(self._abort_el1(Access.READ) | (esr.WNR if write else 0) | esr.FSC_ALIGNMENT, va)

    def _walk_aborted(self, aborted: WalkAborted, request: _Request) -> Exception:
        if isinstance(aborted.cause, Stage2Fault):
            # No ISV: the hypervisor cannot complete an access whose address is not known
            iss = request.iss & (esr.WNR | esr.CM) | esr.S1PTW | aborted.cause.fsc
            return TrapTaken(Trap(_abort_el2(request.access) | iss, request.va, aborted.ipa))
        return self._external(aborted.cause, aborted.level, request, aborted.ipa)

    def _external(self, abort: ExternalAbort, level: int | None, request: _Request, ipa: int) -> Exception:
        """An external abort; ``level`` is that of the stage-1 descriptor that was being read, if one was."""
        va, access = request.va, request.access
        iss = request.iss & (esr.WNR | esr.CM)
        if abort.external:
            iss |= esr.EA
        walk = esr.fsc_parity_walk if abort.parity else esr.fsc_sea_walk
        if abort.walk_level is not None:
            on_stage1 = esr.S1PTW if level is not None else 0
            return TrapTaken(Trap(_abort_el2(access) | iss | on_stage1 | walk(abort.walk_level), va, ipa, abort.source))
        if level is not None:
            iss |= walk(level)
        else:
            iss |= esr.FSC_SEA_PARITY if abort.parity else esr.FSC_SEA
            if access is not Access.FETCH and not abort.parity:
                iss |= abort.severity << esr.SET_SHIFT & esr.SET_MASK
            if not self.features.sea_far:
                iss |= esr.FNV
                va = GARBAGE_FAR
        if self.hcr_tea:
            return TrapTaken(Trap(_abort_el2(access) | iss, va, None, abort.source))
        as_serror = self.features.ease and self.sysregs[SCTLR2_EL1] & SCTLR2_EASE
        return GuestException(self._abort_el1(access) | iss, va, offset=_SEA_VECTOR if as_serror else 0)


def _abort_el2(access: Access) -> int:
    return syndrome(EC.IABT_LOWER if access is Access.FETCH else EC.DABT_LOWER)


def _parts(va: int, size: int) -> tuple[tuple[int, int], ...]:
    """(address, size) of the parts of an access that do not cross a page."""
    first = PAGE_SIZE - (va & PAGE_MASK)
    if size <= first:
        return ((va, size),)
    return (va, first), (va + first & _M64, size - first)


_ATOMICS: Final[tuple[Callable[[int, int, int], int], ...]] = (
    lambda old, operand, _sign: old + operand,
    lambda old, operand, _sign: old & ~operand,
    lambda old, operand, _sign: old ^ operand,
    lambda old, operand, _sign: old | operand,
    lambda old, operand, sign: max(old ^ sign, operand ^ sign) ^ sign,
    lambda old, operand, sign: min(old ^ sign, operand ^ sign) ^ sign,
    lambda old, operand, _sign: max(old, operand),
    lambda old, operand, _sign: min(old, operand),
    lambda _old, operand, _sign: operand,
)
"""By operation: the new value, of the old one, the operand and the sign bit."""
