# SPDX-License-Identifier: GPL-2.0-only
"""What a test leaves behind for whoever wants to tell what happened in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_kvm_sea.reports.trace import Trace
from pytest_kvm_sea.stories.kernel import KernelWatch

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host
    from pytest_kvm_sea.vmm.vm import Vm


@dataclass(slots=True)
class Evidence:
    """Kept from the first fixture of a test to the report of its tear-down."""

    target: str
    """`sim-ampereone-mainline`"""
    host: Host
    fresh: bool = False
    """The host was made for this test."""
    trace: Trace = field(default_factory=Trace)
    vms: list[Vm] = field(default_factory=list)
    kernel: KernelWatch | None = None

    def watch(self) -> None:
        """From now on the kernel's messages belong to the test."""
        if self.kernel is None:
            self.kernel = KernelWatch(self.host, fresh=self.fresh)
