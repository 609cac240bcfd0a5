# SPDX-License-Identifier: GPL-2.0-only
"""One byte by all its addresses: from guest virtual to host physical, by what was looked up while the test ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64.descriptors import PAGE_SIZE
from pytest_kvm_sea.ras import sigbus
from pytest_kvm_sea.reports.story import Place
from pytest_kvm_sea.reports.trace import Addresses, Record, Step
from pytest_kvm_sea.vmm.exits import SeaExit, SigbusExit, VmExit

if TYPE_CHECKING:
    from pytest_kvm_sea.reports.trace import Trace
    from pytest_kvm_sea.vmm.memory import Region
    from pytest_kvm_sea.vmm.vm import Vm

MOST = 16
"""Places of one story."""


@dataclass(slots=True)
class _Place:
    """A place, and why it matters."""

    addresses: Addresses
    what: list[str]


class Atlas:
    """Everything that is known of the addresses of one test. Nothing is read anew: the memory may be broken or gone."""

    def __init__(self, vms: Sequence[Vm], trace: Trace) -> None:
        self._regions = {vm.who.vm: tuple(vm.memory.regions) for vm in vms}
        self._known = trace.places

    def complete(
        self,
        *,
        gva: int | None = None,
        ipa: int | None = None,
        hva: int | None = None,
        hpa: int | None = None,
        vm: int | None = None,
    ) -> Addresses:
        """All addresses of a byte, as far as they follow from the given ones; ``vm`` where it is one VM's."""
        if ipa is None and gva is not None:
            ipa = self._look_up("gva", gva, "ipa")
        if hva is None and ipa is not None:
            hva = self._hva(ipa, vm)
        if hpa is None and hva is not None:
            hpa = self._look_up("hva", hva, "hpa")
        if hva is None and hpa is not None:
            hva = self._look_up("hpa", hpa, "hva")
        if ipa is None and hva is not None:
            ipa = self._ipa(hva)
        if gva is None and ipa is not None:
            gva = self._look_up("ipa", ipa, "gva")
        return Addresses(gva, ipa, hva, hpa)

    def _look_up(self, known: str, address: int, wanted: str) -> int | None:
        """By a translation in the same 4 KiB page: on every way a page keeps its offsets."""
        for place in self._known:
            here, there = getattr(place, known), getattr(place, wanted)
            if here is not None and there is not None and here // PAGE_SIZE == address // PAGE_SIZE:
                return int(there // PAGE_SIZE * PAGE_SIZE + address % PAGE_SIZE)
        return None

    def _regions_of(self, vm: int | None) -> list[Region]:
        return [region for number, regions in self._regions.items() if vm in (None, number) for region in regions]

    def _hva(self, ipa: int, vm: int | None) -> int | None:
        for region in self._regions_of(vm):
            if region.base <= ipa < region.end:
                return region.memory.address + ipa - region.base
        return None

    def _ipa(self, hva: int) -> int | None:
        for region in self._regions_of(None):
            if region.memory.address <= hva < region.memory.address + region.size:
                return region.base + hva - region.memory.address
        return None

    def facts(self, *, hva: int | None = None, hpa: int | None = None) -> list[tuple[str, str]]:
        """Name and value of each address that is known."""
        return _facts(self.complete(hva=hva, hpa=hpa))

    def sea_facts(self, vm: int, sea: SeaExit) -> list[tuple[str, str]]:
        """The addresses of an abort, as far as the exit tells one."""
        found = self._of_sea(vm, sea)
        return [] if found is None else _facts(found)

    def _of_sea(self, vm: int, sea: SeaExit) -> Addresses | None:
        if sea.gva_valid:
            # The GPA is that of a page; with the GVA the byte is known.
            ipa = sea.gpa // PAGE_SIZE * PAGE_SIZE + sea.gva % PAGE_SIZE if sea.gpa_valid else None
            return self.complete(gva=sea.gva, ipa=ipa, vm=vm)
        return self.complete(ipa=sea.gpa, vm=vm) if sea.gpa_valid else None

    def places(self, records: Sequence[Record]) -> list[Place]:
        """What was broken and what was reported, each byte once."""
        found: list[_Place] = []
        for record in records:
            for addresses, what in self._matters(record):
                _merge(found, addresses, what)
        return [Place(**dict(_facts(place.addresses)), what="; ".join(place.what)) for place in found[:MOST]]

    def _matters(self, record: Record) -> list[tuple[Addresses, str]]:
        """The addresses of one step that a reader looks for."""
        values = record.values
        if record.step is Step.INJECTED:
            return [(self.complete(hva=values[0], hpa=values[1]), "poisoned by EINJ")]
        if record.step is Step.POISONED:
            return [(self.complete(hva=values[0]), "taken offline by MADV_HWPOISON")]
        if record.step is Step.FIRMWARE and values[0] == "break" and values[2].get("ok"):
            what = f"mapped by the stage-2 table of level {values[2].get('level')} that was broken"
            return [(self.complete(hpa=values[1]["hpa"]), what)]
        if record.step is Step.EXIT and record.who is not None:
            return self._reported(record.who.vm, values[0])
        return []

    def _reported(self, vm: int, result: VmExit) -> list[tuple[Addresses, str]]:
        if isinstance(result, SigbusExit):
            return [
                (self.complete(hva=each.address), f"si_addr of {sigbus.name(each.code)}") for each in result.signals
            ]
        found = self._of_sea(vm, result) if isinstance(result, SeaExit) else None
        return [] if found is None else [(found, "reported by KVM_EXIT_ARM_SEA")]


def _merge(found: list[_Place], addresses: Addresses, what: str) -> None:
    for place in found:
        if place.addresses == addresses:
            if what not in place.what:
                place.what.append(what)
            return
    found.append(_Place(addresses, [what]))


def _facts(addresses: Addresses) -> list[tuple[str, str]]:
    pairs = (("gva", addresses.gva), ("ipa", addresses.ipa), ("hva", addresses.hva), ("hpa", addresses.hpa))
    return [(name, f"{value:#x}") for name, value in pairs if value is not None]
