# SPDX-License-Identifier: GPL-2.0-only
"""What a platform file says, as data. `platforms.loader` reads the YAML into these and checks it.

Field names are the keys of the YAML; every field's text is its documentation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class SeaPolicy(enum.Enum):
    """What the host's APEI does with a synchronous external abort of a guest (drivers/acpi/apei/ghes.c)."""

    UNCLAIMED = "unclaimed"
    """No error record: KVM has to deal with it."""
    CLAIMED = "claimed"
    """A record is found and handled by memory_failure: SIGBUS, BUS_MCEERR_AR, to the VMM."""
    CLAIMED_UNHANDLED = "claimed-unhandled"
    """A record is found, memory_failure cannot act: SIGBUS, SI_KERNEL, to the VMM."""


class Lockdown(enum.Enum):
    """The kernel's lockdown mode."""

    NONE = "none"
    INTEGRITY = "integrity"
    CONFIDENTIALITY = "confidentiality"


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str = "7.3.4"
    """As uname -r prints it."""
    uapi: str = "mainline"
    """Revision of the user API: mainline or series-v1."""
    page_size: int = 4 * KIB
    """Page size of the host kernel: 4KiB, 16KiB or 64KiB."""
    sea_to_user: bool = True
    """Whether this kernel has KVM_CAP_ARM_SEA_TO_USER at all."""
    il_from_last_trap: bool = False
    """Before 7.2: the IL bit of an injected syndrome is copied from the vCPU's last trap."""
    lockdown: Lockdown = Lockdown.NONE


@dataclass(frozen=True, slots=True)
class Processor:
    ras: bool = True
    """FEAT_RAS. Without it KVM never exits for an SEA."""
    sea_far: bool = True
    """The core tracks the address of an SEA. False (Neoverse V2, Kunpeng): ESR_EL2.FnV is 1, FAR_EL2 holds garbage."""
    parity: bool = False
    """Memory errors are reported as parity or ECC errors (status codes 0x18 to 0x1f). Only without ras."""
    ease: bool = False
    """FEAT_DoubleFault2: SCTLR2_EL1.EASE exists."""
    ipa_bits: int = 48
    """Size of the intermediate physical address space that KVM offers: 32 to 52."""


@dataclass(frozen=True, slots=True)
class Hugepages:
    free_2m: int = 512
    """2 MiB hugetlb pages in the pool."""
    free_1g: int = 2
    """1 GiB hugetlb pages in the pool."""


@dataclass(frozen=True, slots=True)
class Einj:
    table: bool = True
    """The firmware has an EINJ table."""
    module: bool = True
    """einj.ko is loaded (or built in)."""
    parameters: bool = True
    """SET_ERROR_TYPE_WITH_ADDRESS is there, and so are the files flags, param1 to param4, notrigger."""
    notrigger: bool = True
    """The file notrigger is there and honoured. False: an error is reported at once, the page taken offline."""
    error_types: tuple[int, ...] = (0x08, 0x10, 0x20)
    """Bits of available_error_type."""
    poisons: bool = True
    """False: the firmware reports success and no memory is poisoned."""


@dataclass(frozen=True, slots=True)
class Firmware:
    einj: Einj = field(default_factory=Einj)
    sea: SeaPolicy = SeaPolicy.UNCLAIMED
    """What APEI does with a guest's SEA."""


@dataclass(frozen=True, slots=True)
class Process:
    root: bool = True
    """The VMM has CAP_SYS_ADMIN: it sees PFNs in pagemap and may open debugfs."""
    kvm: bool = True
    """The VMM may open /dev/kvm."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One host to simulate."""

    name: str
    """Used in test ids: lower case letters, digits and '-'."""
    description: str
    kernel: Kernel = field(default_factory=Kernel)
    cpu: Processor = field(default_factory=Processor)
    memory: int = 64 * GIB
    """System RAM in bytes (`64GiB` in the file)."""
    hugepages: Hugepages = field(default_factory=Hugepages)
    firmware: Firmware = field(default_factory=Firmware)
    process: Process = field(default_factory=Process)
