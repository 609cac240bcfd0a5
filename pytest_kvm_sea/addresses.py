# SPDX-License-Identifier: GPL-2.0-only
"""The four kinds of address. They never mix; the type checker sees to it.

A guest's virtual address (GVA) becomes a guest physical address (GPA, also called IPA) by the guest's own stage 1; the
memslot gives the virtual address in the VMM (HVA), and the host's page tables the address of the memory cell (HPA).
"""

from typing import NewType

GuestVA = NewType("GuestVA", int)
GuestPA = NewType("GuestPA", int)
HostVA = NewType("HostVA", int)
HostPA = NewType("HostPA", int)
