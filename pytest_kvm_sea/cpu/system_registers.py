# SPDX-License-Identifier: GPL-2.0-only
"""The system registers that EL0 and EL1 have, and what reading and writing them does (Arm ARM, D24.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from pytest_kvm_sea.arm64.sysregs import SysReg, sysreg
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.exceptions import Exceptions
from pytest_kvm_sea.cpu.state import (
    SCTLR_A,
    SCTLR_EL1,
    SCTLR_UCT,
    SCTLR_UMA,
)

COUNTER_FREQUENCY: Final = 1_000_000_000
"""The generic timer counts instructions, as if one took a nanosecond."""
_EL0VCTEN: Final = 1 << 1
_EL0PCTEN: Final = 1 << 0
_CNTKCTL_EL1: Final = sysreg("cntkctl_el1")
_M64: Final = 0xFFFF_FFFF_FFFF_FFFF

_Read: TypeAlias = Callable[[Exceptions, SysReg], int]
_Write: TypeAlias = Callable[[Exceptions, SysReg, int], None]


class Register(NamedTuple):
    """How a register is read and written, and by whom."""

    read: _Read | None
    write: _Write | None
    el0: Callable[[Exceptions], bool] | None = None
    """None: UNDEFINED at EL0. Otherwise whether it is not trapped."""
    el0_read_only: bool = False
    feature: str = ""


def _stored(c: Exceptions, register: SysReg) -> int:
    return c.sysregs[register]


def _store(c: Exceptions, register: SysReg, value: int) -> None:
    c.sysregs[register] = value


def _set_translation(c: Exceptions, register: SysReg, value: int) -> None:
    c.sysregs[register] = value
    if register == SCTLR_EL1:
        c.strict_alignment = bool(value & SCTLR_A)
    c.invalidate_tlb()


def _set_vbar(c: Exceptions, register: SysReg, value: int) -> None:
    c.sysregs[register] = value & ~0x7FF


def _constant(value: int) -> _Read:
    return lambda _c, _register: value


def _identification(c: Exceptions, register: SysReg) -> int:
    return c.id_registers.get(register, 0)


def _ignore(c: Exceptions, register: SysReg, value: int) -> None:
    del c, register, value


def _bits(mask: int) -> Register:
    """A register that shows bits of PSTATE."""

    def read(c: Exceptions, _register: SysReg) -> int:
        return c.pstate_bits & mask

    def write(c: Exceptions, _register: SysReg, value: int) -> None:
        c.pstate_bits = c.pstate_bits & ~mask | value & mask
        c.enter_mode(c.el, c.spsel)

    return Register(read, write)


def _read_nzcv(c: Exceptions, _register: SysReg) -> int:
    return c.nzcv << 28


def _write_nzcv(c: Exceptions, _register: SysReg, value: int) -> None:
    c.fk, c.fa = pstate.RAW, value >> 28 & 0xF


def _read_sp_el0(c: Exceptions, _register: SysReg) -> int:
    if not c.spsel:
        c.undefined()
    return c.sp_el0


def _write_sp_el0(c: Exceptions, _register: SysReg, value: int) -> None:
    if not c.spsel:
        c.undefined()
    c.sp_el0 = value


def _read_current_el(c: Exceptions, _register: SysReg) -> int:
    return (2 if c.nv and c.el else c.el) << 2


def _write_spsel(c: Exceptions, _register: SysReg, value: int) -> None:
    c.enter_mode(1, value & 1)


def _read_isr(c: Exceptions, _register: SysReg) -> int:
    return pstate.A if c.vserror is not None else 0


def _counter(c: Exceptions, _register: SysReg) -> int:
    return c.instructions & _M64


def _no_floating_point(c: Exceptions, _register: SysReg) -> int:
    return c.fp_simd(0)


def _no_floating_point_write(c: Exceptions, _register: SysReg, _value: int) -> None:
    c.fp_simd(0)


def _always(_c: Exceptions) -> bool:
    return True


def _sctlr_allows(bit: int) -> Callable[[Exceptions], bool]:
    return lambda c: bool(c.sysregs[SCTLR_EL1] & bit)


def _cntkctl_allows(bits: int) -> Callable[[Exceptions], bool]:
    return lambda c: bool(c.sysregs[_CNTKCTL_EL1] & bits)


def _table() -> dict[SysReg, Register]:
    plain = Register(_stored, _store)
    translation = Register(_stored, _set_translation)
    identification = Register(_identification, None)
    zero = Register(_constant(0), _ignore)
    names: dict[str, Register] = {
        **dict.fromkeys(
            [
                "actlr_el1",
                "afsr0_el1",
                "afsr1_el1",
                "amair_el1",
                "cntkctl_el1",
                "contextidr_el1",
                "cpacr_el1",
                "csselr_el1",
                "elr_el1",
                "esr_el1",
                "far_el1",
                "mdscr_el1",
                "osdlr_el1",
                "par_el1",
                "spsr_el1",
                "tpidr_el1",
            ],
            plain,
        ),
        **dict.fromkeys(["sctlr_el1", "tcr_el1", "ttbr0_el1", "ttbr1_el1", "mair_el1"], translation),
        **dict.fromkeys(["midr_el1", "mpidr_el1", "clidr_el1", "ccsidr_el1"], identification),
        "revidr_el1": Register(_identification, None),
        "aidr_el1": identification,
        "sctlr2_el1": translation._replace(feature="ease"),
        "vbar_el1": Register(_stored, _set_vbar),
        "sp_el0": Register(_read_sp_el0, _write_sp_el0),
        "spsel": Register(lambda c, _register: c.spsel, _write_spsel),
        "currentel": Register(_read_current_el, None),
        "daif": _bits(pstate.DAIF)._replace(el0=_sctlr_allows(SCTLR_UMA)),
        "pan": _bits(pstate.PAN)._replace(feature="pan"),
        "uao": _bits(pstate.UAO)._replace(feature="uao"),
        "dit": _bits(pstate.DIT)._replace(feature="dit", el0=_always),
        "ssbs": _bits(pstate.SSBS)._replace(feature="ssbs", el0=_always),
        "nzcv": Register(_read_nzcv, _write_nzcv, _always),
        "isr_el1": Register(_read_isr, None),
        "disr_el1": plain._replace(feature="ras"),
        # No error records
        "erridr_el1": Register(_constant(0), None, feature="ras"),
        "errselr_el1": zero._replace(feature="ras"),
        "oslar_el1": Register(None, _ignore),
        "oslsr_el1": Register(_stored, None),
        **dict.fromkeys(("fpcr", "fpsr"), Register(_no_floating_point, _no_floating_point_write, _always)),
        "tpidr_el0": plain._replace(el0=_always),
        "tpidrro_el0": plain._replace(el0=_always, el0_read_only=True),
        "ctr_el0": identification._replace(el0=_sctlr_allows(SCTLR_UCT)),
        "dczid_el0": identification._replace(el0=_always),
        "cntfrq_el0": Register(_constant(COUNTER_FREQUENCY), None, _cntkctl_allows(_EL0VCTEN | _EL0PCTEN)),
        "cntvct_el0": Register(_counter, None, _cntkctl_allows(_EL0VCTEN)),
        "cntpct_el0": Register(_counter, None, _cntkctl_allows(_EL0PCTEN)),
    }
    return {sysreg(name): entry for name, entry in names.items()}


REGISTERS: Final = _table()
"""What has no entry is UNDEFINED, or in the space of the ID registers."""
