# SPDX-License-Identifier: GPL-2.0-only
"""Register ids of KVM_GET_ONE_REG and KVM_SET_ONE_REG (arch/arm64/include/uapi/asm/kvm.h)."""

from __future__ import annotations

from pytest_kvm_sea.arm64.sysregs import SysReg, name_of, sysreg

KVM_REG_ARM64 = 0x6000_0000_0000_0000
KVM_REG_SIZE_SHIFT = 52
KVM_REG_SIZE_U32 = 2 << KVM_REG_SIZE_SHIFT
KVM_REG_SIZE_U64 = 3 << KVM_REG_SIZE_SHIFT
KVM_REG_SIZE_U128 = 4 << KVM_REG_SIZE_SHIFT
KVM_REG_ARM_COPROC_MASK = 0x0FFF_0000
KVM_REG_ARM_CORE = 0x0010 << 16
KVM_REG_ARM64_SYSREG = 0x0013 << 16
SYSREG_MASK = 0xFFFF

CORE_WORDS = 216
"""Size of struct kvm_regs in 32-bit words; a core register's id holds its offset in it."""
_FP_REGS_WORD = 84

# name: offset in struct kvm_regs, in 32-bit words, and size in bytes
CORE_REGISTERS: dict[str, tuple[int, int]] = {
    **{f"x{n}": (2 * n, 8) for n in range(31)},
    "sp_el0": (62, 8),
    "pc": (64, 8),
    "pstate": (66, 8),
    "sp_el1": (68, 8),
    "elr_el1": (70, 8),
    "spsr_el1": (72, 8),
    "spsr_abt": (74, 8),
    "spsr_und": (76, 8),
    "spsr_irq": (78, 8),
    "spsr_fiq": (80, 8),
    **{f"v{n}": (_FP_REGS_WORD + 4 * n, 16) for n in range(32)},
    "fpsr": (_FP_REGS_WORD + 128, 4),
    "fpcr": (_FP_REGS_WORD + 129, 4),
}
"""Of struct kvm_regs. SP_EL0, ELR_EL1 and SPSR_EL1 are core registers for KVM although an MRS reads them."""

_SIZE_CODES = {4: KVM_REG_SIZE_U32, 8: KVM_REG_SIZE_U64, 16: KVM_REG_SIZE_U128}

CORE_IDS: dict[str, int] = {
    name: KVM_REG_ARM64 | _SIZE_CODES[size] | KVM_REG_ARM_CORE | word for name, (word, size) in CORE_REGISTERS.items()
}
_CORE_NAMES = {identifier: name for name, identifier in CORE_IDS.items()}


def sysreg_id(reg: SysReg) -> int:
    """The id of a system register."""
    return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | reg


def register_id(name: str) -> int:
    """The id of a register by name: ``x0``, ``pc``, ``pstate``, ``sp_el1``, ``esr_el1``, ``s3_0_c5_c2_0`` …

    Raises ValueError for an unknown name.
    """
    core = CORE_IDS.get(name)
    if core is not None:
        return core
    return sysreg_id(sysreg(name))


def register_name(identifier: int) -> str:
    """The name of a register id, for people; its number where it has none."""
    core = _CORE_NAMES.get(identifier)
    if core is not None:
        return core
    if identifier & ~SYSREG_MASK == KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG:
        return name_of(SysReg(identifier & SYSREG_MASK))
    return f"{identifier:#018x}"
