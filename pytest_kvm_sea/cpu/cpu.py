# SPDX-License-Identifier: GPL-2.0-only
"""The processor: runs code until something has to be told to the hypervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import length_hint
from typing import Final

from pytest_kvm_sea.arm64.esr import EC, syndrome
from pytest_kvm_sea.cpu import pstate
from pytest_kvm_sea.cpu.blocks import Block, block_at, existing_block, single_instruction
from pytest_kvm_sea.cpu.bus import PAGE_MASK
from pytest_kvm_sea.cpu.closures import SOURCE_NAME, Function
from pytest_kvm_sea.cpu.regions import compile_region
from pytest_kvm_sea.cpu.state import SCTLR_A, SCTLR_EL1
from pytest_kvm_sea.cpu.system import System
from pytest_kvm_sea.cpu.traps import GuestException, Trap, TrapTaken

_SLICE: Final = 8192
"""Instructions between two looks at ``kicked``."""
HOT = 100
"""Runs of a block after which a region is compiled for it."""
_WARM: Final = 8
"""A block that has run this many times less becomes part of the region."""


class Cpu(System):
    """An A64 processor at EL0 and EL1 over a `bus.Bus`. One thread at a time may run it."""

    __slots__ = ()

    def run(self, limit: int) -> Trap | None:
        """Execute about ``limit`` instructions; a block or loop that has been started is not cut short exactly.

        Returns what was taken to EL2, or None when the limit was reached or ``kicked`` is set. PC is the preferred
        return address: the instruction that faulted, or the one after HVC.
        """
        self.strict_alignment = bool(self.sysregs[SCTLR_EL1] & SCTLR_A)
        for context in self.contexts:
            # Whoever wrote to guest memory meanwhile may have changed code
            context.blocks.clear()
        self.take_pending_serror()
        stop = self.instructions + limit
        trap = None
        while trap is None and self.instructions < stop and not self.kicked:
            slice_end = min(stop, self.instructions + _SLICE)
            trap = self._guard(self._execute, slice_end)
            if self.instructions < slice_end:
                # An exception counts, so that a guest whose vectors fault does not run for ever
                stop -= 1
        return trap

    def step(self) -> Trap | None:
        """Execute one instruction, or take the exception that it causes."""
        return self._guard(self._execute_one, self.instructions + 1)

    def _guard(self, execute: Callable[[int], None], stop: int) -> Trap | None:
        """Execute, and take what it raises to EL1 or give what is taken to EL2."""
        try:
            execute(stop)
        except GuestException as exception:
            self._skip(exception.skip)
            self.enter_exception(exception.offset, exception.esr, exception.far)
        except TrapTaken as taken:
            self._skip(taken.skip)
            return taken.trap
        return None

    def _skip(self, skip: bool) -> None:  # noqa: FBT001
        """The instruction that raised counts as executed (SVC, HVC)."""
        if skip:
            self.pc += 4
            self.instructions += 1

    def _execute_one(self, stop: int) -> None:
        view, _ = self.fetch(self.pc)
        self._check_il()
        block = single_instruction(self.pc, view)
        for function in block.body:
            function(self, self.x)
        self.pc = block.end(self, self.x, self.pc) if block.end else self.pc + 4
        self.instructions = stop

    def _execute(self, stop: int) -> None:
        """Run blocks until this many instructions have been executed since the processor was made.

        Whatever is raised leaves PC at the instruction that did it and the instructions before it counted.
        """
        x = self.x
        self.exact = self.strict_alignment
        body: Iterator[Function] | None = None
        ahead = length = 0
        pc = self.pc
        try:
            while self.instructions < stop:
                block = self.blocks.get(pc)
                if block is None:
                    block = self._find(pc)
                    pc = block.pc
                if block.region is not None and not self.exact:
                    body = None
                    left = stop - self.instructions
                    left -= block.region.function(self, x, self.reads, self.writes, left)
                    self.instructions += left
                    pc = self.pc
                    continue
                length = len(block.body)
                body = iter(block.body)
                for function in body:
                    function(self, x)
                body, ahead = None, block.length - 1
                if block.end is None:
                    pc += 4 * block.length
                else:
                    pc = block.end(self, x, pc + 4 * ahead)
                self.pc, ahead = pc, 0
                self.instructions += block.length
                self.exact = self.strict_alignment
                block.runs += 1
                if block.runs >= HOT and not block.tried:
                    self._heat(block)
        except BaseException as error:
            if body is not None:
                ahead = length - length_hint(body)
                if _raised_by_operation(error):
                    ahead -= 1
            self.pc += 4 * ahead
            self.instructions += ahead
            raise

    def _heat(self, block: Block) -> None:
        """Compile a region for a hot block; tried once."""
        if self.exact or self.blocks.get(block.pc) is not block:
            # Its last instruction changed the context, or forgot all code
            return
        block.tried = True
        view, _ = self.fetch(block.pc)
        offset = block.pc & PAGE_MASK
        if view[offset : offset + len(block.code)] == block.code:
            block.region = compile_region(block.pc, view, partial(_is_warm, view=view))

    def _check_il(self) -> None:
        """After the fetch, whose exceptions have priority (Arm ARM, D1: synchronous exceptions by priority)."""
        if self.pstate_bits & pstate.IL:
            raise GuestException(syndrome(EC.ILLEGAL_STATE))

    def _find(self, pc: int) -> Block:
        """The block at this address, by way of stage 1 and the bus."""
        target = self.branch_address(pc)
        if target != pc:
            self.pc = pc = target
        view, stable = self.fetch(pc)
        self._check_il()
        if not stable:
            return single_instruction(pc, view)
        block = self.blocks[pc] = block_at(pc, view)
        return block


def _is_warm(pc: int, view: memoryview) -> bool:
    """Whether code at this address belongs into a region of something hot."""
    block = existing_block(pc, view)
    return block is not None and (block.tried or block.runs >= HOT // _WARM)


def _raised_by_operation(error: BaseException) -> bool:
    """Whether the operation raised this. Otherwise a signal handler did, after the operation had come to its end."""
    called = error.__traceback__.tb_next if error.__traceback__ else None
    return called is not None and called.tb_frame.f_code.co_filename == SOURCE_NAME
