# SPDX-License-Identifier: GPL-2.0-only
"""Stage 2 and the memory behind it, as the processor sees them: memslots, the VMM's mappings, and poison.

Pages come in when they are touched, as on a real KVM, and stage 2 is described only as far as the guest or the VMM can
see it: the level in the status code of a fault depends on what was mapped before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.cpu.bus import PAGE_MASK, PAGE_SIZE, Access, ExternalAbort, Page, Stage2Fault

if TYPE_CHECKING:
    from pytest_kvm_sea.sim.kvm.memslots import Memslots
    from pytest_kvm_sea.sim.physical import PhysicalMemory
    from pytest_kvm_sea.sim.process import Process

_TRANSLATION = 0x04
_PERMISSION_LEVEL_3 = 0x0F
_BLOCK_SHIFTS = ((2, 21), (1, 30), (0, 39))
_CONCATENATED_BITS = 4
_LEVEL_BITS = 9
_PAGE_SHIFT = 12


def start_level(ipa_bits: int) -> int:
    """The level at which KVM starts its stage-2 tables: up to 16 tables are concatenated (asm/kvm_pgtable.h)."""
    levels = -(-(ipa_bits - _PAGE_SHIFT - _CONCATENATED_BITS) // _LEVEL_BITS)
    return 4 - levels


class Stage2:
    """The bus of all vCPUs of one VM."""

    def __init__(
        self, memslots: Memslots, process: Process, physical: PhysicalMemory, ipa_bits: int, *, parity: bool
    ) -> None:
        self._memslots = memslots
        self._process = process
        self._physical = physical
        self._start_level = start_level(ipa_bits)
        self._parity = parity
        self._tables: set[tuple[int, int]] = set()
        """(level, address >> shift of that level) of the table entries that exist."""
        self._pages: dict[int, set[int]] = {}
        """Pages that are mapped: hva to the addresses of the guest."""
        self.broken_tables: dict[tuple[int, int], int] = {}
        """Poisoned stage-2 tables: (shift, ipa >> shift) of what they translate, to the level of the table."""

    @property
    def generation(self) -> tuple[int, int, int]:
        """Changes when any page that was given out may have become wrong."""
        return (self._memslots.generation, self._process.generation, self._physical.generation)

    def page(self, ipa: int, access: Access) -> Page:
        """See cpu.bus.Bus. A page is given where the slot is there and the VMM's memory is, too."""
        if self.broken_tables:
            self._walk(ipa)
        slot = self._memslots.find(ipa)
        if slot is None:
            raise Stage2Fault(self._translation_fault(ipa))
        if access is Access.WRITE and slot.readonly:
            raise Stage2Fault(self._permission_fault(ipa))
        if slot.is_userfault(ipa, self._memslots.page_size):
            raise Stage2Fault(self._translation_fault(ipa))
        hva = slot.hva(ipa & ~PAGE_MASK)
        found = self._process.resolve(hva, PAGE_SIZE)
        if found is None:
            raise Stage2Fault(self._translation_fault(ipa))
        memory, offset = found
        if memory.lost(offset):
            raise Stage2Fault(self._translation_fault(ipa))
        self._map(ipa, hva)
        view = memory.view[offset : offset + PAGE_SIZE]
        stable = not self._physical.has_poison or not self._physical.page_poisoned(memory.hpa(offset))
        return Page(view, stable=stable, writable=not slot.readonly)

    def check(self, ipa: int, size: int, access: Access) -> None:  # noqa: ARG002 - a store to poison aborts as a load does
        """See cpu.bus.Bus."""
        slot = self._memslots.find(ipa)
        if slot is None:
            return
        hpa = self._process.hpa_of(slot.hva(ipa))
        if hpa is not None and self._physical.poisoned(hpa, size):
            raise ExternalAbort(parity=self._parity, source=hpa)

    def mapped(self, hva: HostVA) -> list[int]:
        """The guest's addresses, ascending, that have been mapped to a page of the VMM and still are."""
        ipas = sorted(self._pages.get(hva, ()))
        slots = ((ipa, self._memslots.find(ipa)) for ipa in ipas)
        return [ipa for ipa, slot in slots if slot is not None and slot.hva(ipa) == hva]

    def _map(self, ipa: int, hva: HostVA) -> None:
        mapped = self._pages.setdefault(hva, set())
        page = ipa & ~PAGE_MASK
        if page in mapped:
            return
        mapped.add(page)
        for level, shift in _BLOCK_SHIFTS:
            self._tables.add((level, ipa >> shift))

    def _present_level(self, ipa: int) -> int:
        """The deepest level at which there is a table for this address."""
        for level, shift in _BLOCK_SHIFTS:
            if level >= self._start_level and (level, ipa >> shift) in self._tables:
                return level + 1
        return self._start_level

    def _translation_fault(self, ipa: int) -> int:
        return _TRANSLATION + self._present_level(ipa)

    def _permission_fault(self, ipa: int) -> int:
        return _PERMISSION_LEVEL_3 if self._present_level(ipa) == 3 else self._translation_fault(ipa)

    def _walk(self, ipa: int) -> None:
        """Abort where one of stage 2's own tables on the way to this address cannot be read."""
        for (shift, prefix), level in self.broken_tables.items():
            if ipa >> shift == prefix:
                raise ExternalAbort(parity=self._parity, walk_level=level)
