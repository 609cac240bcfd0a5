# SPDX-License-Identifier: GPL-2.0-only
"""What a platform file says, as data. `platforms.loader` reads the YAML into these and checks it.

Field names are the keys of the YAML; every field's text is its documentation. What a type cannot say (a range, a set of
values, a pattern) is an annotation of the field, so that it stands in one place.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Range:
    """Annotation of a number: lowest and highest value, both allowed."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """Annotation of a number or a text: all values that are allowed."""

    values: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Annotation of a text: the regular expression that all of it matches, and the same in words."""

    expression: str
    words: str


@dataclass(frozen=True, slots=True)
class Bits:
    """Annotation of a number: exactly one bit of the mask."""

    mask: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Annotation of a number of bytes: written with a unit (`4KiB`, `64GiB`) and a multiple of `step`."""

    step: int = 1


@dataclass(frozen=True, slots=True)
class Short:
    """Annotation of a dataclass: a text in its place stands for a mapping with this key only."""

    key: str


@dataclass(frozen=True, slots=True)
class NotEmpty:
    """Annotation of a list: where it is given, there is something in it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Annotation of a field that is no key: it gets the line that its mapping starts at, counted from 1."""


ErrorType: TypeAlias = Annotated[int, Bits(0x8003_FFFF)]
"""A bit of EINJ's GET_ERROR_TYPE (ACPI 6.5, table 18.30): 0 to 17, or 31 for the types that a vendor defines."""
ErrorTypeV2: TypeAlias = Annotated[int, Bits(0x7)]
"""A bit of EINJV2_GET_ERROR_TYPE (ACPI 6.6): processor, memory, PCI Express."""


class SeaPolicy(enum.Enum):
    """What the host's APEI does with a synchronous external abort of a guest (drivers/acpi/apei/ghes.c)."""

    UNCLAIMED = "unclaimed"
    """No error record: KVM has to deal with it."""
    CLAIMED = "claimed"
    """A record is found and handled by memory_failure: SIGBUS, BUS_MCEERR_AR, to the VMM."""
    CLAIMED_UNHANDLED = "claimed-unhandled"
    """A record is found, memory_failure cannot act: SIGBUS, SI_KERNEL, to the VMM."""
    DUPLICATE = "duplicate"
    """Always one and the same record, which GHES has seen before: `kernel.ghes_tells_duplicates` says what follows."""


class EinjOutcome(enum.Enum):
    """What the firmware makes of a request to inject an error that it offers."""

    POISONED = "poisoned"
    """Success; an uncorrected error in memory waits until somebody consumes it, or notrigger is 0."""
    REPORTED = "reported"
    """Success, and notrigger is not honoured: the error is reported at once, and the page goes offline."""
    UNPOISONED = "unpoisoned"
    """Success, and no memory is poisoned."""
    FAILED = "failed"
    """Busy with something else: EBUSY."""
    INVALID = "invalid"
    """A parameter is not to its liking: EINVAL."""
    TIMEOUT = "timeout"
    """It never ends: EIO."""


class Lockdown(enum.Enum):
    """The kernel's lockdown mode."""

    NONE = "none"
    INTEGRITY = "integrity"
    CONFIDENTIALITY = "confidentiality"


@dataclass(frozen=True, slots=True)
class Kernel:
    release: Annotated[str, Pattern(r"\d+\.\d+[-+.~\w]*", "a kernel release such as 7.3.4 or 6.15.0-rc5")] = "7.3.4"
    """As uname -r prints it."""
    uapi: Annotated[str, OneOf(("mainline", "series-v1", "follow-up"))] = "mainline"
    """Revision of the user API: mainline, series-v1 (the series as first posted) or follow-up (posted after its v3)."""
    page_size: Annotated[int, Unit(), OneOf((4 * KIB, 16 * KIB, 64 * KIB))] = 4 * KIB
    """Page size of the host kernel: 4KiB, 16KiB or 64KiB."""
    sea_to_user: bool = True
    """Whether this kernel has KVM_CAP_ARM_SEA_TO_USER at all."""
    il_from_last_trap: bool = False
    """Before 7.2: the IL bit of an injected syndrome is copied from the vCPU's last trap."""
    immediate_injection: bool = True
    """Since 6.17: an injected exception is entered at once. False: it is marked, and entered by the next KVM_RUN."""
    s1ptw_level: bool = True
    """Since 7.0: an abort injected for a failed stage-1 walk carries the level of the walk."""
    userfault: bool = False
    """KVM userfault as proposed: memslots with a bitmap of pages to keep out of stage 2. In no released kernel."""
    einj_v2: bool = True
    """Since 6.17: einj.ko knows EINJv2, and error_type is a text that is read back as it was written."""
    einj_any_memory: bool = True
    """Since 6.18: einj.ko takes any address that is not MMIO. False: RAM, persistent and soft-reserved memory only."""
    ghes_tells_duplicates: bool = True
    """By 7.3: a record that GHES has seen before claims no SEA. False (6.12): it does, and nothing follows."""
    lockdown: Lockdown = Lockdown.NONE
    """Mode of kernel lockdown; from integrity on, the files of EINJ cannot be opened."""


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
    nested: bool = False
    """FEAT_NV2, and a kernel that was started with kvm-arm.mode=nested: a vCPU may have a virtual EL2."""
    ipa_bits: Annotated[int, Range(32, 52)] = 48
    """Size of the intermediate physical address space that KVM offers: 32 to 52."""


