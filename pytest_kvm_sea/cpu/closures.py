# SPDX-License-Identifier: GPL-2.0-only
"""One Python function per instruction: cheap to make, exact in everything.

The source that the semantics emit has variables where instructions of one shape differ (registers, immediates); it is
compiled once per shape and process, and each instruction is a closure over its own numbers.

An operation of a block is called as ``f(c, x)`` with the processor and its register list; one that ends a block as
``f(c, x, pc)`` and returns the next PC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from pytest_kvm_sea.cpu import helpers, semantics
from pytest_kvm_sea.cpu.decoder import decode
from pytest_kvm_sea.cpu.emitter import M32, M64, SEMANTICS, ZERO_REGISTER, Emitter, Way

Function: TypeAlias = Callable[..., Any]

semantics.load()


class Operation(NamedTuple):
    """An instruction as a function."""

    function: Function
    ends_block: bool


class ClosureEmitter(Emitter):
    """Emits the source of one function of one instruction."""

    def __init__(self, pc: int) -> None:
        self.pc = pc
        self.lines: list[str] = []
        self.holes: list[int] = []
        self.ends_block = False
        self.uses_pc = False

    def constant(self, value: int) -> str:
        self.holes.append(value)
        return f"k{len(self.holes) - 1}"

    def pc_relative(self, offset: int, *, page: bool = False) -> str:
        self.uses_pc = True
        return self.constant((self.pc & ~0xFFF if page else self.pc) + offset & 0xFFFFFFFFFFFFFFFF)

    def next_pc(self) -> str:
        return f"pc + 4 & {M64}"

    def read(self, number: int, sf: int = 1) -> str:
        if number == ZERO_REGISTER:
            return "0"
        register = f"x[{self.constant(number)}]"
        return register if sf else f"({register} & {M32})"

    def read_sp(self, number: int, sf: int = 1) -> str:
        if number == ZERO_REGISTER:
            return "c.sp" if sf else f"(c.sp & {M32})"
        return self.read(number, sf)

    def write(self, number: int, value: str, *, narrow: bool = False) -> None:  # noqa: ARG002
        if number != ZERO_REGISTER:
            self.lines.append(f"x[{self.constant(number)}] = {value}")

    def write_sp(self, number: int, value: str, *, narrow: bool = False) -> None:
        if number == ZERO_REGISTER:
            self.lines.append(f"c.sp = {value}")
        else:
            self.write(number, value, narrow=narrow)

    def let(self, name: str, value: str) -> str:
        self.lines.append(f"{name} = {value}")
        return name

    def flags(self, kind: int, a: str, b: str = "0") -> tuple[str, str]:
        self.lines.append(f"a = {a}")
        self.lines.append(f"b = {b}")
        self.lines.append(f"c.fk = {kind}")
        self.lines.append("c.fa = a")
        self.lines.append("c.fb = b")
        return "a", "b"

    def condition(self, condition: int) -> str:
        return f"CONDITIONS[{self.constant(condition)}][nzcv(c.fk, c.fa, c.fb)]"

    def nzcv(self) -> str:
        return "nzcv(c.fk, c.fa, c.fb)"

    def load(self, target: int, address: str, size: int, *, signed: int, iss: int, base_sp: bool, way: Way) -> None:
        if base_sp:
            self.check_sp()
        value = f"c.load{way.value}({address}, {size}, {self.constant(iss)})"
        if signed:
            value = f"sign_extend({value}, {size * 8}) & {M64 if signed == 64 else M32}"
        if target == ZERO_REGISTER:
            self.lines.append(value)
        else:
            self.write(target, value)

    def store(self, source: int, address: str, size: int, *, iss: int, base_sp: bool, way: Way) -> None:
        if base_sp:
            self.check_sp()
        self.lines.append(f"c.store{way.value}({address}, {size}, {self.read(source)}, {self.constant(iss)})")

    def load_pair(self, first: int, second: int, address: str, size: int, *, signed: bool, base_sp: bool) -> None:
        if base_sp:
            self.check_sp()
        self.lines.append(f"t, u = c.load_pair({address}, {size})")
        for target, name in ((first, "t"), (second, "u")):
            self.write(target, f"sign_extend({name}, 32) & {M64}" if signed else name)

    def store_pair(self, first: int, second: int, address: str, size: int, *, base_sp: bool) -> None:
        if base_sp:
            self.check_sp()
        self.lines.append(f"c.store_pair({address}, {size}, {self.read(first)}, {self.read(second)})")

    def branch(self, offset: int, condition: str | None = None) -> None:
        self.ends_block = True
        target = f"pc + {self.constant(offset)} & {M64}"
        self.lines.append(f"return {target}" if condition is None else f"return {target} if {condition} else pc + 4")

    def branch_to(self, target: str) -> None:
        self.ends_block = True
        self.lines.append(f"return {target}")

    def call(self, method: str, *arguments: str) -> None:
        self.ends_block = True
        self.lines.append(f"return c.{method}({', '.join([*arguments, 'pc'])})")

    def call_value(self, method: str, *arguments: str) -> str:
        return f"c.{method}({', '.join(arguments)})"

    def call_only(self, method: str, *arguments: str) -> None:
        self.lines.append(f"c.{method}({', '.join(arguments)})")

    def check_sp(self) -> None:
        self.lines.append("if c.sp & 15: c.misaligned_sp()")


_NAMESPACE: Final[dict[str, Any]] = {name: getattr(helpers, name) for name in helpers.__all__}
_FACTORIES: Final[dict[str, Function]] = {}
_OPERATIONS: Final[dict[int, Operation]] = {}
"""Instruction word, or word and address where the address matters -> operation."""
_NEEDS_ADDRESS: Final[set[int]] = set()
"""Words whose operation depends on their address."""
_LIMIT = 100_000


_HOLES: Final = tuple(f"k{number}" for number in range(16))


def _compile(source: str) -> Function:
    exec(compile(source, "<instruction>", "exec"), _NAMESPACE)  # noqa: S102 - the source is ours
    made: Function = _NAMESPACE["make"]
    return made


def _translate(word: int, pc: int) -> tuple[Operation, bool]:
    emitter = ClosureEmitter(pc)
    encoding = decode(word)
    if encoding is None:
        emitter.call("undefined")
    else:
        SEMANTICS[encoding.name](emitter, encoding.decode(word))
    arguments = "c, x, pc" if emitter.ends_block else "c, x"
    holes = ", ".join(_HOLES[: len(emitter.holes)])
    body = "\n  ".join(emitter.lines) or "pass"
    source = f"def make({holes}):\n def f({arguments}):\n  {body}\n return f\n"
    factory = _FACTORIES.get(source)
    if factory is None:
        factory = _FACTORIES[source] = _compile(source)
    return Operation(factory(*emitter.holes), emitter.ends_block), emitter.uses_pc


def operation(word: int, pc: int) -> Operation:
    """The operation of an instruction word at this address. Any word has one: undefined ones raise the exception."""
    found = _OPERATIONS.get(word)
    if found is not None:
        return found
    key = pc << 32 | word
    if word in _NEEDS_ADDRESS:
        found = _OPERATIONS.get(key)
        if found is not None:
            return found
    found, uses_pc = _translate(word, pc)
    if len(_OPERATIONS) >= _LIMIT:
        _OPERATIONS.clear()
    if uses_pc:
        _NEEDS_ADDRESS.add(word)
    _OPERATIONS[key if uses_pc else word] = found
    return found
