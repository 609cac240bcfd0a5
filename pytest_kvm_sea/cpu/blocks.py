# SPDX-License-Identifier: GPL-2.0-only
"""Basic blocks as tuples of operations, and the process-wide store of them.

A block is straight code from one address up to the first instruction that may go elsewhere. Blocks belong to no
processor: they are found again by their address and their bytes, also by the next VM of this process.
"""

from __future__ import annotations

from typing import Final

from pytest_kvm_sea.cpu.bus import PAGE_MASK, PAGE_SIZE
from pytest_kvm_sea.cpu.closures import Function, operations
from pytest_kvm_sea.cpu.regions import Region

MAX_INSTRUCTIONS: Final = 64
_VARIANTS: Final = 4
"""How many blocks that differ after their first instruction are kept for one address."""
_LIMIT: Final = 20_000


class Block:
    """Straight code at one address."""

    __slots__ = ("body", "code", "end", "length", "pc", "region", "runs", "tried")

    def __init__(self, pc: int, code: bytes, body: tuple[Function, ...], end: Function | None) -> None:
        self.pc = pc
        self.code = code
        self.length = len(code) // 4
        self.body = body
        """Operations that do not change the flow."""
        self.end = end
        """The operation that does; None where the block ends for want of room."""
        self.runs = 0
        self.region: Region | None = None
        """The compiled region that starts here, once this block is hot."""
        self.tried = False
        """Whether a region was asked for."""


_BLOCKS: Final[dict[tuple[int, bytes], list[Block]]] = {}


def _translate(pc: int, view: memoryview, length: int) -> Block:
    start = pc & PAGE_MASK
    found = operations(pc, view[start : min(start + 4 * length, PAGE_SIZE)].cast("I"))
    end = found[-1].function if found[-1].ends_block else None
    body = tuple(each.function for each in (found if end is None else found[:-1]))
    return Block(pc, bytes(view[start : start + 4 * len(found)]), body, end)


def existing_block(pc: int, view: memoryview) -> Block | None:
    """The block at this address with this code, its own and that of its region, if any processor has executed it."""
    offset = pc & PAGE_MASK
    for block in _BLOCKS.get((pc, bytes(view[offset : offset + 4])), ()):
        if view[offset : offset + len(block.code)] == block.code and (
            block.region is None or block.region.matches(view)
        ):
            return block
    return None


def block_at(pc: int, view: memoryview) -> Block:
    """The block at this address, whose page is in ``view``."""
    block = existing_block(pc, view)
    if block is not None:
        return block
    if len(_BLOCKS) >= _LIMIT:
        _BLOCKS.clear()
    block = _translate(pc, view, MAX_INSTRUCTIONS)
    variants = _BLOCKS.setdefault((pc, block.code[:4]), [])
    variants.insert(0, block)
    del variants[_VARIANTS:]
    return block


def single_instruction(pc: int, view: memoryview) -> Block:
    """A block of one instruction: for code that has to be looked at anew each time."""
    return _translate(pc, view, 1)
