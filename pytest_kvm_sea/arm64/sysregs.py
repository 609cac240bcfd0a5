# SPDX-License-Identifier: GPL-2.0-only
"""System registers: names and encodings (Arm ARM, D24; the order is that of the encoding).

An encoding is one 16-bit number, op0:op1:CRn:CRm:op2, the form that an MRS has in bits 20:5 and that KVM uses in its
register ids.
"""

from __future__ import annotations

from typing import NewType

SysReg = NewType("SysReg", int)


def encode(op0: int, op1: int, crn: int, crm: int, op2: int) -> SysReg:
    """The 16-bit encoding of a system register (op0 is 2 or 3)."""
    return SysReg(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)


# name: (op0, op1, CRn, CRm, op2)
_TABLE: dict[str, tuple[int, int, int, int, int]] = {
    "mdscr_el1": (2, 0, 0, 2, 2),
    "oslar_el1": (2, 0, 1, 0, 4),
    "oslsr_el1": (2, 0, 1, 1, 4),
    "osdlr_el1": (2, 0, 1, 3, 4),
    "midr_el1": (3, 0, 0, 0, 0),
    "mpidr_el1": (3, 0, 0, 0, 5),
    "revidr_el1": (3, 0, 0, 0, 6),
    "id_aa64pfr0_el1": (3, 0, 0, 4, 0),
    "id_aa64pfr1_el1": (3, 0, 0, 4, 1),
    "id_aa64zfr0_el1": (3, 0, 0, 4, 4),
    "id_aa64dfr0_el1": (3, 0, 0, 5, 0),
    "id_aa64dfr1_el1": (3, 0, 0, 5, 1),
    "id_aa64isar0_el1": (3, 0, 0, 6, 0),
    "id_aa64isar1_el1": (3, 0, 0, 6, 1),
    "id_aa64isar2_el1": (3, 0, 0, 6, 2),
    "id_aa64mmfr0_el1": (3, 0, 0, 7, 0),
    "id_aa64mmfr1_el1": (3, 0, 0, 7, 1),
    "id_aa64mmfr2_el1": (3, 0, 0, 7, 2),
    "id_aa64mmfr3_el1": (3, 0, 0, 7, 3),
    "sctlr_el1": (3, 0, 1, 0, 0),
    "actlr_el1": (3, 0, 1, 0, 1),
    "cpacr_el1": (3, 0, 1, 0, 2),
    "sctlr2_el1": (3, 0, 1, 0, 3),
    "ttbr0_el1": (3, 0, 2, 0, 0),
    "ttbr1_el1": (3, 0, 2, 0, 1),
    "tcr_el1": (3, 0, 2, 0, 2),
    "spsr_el1": (3, 0, 4, 0, 0),
    "elr_el1": (3, 0, 4, 0, 1),
    "sp_el0": (3, 0, 4, 1, 0),
    "spsel": (3, 0, 4, 2, 0),
    "currentel": (3, 0, 4, 2, 2),
    "pan": (3, 0, 4, 2, 3),
    "uao": (3, 0, 4, 2, 4),
    "afsr0_el1": (3, 0, 5, 1, 0),
    "afsr1_el1": (3, 0, 5, 1, 1),
    "esr_el1": (3, 0, 5, 2, 0),
    "erridr_el1": (3, 0, 5, 3, 0),
    "errselr_el1": (3, 0, 5, 3, 1),
    "far_el1": (3, 0, 6, 0, 0),
    "par_el1": (3, 0, 7, 4, 0),
    "mair_el1": (3, 0, 10, 2, 0),
    "amair_el1": (3, 0, 10, 3, 0),
    "vbar_el1": (3, 0, 12, 0, 0),
    "rvbar_el1": (3, 0, 12, 0, 1),
    "isr_el1": (3, 0, 12, 1, 0),
    "disr_el1": (3, 0, 12, 1, 1),
    "contextidr_el1": (3, 0, 13, 0, 1),
    "tpidr_el1": (3, 0, 13, 0, 4),
    "cntkctl_el1": (3, 0, 14, 1, 0),
    "id_aa64mmfr4_el1": (3, 0, 0, 7, 4),
    "ccsidr_el1": (3, 1, 0, 0, 0),
    "clidr_el1": (3, 1, 0, 0, 1),
    "aidr_el1": (3, 1, 0, 0, 7),
    "csselr_el1": (3, 2, 0, 0, 0),
    "ctr_el0": (3, 3, 0, 0, 1),
    "dczid_el0": (3, 3, 0, 0, 7),
    "nzcv": (3, 3, 4, 2, 0),
    "daif": (3, 3, 4, 2, 1),
    "dit": (3, 3, 4, 2, 5),
    "ssbs": (3, 3, 4, 2, 6),
    "fpcr": (3, 3, 4, 4, 0),
    "fpsr": (3, 3, 4, 4, 1),
    "tpidr_el0": (3, 3, 13, 0, 2),
    "tpidrro_el0": (3, 3, 13, 0, 3),
    "cntfrq_el0": (3, 3, 14, 0, 0),
    "cntpct_el0": (3, 3, 14, 0, 1),
    "cntvct_el0": (3, 3, 14, 0, 2),
    "vpidr_el2": (3, 4, 0, 0, 0),
    "vmpidr_el2": (3, 4, 0, 0, 5),
    "sctlr_el2": (3, 4, 1, 0, 0),
    "actlr_el2": (3, 4, 1, 0, 1),
    "sctlr2_el2": (3, 4, 1, 0, 3),
    "hcr_el2": (3, 4, 1, 1, 0),
    "mdcr_el2": (3, 4, 1, 1, 1),
    "cptr_el2": (3, 4, 1, 1, 2),
    "hstr_el2": (3, 4, 1, 1, 3),
    "hacr_el2": (3, 4, 1, 1, 7),
    "hcrx_el2": (3, 4, 1, 2, 2),
    "ttbr0_el2": (3, 4, 2, 0, 0),
    "ttbr1_el2": (3, 4, 2, 0, 1),
    "tcr_el2": (3, 4, 2, 0, 2),
    "vttbr_el2": (3, 4, 2, 1, 0),
    "vtcr_el2": (3, 4, 2, 1, 2),
    "spsr_el2": (3, 4, 4, 0, 0),
    "elr_el2": (3, 4, 4, 0, 1),
    "sp_el1": (3, 4, 4, 1, 0),
    "afsr0_el2": (3, 4, 5, 1, 0),
    "afsr1_el2": (3, 4, 5, 1, 1),
    "esr_el2": (3, 4, 5, 2, 0),
    "vsesr_el2": (3, 4, 5, 2, 3),
    "far_el2": (3, 4, 6, 0, 0),
    "hpfar_el2": (3, 4, 6, 0, 4),
    "mair_el2": (3, 4, 10, 2, 0),
    "amair_el2": (3, 4, 10, 3, 0),
    "vbar_el2": (3, 4, 12, 0, 0),
    "vdisr_el2": (3, 4, 12, 1, 1),
    "contextidr_el2": (3, 4, 13, 0, 1),
    "tpidr_el2": (3, 4, 13, 0, 2),
    "cnthctl_el2": (3, 4, 14, 1, 0),
    # EL1's registers, for a hypervisor whose own have taken over their names (HCR_EL2.E2H)
    "sctlr_el12": (3, 5, 1, 0, 0),
    "cpacr_el12": (3, 5, 1, 0, 2),
    "sctlr2_el12": (3, 5, 1, 0, 3),
    "ttbr0_el12": (3, 5, 2, 0, 0),
    "ttbr1_el12": (3, 5, 2, 0, 1),
    "tcr_el12": (3, 5, 2, 0, 2),
    "spsr_el12": (3, 5, 4, 0, 0),
    "elr_el12": (3, 5, 4, 0, 1),
    "afsr0_el12": (3, 5, 5, 1, 0),
    "afsr1_el12": (3, 5, 5, 1, 1),
    "esr_el12": (3, 5, 5, 2, 0),
    "far_el12": (3, 5, 6, 0, 0),
    "mair_el12": (3, 5, 10, 2, 0),
    "amair_el12": (3, 5, 10, 3, 0),
    "vbar_el12": (3, 5, 12, 0, 0),
    "contextidr_el12": (3, 5, 13, 0, 1),
    "cntkctl_el12": (3, 5, 14, 1, 0),
    "sp_el2": (3, 6, 4, 1, 0),
}