@dataclass(frozen=True, slots=True)
class Hugepages:
    free_2m: Annotated[int, Range(0, 1 << 24)] = 512
    """2 MiB hugetlb pages in the pool."""
    free_1g: Annotated[int, Range(0, 1 << 15)] = 2
    """1 GiB hugetlb pages in the pool."""


_VENDOR_DEVICE = "[0-9a-f]{1,2}:[0-9a-f]{1,2}:[0-9a-f]{1,2}[.][0-7]"
_VENDOR_IDS = "vendor_id=[0-9a-f]{1,4} device_id=[0-9a-f]{1,4} rev_id=[0-9a-f]{1,2}"


@dataclass(frozen=True, slots=True)
class Einj:
    table: bool = True
    """The firmware has an EINJ table."""
    module: bool = True
    """einj.ko is loaded (or built in)."""
    parameters: bool = True
    """SET_ERROR_TYPE_WITH_ADDRESS is there, and so are the files flags, param1 to param4, notrigger."""
    notrigger: bool = True
    """The file notrigger is there. False (kernels before 3.15): the trigger always runs."""
    error_types: tuple[ErrorType, ...] = (0x08, 0x10, 0x20)
    """Bits of available_error_type."""
    v2_error_types: tuple[ErrorTypeV2, ...] = ()
    """Bits of EINJv2, which kernels list with V2_ in front; none: the firmware has no EINJv2."""
    v2_components: Annotated[int, Range(0, 127)] = 0
    """How many components an EINJv2 error may name: pairs of files component_idN and component_syndromeN."""
    vendor: Annotated[str, Pattern(f"|{_VENDOR_DEVICE} {_VENDOR_IDS}", "the line of the file vendor")] = ""
    """The vendor extension, as the file vendor shows it: "0:1:2.3 vendor_id=1d0f device_id=10 rev_id=0". Or none."""
    oem_error: Annotated[int, Range(0, 4096)] = 0
    """Bytes of the file oem_error, the vendor's own structure."""
    outcome: EinjOutcome = EinjOutcome.POISONED
    """What the firmware makes of a request."""


@dataclass(frozen=True, slots=True)
class Firmware:
    einj: Einj = field(default_factory=Einj)
    """Error injection (ACPI 6.5, 18.6)."""
    ghes: bool = True
    """The HEST has error sources: one that is notified by SEA, one for what nobody has consumed yet."""
    sea: SeaPolicy = SeaPolicy.UNCLAIMED
    """What APEI does with a guest's SEA."""
    forwards_sea: bool = False
    """The firmware takes aborts first and hands them on to EL2, whether or not the core has FEAT_RAS to route them."""


@dataclass(frozen=True, slots=True)
class Process:
    root: bool = True
    """The VMM has CAP_SYS_ADMIN: it sees PFNs in pagemap and may open debugfs."""
    kvm: bool = True
    """The VMM may open /dev/kvm."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One host to simulate."""

    name: Annotated[str, Pattern("[a-z0-9]+([.-][a-z0-9]+)*", "lower case letters, digits, '-' and '.' between them")]
    """Used in test ids: lower case letters, digits, and '-' or '.' between them."""
    description: Annotated[str, Pattern(r"\S.*", "a sentence")]
    """One sentence: what is special about this host."""
    kernel: Kernel = field(default_factory=Kernel)
    """The host's kernel: what KVM can do, and its quirks."""
    cpu: Processor = field(default_factory=Processor)
    """The host's cores."""
    memory: Annotated[int, Unit(2 * MIB), Range(1 * GIB, 4096 * GIB)] = 64 * GIB
    """System RAM, `64GiB` in the file; bytes here."""
    hugepages: Hugepages = field(default_factory=Hugepages)
    """The pools of hugetlb pages."""
    firmware: Firmware = field(default_factory=Firmware)
    """ACPI: error injection and error records."""
    process: Process = field(default_factory=Process)
    """What the VMM may do."""
