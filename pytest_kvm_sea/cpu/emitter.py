# SPDX-License-Identifier: GPL-2.0-only
"""What the semantics of an instruction are written against.

The semantics of an encoding class are one function, written once, that *emits Python source* through an `Emitter`.
Two emitters exist: `closures.ClosureEmitter` makes a function per instruction that does everything exactly, aborts
included; `regions.RegionEmitter` makes one function of many instructions, with registers in locals, that leaves what
is rare to the closures. Semantics never know which one they talk to.

Expressions are strings of Python. A register's value is an unsigned number below 2**64, or 2**32 where it is read as
a W register; whatever is written must be such a number again. Atoms bind tighter than any operator, so that they can
be put together; a composite expression is put into parentheses by whoever builds on it.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

M64: Final = "0xffffffffffffffff"
M32: Final = "0xffffffff"
ZERO_REGISTER: Final = 31

Fields: TypeAlias = Mapping[str, int]


class Unsuited(Exception):
    """This emitter does not do this kind of instruction; another must."""


class Way(enum.Enum):
    """How a load or store is made."""

    PLAIN = ""
    UNPRIVILEGED = "_unprivileged"
    ORDERED = "_ordered"
    """Acquire or release: must be aligned."""


def mask(sf: int) -> str:
    return M64 if sf else M32


class Emitter(ABC):
    """Collects the source of one instruction. ``pc`` is its address."""

    pc: int

    @abstractmethod
    def constant(self, value: int) -> str:
        """An atom for a number that differs between instructions of the same shape."""

    @abstractmethod
    def pc_relative(self, offset: int, *, page: bool = False) -> str:
        """An atom: the address of the instruction (of its 4 KiB page) plus an offset."""

    @abstractmethod
    def next_pc(self) -> str:
        """An expression: the address of the next instruction. Only where the block ends."""

    @abstractmethod
    def read(self, number: int, sf: int = 1) -> str:
        """An atom: X or W register; 31 is the zero register."""

    @abstractmethod
    def read_sp(self, number: int, sf: int = 1) -> str:
        """The same; 31 is the stack pointer."""

    @abstractmethod
    def write(self, number: int, value: str, *, narrow: bool = False) -> None:
        """Set a register; 31 discards. ``narrow``: the value is below 2**32."""

    @abstractmethod
    def write_sp(self, number: int, value: str, *, narrow: bool = False) -> None:
        """Set a register; 31 is the stack pointer."""

    @abstractmethod
    def let(self, name: str, value: str) -> str:
        """Evaluate once into a scratch variable; the answer is its name."""

    @abstractmethod
    def flags(self, kind: int, a: str, b: str = "0") -> tuple[str, str]:
        """Set the condition flags (`pstate`); the answer is atoms for the two operands, to compute the result from."""

    @abstractmethod
    def condition(self, condition: int) -> str:
        """An expression that is true if the condition holds."""

    @abstractmethod
    def nzcv(self) -> str:
        """The four flags as a number."""

    @abstractmethod
    def load(self, target: int, address: str, size: int, *, signed: int, iss: int, base_sp: bool, way: Way) -> None:
        """Load one register; ``signed`` is 0, or the width in bits that the value is extended to."""

    @abstractmethod
    def store(self, source: int, address: str, size: int, *, iss: int, base_sp: bool, way: Way) -> None:
        """Store one register."""

    @abstractmethod
    def load_pair(self, first: int, second: int, address: str, size: int, *, signed: bool, base_sp: bool) -> None: ...

    @abstractmethod
    def store_pair(self, first: int, second: int, address: str, size: int, *, base_sp: bool) -> None: ...

    @abstractmethod
    def branch(self, offset: int, condition: str | None = None) -> None:
        """Go to pc + offset, if the condition holds. Ends the block."""

    @abstractmethod
    def branch_to(self, target: str) -> None:
        """Go to an address. Ends the block."""

    @abstractmethod
    def call(self, method: str, *arguments: str) -> None:
        """Let the processor do it: ``method(*arguments, pc)`` gives the next PC. Ends the block."""

    @abstractmethod
    def call_value(self, method: str, *arguments: str) -> str:
        """Let the processor compute a value (it may raise, or have side effects). Within a block."""

    @abstractmethod
    def check_sp(self) -> None:
        """Raise an SP alignment fault, where enabled. Loads and stores through this interface do it themselves."""

    @abstractmethod
    def call_only(self, method: str, *arguments: str) -> None:
        """Let the processor do something that may raise. Within a block."""


Semantics: TypeAlias = Callable[[Emitter, Fields], None]
SEMANTICS: Final[dict[str, Semantics]] = {}
"""Encoding class -> its semantics; filled by the modules of `pytest_kvm_sea.cpu.semantics`."""


def semantics(name: str) -> Callable[[Semantics], Semantics]:
    """Register the semantics of an encoding class."""

    def register(function: Semantics) -> Semantics:
        SEMANTICS[name] = function
        return function

    return register