SYSREGS: dict[str, SysReg] = {name: encode(*fields) for name, fields in _TABLE.items()}
NAMES: dict[SysReg, str] = {reg: name for name, reg in SYSREGS.items()}


def sysreg(name: str) -> SysReg:
    """The encoding of a register named as in an MRS, e.g. ``esr_el1`` (case does not matter) or ``s3_0_c5_c2_0``.

    Raises ValueError for a name that is neither.
    """
    lowered = name.lower()
    found = SYSREGS.get(lowered)
    if found is not None:
        return found
    generic = lowered.split("_")
    if len(generic) == 5 and generic[0][:1] == "s" and generic[2][:1] == "c" and generic[3][:1] == "c":
        numbers = [generic[0][1:], generic[1], generic[2][1:], generic[3][1:], generic[4]]
        if all(number.isdigit() for number in numbers):
            return encode(*(int(number) for number in numbers))
    raise ValueError(f"unknown system register {name!r}; name it as in an MRS (esr_el1, …) or as s3_0_c5_c2_0")


def name_of(reg: SysReg) -> str:
    """The name of a register, or its generic form where it has none here."""
    known = NAMES.get(reg)
    if known is not None:
        return known
    return f"s{reg >> 14}_{reg >> 11 & 7}_c{reg >> 7 & 15}_c{reg >> 3 & 15}_{reg & 7}"
