# SPDX-License-Identifier: GPL-2.0-only
"""One Python function per instruction: cheap to make, exact in everything.

The source that the semantics emit has variables where instructions of one shape differ (registers, immediates); it is
compiled once per shape and process, and each instruction is a closure over its own numbers.

An operation of a block is called as ``f(c, x)`` with the processor and its register list; one that ends a block as
``f(c, x, pc)`` and returns the next PC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
SOURCE_NAME: Final = "<instructions>"
"""The file that tracebacks name for operations."""


_HOLES: Final = tuple(f"k{number}" for number in range(16))


class _Emitted(NamedTuple):
    """The source of an instruction, without its name, and what it is to be called with."""

    source: str
    holes: list[int]
    ends_block: bool
    uses_pc: bool


def _emit(word: int, pc: int) -> _Emitted:
    emitter = ClosureEmitter(pc)
    encoding = decode(word)
    if encoding is None:
        emitter.call("undefined")
    else:
        SEMANTICS[encoding.name](emitter, encoding.decode(word))
    arguments = "c, x, pc" if emitter.ends_block else "c, x"
    holes = ", ".join(_HOLES[: len(emitter.holes)])
    body = "\n  ".join(emitter.lines) or "pass"
    source = f"({holes}):\n def f({arguments}):\n  {body}\n return f\n"
    return _Emitted(source, emitter.holes, emitter.ends_block, emitter.uses_pc)


def _compile(sources: list[str]) -> None:
    """Compile shapes that are new; together, since most of the cost is per call of the compiler."""
    text = "".join(f"def make{number}{source}" for number, source in enumerate(sources))
    made: dict[str, Function] = {}
    exec(compile(text, SOURCE_NAME, "exec"), _NAMESPACE, made)  # noqa: S102 - the source is ours
    _FACTORIES.update(zip(sources, made.values(), strict=True))


def _known(word: int, pc: int) -> Operation | None:
    found = _OPERATIONS.get(word)
    if found is None and word in _NEEDS_ADDRESS:
        found = _OPERATIONS.get(pc << 32 | word)
    return found


def operations(pc: int, words: Sequence[int]) -> list[Operation]:
    """The operations of these words, from this address, up to the first that ends a block.

    Any word has one: undefined ones raise the exception.
    """
    done: list[Operation | _Emitted] = []
    for index, word in enumerate(words):
        found = _known(word, pc + 4 * index) or _emit(word, pc + 4 * index)
        done.append(found)
        if found.ends_block:
            break
    emitted = [each for each in done if isinstance(each, _Emitted)]
    new = list(dict.fromkeys(each.source for each in emitted if each.source not in _FACTORIES))
    if new:
        _compile(new)
    if len(_OPERATIONS) >= _LIMIT:
        _OPERATIONS.clear()
    return [
        each if isinstance(each, Operation) else _finish(each, words[index], pc + 4 * index)
        for index, each in enumerate(done)
    ]


def _finish(emitted: _Emitted, word: int, pc: int) -> Operation:
    made = Operation(_FACTORIES[emitted.source](*emitted.holes), emitted.ends_block)
    if emitted.uses_pc:
        _NEEDS_ADDRESS.add(word)
    _OPERATIONS[pc << 32 | word if emitted.uses_pc else word] = made
    return made
