# SPDX-License-Identifier: GPL-2.0-only
"""Runs cases in the simulated processor, in the same memory as `qemu` has."""

from __future__ import annotations

import struct
from typing import Final

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.sysregs import sysreg
from pytest_kvm_sea.cpu import cpu as engine
from pytest_kvm_sea.cpu.bus import Access, ExternalAbort, Page, Stage2Fault
from pytest_kvm_sea.cpu.cpu import Cpu
from pytest_kvm_sea.cpu.features import Features
from pytest_kvm_sea.cpu.traps import Trap
from tests.oracle import layout as at
from tests.oracle import stage2, tables
from tests.oracle.case import Case, Result, broken

LIMIT: Final = 1000
"""Instructions after which a case is said not to stop."""
_CODE: Final = struct.Struct(f"<{at.WORDS}I")
_STOPS: Final = struct.pack("<I", at.STOP) * at.WORDS
_ADDRESSES: Final = tuple(address for start, size in at.SCANNED for address in range(start, start + size, 8))
_DOUBLEWORDS: Final = struct.Struct(f"<{len(_ADDRESSES)}Q")
_ABORTS: Final = {esr.EC.IABT_LOWER, esr.EC.DABT_LOWER}
_USUAL_HOT: Final = engine.HOT


class GuestBus:
    """Stage 2 as `stage2` has it."""

    def __init__(self) -> None:
        self.memory = bytearray(tables.guest_memory())
        view = memoryview(self.memory)
        self.pages = {
            ipa: Page(
                # Where nothing answers nobody looks
                view[:0] if page.target == at.NOTHING_THERE else view[page.target - at.GUEST :][: at.PAGE],
                stable=page.target != at.NOTHING_THERE,
                writable=page.writable,
            )
            for ipa, page in stage2.PAGES.items()
        }

    def page(self, ipa: int, access: Access) -> Page:
        base = ipa & -at.PAGE
        page = self.pages.get(base)
        if page is None:
            raise Stage2Fault(esr.FSC_TRANSLATION + stage2.level(ipa))
        if (access is Access.WRITE and not page.writable) or (
            access is Access.FETCH and not stage2.PAGES[base].executable
        ):
            raise Stage2Fault(esr.FSC_PERMISSION + 3)
        return page

    def check(self, ipa: int, size: int, access: Access) -> None:
        raise ExternalAbort


class Simulated:
    """One processor, used for one case after the other."""

    def __init__(self, features: Features) -> None:
        self._bus = GuestBus()
        self._cpu = Cpu(self._bus, features)
        # QEMU does not have HCR_EL2.TEA: external aborts stay with EL1
        self._cpu.hcr_tea = False
        # No record sets them; what they are after reset the architecture leaves open, and QEMU has zero
        self._cpu.sysregs.update(dict.fromkeys(map(sysreg, ("afsr0_el1", "afsr1_el1", "csselr_el1")), 0))
        self._pristine = tables.pristine(self._bus.memory)

    def run(self, case: Case) -> Result:
        """The result of a case; an exception of Python is one, too."""
        memory, cpu = self._bus.memory, self._cpu
        code = case.code_at - at.GUEST
        _CODE.pack_into(memory, code, *case.padded())
        self._set(case)
        engine.HOT = 1 if case.compiled else _USUAL_HOT
        try:
            trap = cpu.run(LIMIT)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            result = broken(f"{type(error).__name__}: {error}")
        else:
            result = broken("it does not stop") if trap is None else self._result(trap)
        memory[code : code + len(_STOPS)] = _STOPS
        self._put_back()
        if case.forget:
            cpu.invalidate_tlb()
        return result

    def memory(self) -> bytes:
        """All of the guest's memory as it is now."""
        return bytes(self._bus.memory)

    def _put_back(self) -> None:
        memory, offset = self._bus.memory, 0
        for start, size in at.SCANNED:
            memory[start - at.GUEST : start - at.GUEST + size] = self._pristine[offset : offset + size]
            offset += size

    def _set(self, case: Case) -> None:
        cpu = self._cpu
        cpu.monitor = None
        # As the harness does it: by what the registers have now, which the case before may have changed
        if any(cpu.sysregs[sysreg(name)] != case.system[name] for name in at.TRANSLATION):
            cpu.invalidate_tlb()
        for number, name in zip(at.SYSTEM_REGISTERS, at.SYSTEM, strict=True):
            cpu.sysregs[number] = case.system[name]
        cpu.x[:] = case.x
        cpu.pstate = case.pstate
        cpu.sp_el0, cpu.sp_el1 = case.sp_el0, case.sp_el1
        cpu.pc = case.pc

    def _result(self, trap: Trap) -> Result:
        cpu = self._cpu
        aborted = esr.ec(trap.esr) in _ABORTS
        return Result(
            tuple(cpu.x),
            cpu.sp_el0,
            cpu.sp_el1,
            cpu.pstate,
            cpu.pc,
            trap.esr,
            trap.far if aborted else 0,
            0 if trap.ipa is None else trap.ipa >> 8 & ~0xF,
            tuple(cpu.sysregs[number] for number in at.SYSTEM_REGISTERS),
            self._changes(),
        )

    def _changes(self) -> tuple[tuple[int, int], ...]:
        now = tables.pristine(self._bus.memory)
        if now == self._pristine:
            return ()
        pairs = zip(_ADDRESSES, _DOUBLEWORDS.unpack(now), _DOUBLEWORDS.unpack(self._pristine), strict=True)
        return tuple((address, value) for address, value, old in pairs if value != old)
