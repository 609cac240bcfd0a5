# SPDX-License-Identifier: GPL-2.0-only
"""A VGICv3, as far as a VMM has to set it up (arch/arm64/kvm/vgic/vgic-kvm-device.c, vgic-init.c).

Nothing is behind it: there are no interrupts here, and its frames are not there for the guest.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pytest_kvm_sea.sim.kvm.arguments import fail, read_structure
from pytest_kvm_sea.sim.kvm.file import Handler, KvmFile
from pytest_kvm_sea.sim.uaccess import copy_from_user
from pytest_kvm_sea.uapi import kvm

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Argument

_ATTR = struct.Struct("<IIQQ")
_FRAME = 64 << 10
_FRAMES = (kvm.KVM_VGIC_V3_ADDR_TYPE_DIST, kvm.KVM_VGIC_V3_ADDR_TYPE_REDIST)


class Vgic(KvmFile):
    """The file of the device."""

    def __init__(self, ipa_bits: int) -> None:
        super().__init__()
        self._end = 1 << ipa_bits
        self._bases: dict[int, int] = {}
        self._initialised = False

    def check_complete(self) -> None:
        """Raise what the first KVM_RUN answers where the VMM left something out: ENXIO, EBUSY."""
        if len(self._bases) < len(_FRAMES):
            fail(errno.ENXIO)
        if not self._initialised:
            fail(errno.EBUSY)

    def _set_attr(self, argument: Argument) -> int:
        _, group, attr, address = _ATTR.unpack(read_structure(argument, _ATTR.size))
        if group == kvm.KVM_DEV_ARM_VGIC_GRP_CTRL and attr == kvm.KVM_DEV_ARM_VGIC_CTRL_INIT:
            self._initialised = True
        elif group == kvm.KVM_DEV_ARM_VGIC_GRP_ADDR and attr in _FRAMES:
            self._set_base(attr, int.from_bytes(copy_from_user(address, 8), "little"))
        else:
            fail(errno.ENXIO)
        return 0

    def _set_base(self, frame: int, base: int) -> None:
        if frame in self._bases:
            fail(errno.EEXIST)
        if base % _FRAME:
            fail(errno.EINVAL)
        if base + _FRAME > self._end:
            fail(errno.E2BIG)
        self._bases[frame] = base

    REQUESTS: ClassVar[Mapping[int, Handler]] = {kvm.KVM_SET_DEVICE_ATTR: _set_attr}
