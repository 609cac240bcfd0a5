# SPDX-License-Identifier: GPL-2.0-only
"""Control flow of guest code: the blocks behind ``with g.if_(…)``."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from pytest_kvm_sea.arm64.operands import Label
from pytest_kvm_sea.guest.base import GuestBase
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.values import Operand, Value, as_value


class Block:
    """A with-block of guest code. Values made in it are gone when it ends."""

    def __init__(self, guest: GuestBase) -> None:
        self.guest = guest
        self.code = guest.code

    def __enter__(self) -> None:
        self.guest.begin()
        self.start()
        self.code.open_scope()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.code.close_scope()
        if kind is None:
            self.guest.begin()
            self.end()

    def start(self) -> None:
        """Emit what comes before the block."""
        raise NotImplementedError

    def end(self) -> None:
        """Emit what comes after the block."""
        raise NotImplementedError


class If(Block):
    """Runs if a value is true."""

    def __init__(self, guest: GuestBase, condition: Value) -> None:
        super().__init__(guest)
        self.condition = condition
        self.skip = Label("else")
        self.ended_at: int | None = None
        """Where the block ended; a block for the other case has to begin there."""

    def start(self) -> None:
        self.code.branch(self.condition, self.skip, when=False)

    def end(self) -> None:
        self.code.asm.label(self.skip)
        self.ended_at = len(self.code.asm)
        self.guest.last_if = self  # blocks inside of this one were the last for a while


class Else(Block):
    """Runs if the value of the block before was false."""

    def __init__(self, guest: GuestBase, before: If | None) -> None:
        super().__init__(guest)
        self.before = before
        self.join = Label("end of else")

    def start(self) -> None:
        before = self.before
        if before is None or before.code is not self.code or before.ended_at != len(self.code.asm):
            raise GuestBuildError("else_: it must directly follow the block of an if_")
        before.ended_at = None
        self.code.asm.b(self.join)
        self.code.asm.move_label(before.skip)

    def end(self) -> None:
        self.code.asm.label(self.join)


class Loop(Block):
    """Runs as long as a value is true; the test stands at the end, so that a round has one branch."""

    def __init__(
        self,
        guest: GuestBase,
        condition: Operand | Callable[[], Operand],
        step: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(guest)
        self.condition = condition
        self.step = step
        self.body, self.next, self.test, self.leave = Label("body"), Label("next"), Label("test"), Label("leave")

    def start(self) -> None:
        if not self._is_endless():
            self.code.asm.b(self.test)
        self.code.asm.label(self.body)
        self.guest.loops.append((self.leave, self.next))

    def end(self) -> None:
        self.guest.loops.pop()
        self.code.asm.label(self.next)
        if self.step is not None:
            self.step()
        self.code.asm.label(self.test)
        # What the condition reads lives as long as it takes to test it.
        self.code.open_scope()
        condition = as_value(self.condition() if callable(self.condition) else self.condition)
        self.code.begin()
        self.code.branch(condition, self.body, when=True)
        self.code.close_scope()
        self.code.asm.label(self.leave)

    def _is_endless(self) -> bool:
        return isinstance(self.condition, int) and bool(self.condition)
