# SPDX-License-Identifier: GPL-2.0-only
"""KVM_GET_ONE_REG, KVM_SET_ONE_REG and KVM_GET_REG_LIST (arch/arm64/kvm/guest.c, sys_regs.c)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from pytest_kvm_sea.arm64.sysregs import SYSREGS, SysReg
from pytest_kvm_sea.sim.kvm.arguments import fail
from pytest_kvm_sea.uapi import registers as ids

if TYPE_CHECKING:
    from pytest_kvm_sea.cpu.cpu import Cpu
    from pytest_kvm_sea.sim.kvm.nested import Nested
    from pytest_kvm_sea.sim.kvm.vm import Vm

_U64 = struct.Struct("<Q")
_ARCHITECTURE_MASK = 0xFF0F_FFFF_0000_0000
_CORE_OFFSET_MASK = 0x0000_0000_0000_FFFF
_MODE32_BIT = 1 << 4
_MODES_64 = frozenset({0b0000, 0b0100, 0b0101})
"""EL0t, EL1t, EL1h: what PSTATE may be set to without EL2 and AArch32."""

# Registers that an MRS reads but that KVM does not have in its table (PSTATE fields and core registers).
_NOT_IN_TABLE = frozenset(
    {"spsel", "currentel", "pan", "uao", "nzcv", "daif", "dit", "ssbs", "fpcr", "fpsr"}
    | {"sp_el0", "elr_el1", "spsr_el1", "isr_el1", "oslar_el1", "ctr_el0", "dczid_el0", "sp_el1"}
    | {"ccsidr_el1", "cntvct_el0", "erridr_el1", "errselr_el1", "cntpct_el0", "cntfrq_el0", "osdlr_el1"}
)
_READ_ONLY = frozenset({"midr_el1", "revidr_el1", "aidr_el1"})
"""Writable only with KVM_CAP_ARM_WRITABLE_IMP_ID_REGS: the same value is accepted."""
_ELR_EL1, _SPSR_EL1 = SYSREGS["elr_el1"], SYSREGS["spsr_el1"]
_SCTLR_EL1 = SYSREGS["sctlr_el1"]
_SCTLR_A = 1 << 1
_TRANSLATION = frozenset(SYSREGS[name] for name in ("sctlr_el1", "tcr_el1", "ttbr0_el1", "ttbr1_el1", "mair_el1"))
_ID_PREFIX = "id_aa64"
_BANKED = {name: SYSREGS[name] for name in ("sp_el1", "elr_el1", "spsr_el1")}
"""Core registers of EL1 that EL2 has, too."""


def _x_getter(number: int) -> Callable[[Cpu], int]:
    return lambda cpu: cpu.x[number]


def _x_setter(number: int) -> Callable[[Cpu, int], None]:
    def setter(cpu: Cpu, value: int) -> None:
        cpu.x[number] = value

    return setter


def _attribute_getter(name: str) -> Callable[[Cpu], int]:
    return lambda cpu: int(getattr(cpu, name))


def _attribute_setter(name: str) -> Callable[[Cpu, int], None]:
    return lambda cpu, value: setattr(cpu, name, value)


def _sysreg_getter(reg: SysReg) -> Callable[[Cpu], int]:
    return lambda cpu: cpu.sysregs[reg]


def _sysreg_setter(reg: SysReg) -> Callable[[Cpu, int], None]:
    def setter(cpu: Cpu, value: int) -> None:
        cpu.sysregs[reg] = value

    return setter


_CORE_ACCESS: dict[str, tuple[Callable[[Cpu], int], Callable[[Cpu, int], None]]] = {
    **{f"x{n}": (_x_getter(n), _x_setter(n)) for n in range(31)},
    **{n: (_attribute_getter(n), _attribute_setter(n)) for n in ("sp_el0", "sp_el1", "pc", "pstate")},
    "elr_el1": (_sysreg_getter(_ELR_EL1), _sysreg_setter(_ELR_EL1)),
    "spsr_el1": (_sysreg_getter(_SPSR_EL1), _sysreg_setter(_SPSR_EL1)),
}

_CORE_BY_WORD: dict[int, tuple[str, int]] = {word: (name, size) for name, (word, size) in ids.CORE_REGISTERS.items()}


@cache
def _table(*, ease: bool, el2: bool) -> Mapping[SysReg, str]:
    """The system registers that KVM knows, and their names."""
    hidden = _NOT_IN_TABLE if ease else _NOT_IN_TABLE | {"sctlr2_el1", "sctlr2_el2"}
    levels = ("_el12",) if el2 else ("_el2", "_el12")
    return {reg: name for name, reg in SYSREGS.items() if name not in hidden and not name.endswith(levels)}


class Registers:
    """The registers of one vCPU, by KVM's ids."""

    def __init__(self, cpu: Cpu, vm: Vm, own: dict[SysReg, int]) -> None:
        """``own``: what identifies this vCPU, and not the VM."""
        self._cpu = cpu
        self._vm = vm
        self._own = own
        self._unused: dict[str, int] = {}
        """AArch32 banked SPSRs and FP registers: kept for the VMM, used by nothing here."""
        self._nested: Nested | None = None
        self._sysregs = _table(ease=vm.behaviour.ease, el2=False)

    def have_el2(self, nested: Nested) -> None:
        """From now on with the registers of a virtual EL2."""
        self._nested = nested
        self._sysregs = _table(ease=self._vm.behaviour.ease, el2=True)

    def get(self, identifier: int) -> bytes:
        """The value's bytes. EINVAL, ENOENT as KVM gives them."""
        core = self._core(identifier)
        if core is None:
            return _U64.pack(self._read(self._sysreg(identifier)))
        name, size = core
        if self._nested is not None and name in _BANKED:
            return _U64.pack(self._nested.get(_BANKED[name]) or 0)
        access = _CORE_ACCESS.get(name)
        value = self._unused.get(name, 0) if access is None else access[0](self._cpu)
        return value.to_bytes(size, "little")

    def size(self, identifier: int) -> int:
        """The size in bytes that the id says."""
        return 1 << (identifier >> ids.KVM_REG_SIZE_SHIFT & 0xF)

    def check(self, identifier: int) -> None:
        """Raise what KVM answers for an id that it does not know. EINVAL, ENOENT."""
        if self._core(identifier) is None:
            self._sysreg(identifier)

    def set(self, identifier: int, data: bytes) -> None:
        """Write a register. EINVAL, ENOENT, EBUSY as KVM gives them."""
        value = int.from_bytes(data, "little")
        core = self._core(identifier)
        if core is None:
            self._set_sysreg(self._sysreg(identifier), value)
            return
        name, _ = core
        if self._nested is not None and name in _BANKED:
            self._nested.put(_BANKED[name], value)
            return
        if name == "pstate":
            self._set_pstate(value)
            return
        access = _CORE_ACCESS.get(name)
        if access is None:
            self._unused[name] = value
        else:
            access[1](self._cpu, value)

    def _set_pstate(self, value: int) -> None:
        if self._nested is not None:
            if not self._nested.accepts(value):
                fail(errno.EINVAL)
            self._nested.set_pstate(value)
            return
        if value & _MODE32_BIT or value & 0xF not in _MODES_64:
            fail(errno.EINVAL)
        self._cpu.pstate = value

    def ids(self) -> list[int]:
        """All ids, core registers first, as KVM_GET_REG_LIST orders them."""
        return [*ids.CORE_IDS.values(), *(ids.sysreg_id(reg) for reg in sorted(self._sysregs))]

    def _core(self, identifier: int) -> tuple[str, int] | None:
        """Name and size of a core register; None where the id is of another kind."""
        if identifier & _ARCHITECTURE_MASK != ids.KVM_REG_ARM64:
            fail(errno.EINVAL)
        if identifier & ids.KVM_REG_ARM_COPROC_MASK != ids.KVM_REG_ARM_CORE:
            return None
        word = identifier & _CORE_OFFSET_MASK
        size = self.size(identifier)
        if word + size // 4 >= ids.CORE_WORDS:
            fail(errno.ENOENT)
        found = _CORE_BY_WORD.get(word)
        if found is None or found[1] != size:
            fail(errno.EINVAL)
        return found

    def _sysreg(self, identifier: int) -> SysReg:
        if identifier & ids.KVM_REG_ARM_COPROC_MASK != ids.KVM_REG_ARM64_SYSREG or self.size(identifier) != 8:
            fail(errno.ENOENT)
        reg = SysReg(identifier & ids.SYSREG_MASK)
        if reg not in self._sysregs:
            fail(errno.ENOENT)
        return reg

    def _read(self, reg: SysReg) -> int:
        """A system register, or an ID register, which belongs to the whole VM."""
        if reg in self._own:
            return self._own[reg]
        value = None if self._nested is None else self._nested.get(reg)
        if value is not None:
            return value
        value = self._cpu.sysregs.get(reg)
        return self._cpu.id_registers.get(reg, 0) if value is None else value

    def _set_sysreg(self, reg: SysReg, value: int) -> None:
        name = self._sysregs[reg]
        if name in _READ_ONLY:
            if value != self._read(reg):
                fail(errno.EINVAL)
        elif name.startswith(_ID_PREFIX):
            self._set_id(reg, value)
        elif reg in self._own:
            self._own[reg] = value
        elif self._nested is not None and self._nested.put(reg, value):
            pass
        else:
            self._cpu.sysregs[reg] = value
            if reg in _TRANSLATION:
                self._cpu.strict_alignment = bool(self._cpu.sysregs[_SCTLR_EL1] & _SCTLR_A)
                self._cpu.invalidate_tlb()

    def _set_id(self, reg: SysReg, value: int) -> None:
        """ID registers: until the VM has run, it may be told that it has less than the host."""
        if value == self._read(reg):
            return
        if self._vm.has_run:
            fail(errno.EBUSY)
        limit = self._vm.id_limits.get(reg, 0)
        for shift in range(0, 64, 4):
            if value >> shift & 0xF > limit >> shift & 0xF:
                fail(errno.EINVAL)
        self._vm.id_registers[reg] = value
