# SPDX-License-Identifier: GPL-2.0-only
"""What a VMM does with KVM_EXIT_ARM_SEA: a reference for authors of VMMs, as the series argues for it.

For every exit: write it down for the customer, replay it by its exception class, take the page out of the guest's reach
so that it is not consumed again, and count. When more distinct pages have gone bad than one believes in, the VM belongs
on another host, and is not resumed here.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import esr as syndromes
from pytest_kvm_sea.vmm.errors import GuestMemoryAccessError
from pytest_kvm_sea.vmm.exits import MemoryFaultExit, MmioExit, NisvExit
from pytest_kvm_sea.vmm.injection import write_abort

if TYPE_CHECKING:
    from pytest_kvm_sea.vmm.exits import SeaExit
    from pytest_kvm_sea.vmm.vcpu import Vcpu
    from pytest_kvm_sea.vmm.vm import Vm

DEFAULT_LIMIT = 8
"""Distinct bad pages that a VM may have before it is to be restarted elsewhere."""
_NOT_ON_A_WALK = (syndromes.FSC_SEA, syndromes.FSC_SEA_PARITY)


class Decision(enum.Enum):
    """What was done with an exit."""

    REPLAYED = "replayed"
    """The abort is in the guest: run the vCPU again."""
    RESTART = "restart"
    """Too many bad pages: nothing was injected; stop the VM, and start it on another host."""


@dataclass(frozen=True, slots=True)
class LoggedError:
    """One entry of the log for the customer."""

    time: float
    """Seconds since the epoch."""
    vcpu: int
    instruction: bool
    """An instruction was fetched from there, not data."""
    gva: GuestVA | None
    """Where the processor knew it."""
    page: GuestPA | None
    """The guest physical page, where KVM told it or the guest's page tables did."""
    syndrome: int
    decision: Decision

    def __str__(self) -> str:
        what = "instruction fetch" if self.instruction else "data access"
        where = "an unknown page" if self.page is None else f"page {self.page:#x}"
        address = "" if self.gva is None else f", guest virtual {self.gva:#x}"
        return f"memory error in {where}{address}: {what} of vCPU {self.vcpu}; {self.decision.value}"


class Protection(Protocol):
    """A way to keep the guest from a page that has gone bad."""

    def protect(self, page: GuestPA) -> None:
        """Make every further access of the guest to this page leave the guest. No vCPU may be running."""
        ...

    def is_protected(self, page: GuestPA) -> bool: ...


@dataclass
class MemoryErrors:
    """The policy of one VM. For the thread that runs the vCPU; where pages are protected, no other vCPU may run."""

    vm: Vm
    limit: int = DEFAULT_LIMIT
    protection: Protection | None = None
    clock: Callable[[], float] = time.time
    log: list[LoggedError] = field(default_factory=list)
    _bad: set[tuple[str, int]] = field(default_factory=set)

    @property
    def bad_pages(self) -> int:
        """Distinct pages; an error whose page nobody knows counts by its virtual address, or else each time."""
        return len(self._bad)

    def handle(self, vcpu: Vcpu, sea: SeaExit) -> Decision:
        """Deal with an exit. With REPLAYED the vCPU can be run again."""
        page = self._page(sea)
        self._bad.add(self._key(sea, page))
        decision = Decision.RESTART if self.bad_pages > self.limit else Decision.REPLAYED
        gva = sea.gva if sea.gva_valid else None
        self.log.append(LoggedError(self.clock(), vcpu.number, sea.is_instruction_abort, gva, page, sea.esr, decision))
        if decision is Decision.RESTART:
            return decision
        # Injected first: what is pending must be that of this exit, and changing memslots is another matter.
        replay(vcpu, sea)
        if self.protection is not None and page is not None and not self.protection.is_protected(page):
            self.protection.protect(page)
        return decision

    def refuse(self, vcpu: Vcpu, access: MmioExit | NisvExit | MemoryFaultExit) -> bool:
        """An access that left the guest: where it was to a page that is protected, the guest gets an abort for it.

        False: it was not, and is somebody else's business. No memory is read, so no error is consumed again.
        """
        page = self._page_of(_address(access))
        if self.protection is None or not self.protection.is_protected(page):
            return False
        vcpu.inject_data_abort()
        return True

    def _page(self, sea: SeaExit) -> GuestPA | None:
        if sea.gpa_valid:
            return self._page_of(sea.gpa)
        if not sea.gva_valid or syndromes.fsc(sea.esr) not in _NOT_ON_A_WALK:
            return None  # what is broken on a walk is a table, and not the page that its address belongs to
        try:
            return self._page_of(self.vm.gva_to_gpa(sea.gva))
        except GuestMemoryAccessError:
            return None

    def _page_of(self, gpa: GuestPA) -> GuestPA:
        size = self.vm.host.page_size
        return GuestPA(gpa // size * size)

    def _key(self, sea: SeaExit, page: GuestPA | None) -> tuple[str, int]:
        if page is not None:
            return "page", page
        return ("gva", sea.gva) if sea.gva_valid else ("error", len(self.log))


def _address(access: MmioExit | NisvExit | MemoryFaultExit) -> GuestPA:
    if isinstance(access, MmioExit):
        return access.address
    return access.fault_ipa if isinstance(access, NisvExit) else access.gpa


def replay(vcpu: Vcpu, sea: SeaExit) -> None:
    """Give an abort back to the guest, by its exception class.

    By KVM_SET_VCPU_EVENTS where that can; an instruction abort on a kernel without KVM_CAP_ARM_INJECT_EXT_IABT by the
    vCPU's registers, as the documentation of the series allows.
    """
    # Where KVM takes a syndrome the guest can be told that its FAR is garbage.
    iss = syndromes.FNV if vcpu.vm.revision.injects_with_esr and not sea.far_valid else None
    if not sea.is_instruction_abort:
        vcpu.inject_data_abort(iss)
    elif vcpu.vm.revision.cap_inject_ext_iabt is not None:
        vcpu.inject_instruction_abort(iss)
    else:
        write_abort(vcpu, GuestVA(sea.gva), instruction=True, iss=0 if sea.far_valid else syndromes.FNV)
