# SPDX-License-Identifier: GPL-2.0-only
"""Which vector an exception goes to (Arm ARM D1.3.6), in words."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_kvm_sea.guest.vectors import Vector

SIZE = 0x80
TABLE = 0x800
SERROR = 3 * SIZE
_A = 1 << 8
_MODES = {0b0000: "EL0t", 0b0100: "EL1t", 0b0101: "EL1h", 0b1000: "EL2t", 0b1001: "EL2h"}
_BASES = {0b0000: 0x400, 0b0100: 0x000, 0b0101: 0x200, 0b1000: 0x000, 0b1001: 0x200}


def mode(pstate: int) -> str:
    """The mode of a PSTATE or SPSR."""
    return _MODES.get(pstate & 0xF, f"mode {pstate & 0xF:#x}")


def expected_offset(pstate: int, *, serror: bool) -> int | None:
    """The offset of the vector for an exception to the level that owns this state; None where no guest here is in it.

    Without FEAT_DoubleFault2, with which SCTLR2_EL1.EASE sends aborts to the vectors of SErrors.
    """
    base = _BASES.get(pstate & 0xF)
    return None if base is None else base + (SERROR if serror else 0)


def masks_serror(pstate: int) -> bool:
    """PSTATE.A"""
    return bool(pstate & _A)


def taken(state: Mapping[str, int], *, serror: bool) -> int | None:
    """The offset of the vector that the PC is at, if it is one for an SError, or for an abort; None elsewhere.

    An abort may be at a vector for SErrors: with SCTLR2_EL1.EASE.
    """
    offset = state["pc"] - state[f"vbar_{level(state)}"]
    kind = offset % (4 * SIZE)
    if not 0 <= offset < TABLE or kind not in ((SERROR,) if serror else (0, SERROR)):
        return None
    return offset


def level(state: Mapping[str, int]) -> str:
    """Whose registers these are: ``el1``, or the ``el2`` of a vCPU that has one."""
    return "el2" if "vbar_el2" in state else "el1"


def name(offset: int, el: str = "el1") -> str:
    """`VBAR_EL1+0x200 (SYNC_CURRENT)`"""
    return f"VBAR_{el.upper()}+{offset:#x} ({Vector(offset // SIZE).name})"
