# SPDX-License-Identifier: GPL-2.0-only
"""Hot code, compiled: one Python function for everything that is reachable within a page, guest loops as ``while``.

A region is left for the dispatcher where the code leaves the page, where an instruction is one that only closures do,
or where the structure has no form in Python (a jump into the middle of another loop).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from pytest_kvm_sea.cpu import bounds, helpers
from pytest_kvm_sea.cpu.bus import PAGE_MASK
from pytest_kvm_sea.cpu.flowgraph import Node, Piece, discover, loops
from pytest_kvm_sea.cpu.region_emitter import Knowledge, RegionEmitter, Usage

MAX_COPIES: Final = 4
"""How often one block may be emitted: where paths meet again, what follows is emitted on each."""
MAX_LOOPS: Final = 10
"""Nested loops; Python takes 20 nested blocks."""
MAX_INDENT: Final = 40
MAX_LINES: Final = 1500
_SP: Final = 31
_RARE: Final = (KeyError, IndexError, struct.error)
"""What the fast forms of loads and stores raise."""

Compiled: TypeAlias = Callable[..., int]


class Region(NamedTuple):
    """Compiled code and the bytes that it was made from."""

    function: Compiled
    pieces: tuple[tuple[int, bytes], ...]
    """(offset in the page, code)."""

    def matches(self, view: memoryview) -> bool:
        """Whether the page still holds this code."""
        return all(view[offset : offset + len(code)] == code for offset, code in self.pieces)


@dataclass(slots=True)
class Loop:
    """A loop that is being emitted."""

    header: Node
    body: set[Node]
    follow: Node | None
    """Where ``break`` goes."""
    left: bool = False
    """There is a ``break``."""
    bounds_after: bounds.Bounds | None = None


def compile_region(pc: int, view: memoryview, warm: Callable[[int], bool]) -> Region | None:
    """The region that starts here; None if there is nothing in it worth the call.

    ``warm`` tells which addresses are executed often enough to be in it: the rest is left to the dispatcher, since
    compiling costs as much as some hundred executions.
    """
    pieces = discover(Node(pc, None), view, warm)
    entry = pieces.get(Node(pc, None))
    if entry is None or not entry.instructions:
        return None
    return _Builder(pieces, Node(pc, None)).build()


class _Builder:
    """Emits a region."""

    def __init__(self, pieces: dict[Node, Piece], entry: Node) -> None:
        self.pieces = pieces
        self.entry = entry
        self.bodies = loops(entry, pieces)
        self.emitter = RegionEmitter()
        self.open: list[Loop] = []
        self.copies: Counter[Node] = Counter()

    def build(self) -> Region:
        emitter = self.emitter
        self._node(self.entry)
        usage = emitter.usage
        registers = sorted(usage.used | usage.written)
        head = [
            "def region(c, x, T, W, budget):",
            *(f" r{number} = {'c.sp' if number == _SP else f'x[{number}]'}" for number in registers),
            " fk = c.fk; fa = c.fa; fb = c.fb",
            f" pc = {self.entry.pc:#x}",
            " try:",
        ]
        tail = [
            " except BaseException as error:",
            "  origin = ORIGINS[error.__traceback__.tb_lineno]",
            "  pc = origin.pc",
            "  if origin.kind is not None: fk = origin.kind",
            "  if origin.operand is not None: fb = int(origin.operand, 0)",
            "  if not isinstance(error, RARE): raise",
            "  c.exact = True",
            "  return budget - origin.ahead",
            " finally:",
            *(f"  {'c.sp' if number == _SP else f'x[{number}]'} = r{number}" for number in sorted(usage.written)),
            *(["  c.fk = fk; c.fa = fa; c.fb = fb"] if usage.flags else []),
            "  c.pc = pc",
        ]
        origins = dict(enumerate(emitter.origins, len(head) + 1))
        namespace = {**_NAMESPACE, "ORIGINS": origins}
        source = "\n".join([*head, *emitter.lines, *tail, ""])
        exec(compile(source, f"<region {self.entry.pc:#x}>", "exec"), namespace)  # noqa: S102 - the source is ours
        pieces = {(node.pc & PAGE_MASK, self.pieces[node].code) for node in self.copies}
        return Region(namespace["region"], tuple(sorted(pieces)))

    # Nodes

    def _node(self, node: Node) -> None:
        if node in self.bodies and all(loop.header != node for loop in self.open):
            self._loop(node)
        else:
            self._piece(node)

    def _piece(self, node: Node) -> None:
        self._instructions(node)
        emitter, piece = self.emitter, self.pieces[node]
        flow = emitter.flow
        if flow is None:
            self._exit(hex(node.pc + 4 * len(piece.instructions)))
        elif flow.condition is not None:
            self._conditional(flow.condition, piece)
        elif piece.successors[0] is not None:
            self._go(piece.successors[0])
        else:
            self._exit(flow.indirect or hex(flow.target or 0))

    def _instructions(self, node: Node) -> None:
        emitter = self.emitter
        self.copies[node] += 1
        emitter.flow = None
        for index, (semantics, fields) in enumerate(self.pieces[node].instructions):
            emitter.begin(node.pc + 4 * index)
            semantics(emitter, fields)
            emitter.know.ahead += 1

    def _conditional(self, condition: str, piece: Piece) -> None:
        taken, fallen = piece.successors
        assert taken is not None
        assert fallen is not None
        after_taken, after_fallen = self._only_successor(taken), self._only_successor(fallen)
        if after_fallen == taken:
            self._join(f"not ({condition})", [fallen], taken)
        elif after_taken == fallen:
            self._join(condition, [taken], fallen)
        elif after_taken is not None and after_taken == after_fallen:
            self._join(condition, [taken, fallen], after_taken)
        else:
            emitter = self.emitter
            emitter.line(f"if {condition}:")
            known = emitter.know.copy()
            with self._indented():
                self._go(taken)
            emitter.know = known
            self._go(fallen)

    def _only_successor(self, node: Node) -> Node | None:
        """Where a piece goes that can be an arm of a condition: straight, in the current loop, no loop itself."""
        piece = self.pieces.get(node)
        if piece is None or node in self.bodies or len(piece.successors) != 1:
            return None
        if self.open and node not in self.open[-1].body:
            return None
        return piece.successors[0]

    def _join(self, condition: str, arms: list[Node], target: Node) -> None:
        """One or two arms, and what follows them once."""
        emitter = self.emitter
        if any(self.pieces[arm].usage.flags for arm in arms):
            emitter.settle_flags()
        before = emitter.know.copy()
        merged = before.bounds if len(arms) == 1 else None
        aligned = before.sp_aligned
        for arm, head in zip(arms, (f"if {condition}:", "else:"), strict=False):
            emitter.know = before.copy()
            emitter.line(head)
            with self._indented():
                self._instructions(arm)
                if self.pieces[arm].usage.flags:
                    emitter.settle_flags()
                emitter.line(f"budget -= {emitter.know.ahead - before.ahead}")
            merged = emitter.know.bounds if merged is None else bounds.either(merged, emitter.know.bounds)
            aligned = aligned and emitter.know.sp_aligned
        emitter.know = before
        before.bounds = merged or {}
        before.sp_aligned = aligned
        before.forget(set().union(*(self.pieces[arm].usage.written for arm in arms)))
        self._go(target)

    def _go(self, node: Node) -> None:
        """Continue at a node in the shortest way."""
        emitter = self.emitter
        emitter.pc = node.pc
        loop = self.open[-1] if self.open else None
        if loop is not None and node == loop.header:
            self._flush()
            emitter.line("continue")
        elif loop is not None and node not in loop.body:
            if node == loop.follow:
                self._flush()
                loop.left = True
                here = emitter.know.bounds
                loop.bounds_after = here if loop.bounds_after is None else bounds.either(loop.bounds_after, here)
                emitter.line("break")
            else:
                self._exit(hex(node.pc))
        elif (
            node not in self.pieces
            or self.copies[node] >= MAX_COPIES
            or emitter.indent >= MAX_INDENT
            or len(emitter.lines) >= MAX_LINES
            or any(each.header == node for each in self.open)
        ):
            self._exit(hex(node.pc))
        else:
            self._node(node)

    def _loop(self, header: Node) -> None:
        emitter, body = self.emitter, self.bodies[header]
        if len(self.open) >= MAX_LOOPS:
            self._exit(hex(header.pc))
            return
        self._flush()
        usages = [self.pieces[node].usage for node in body]
        emitter.know.bounds = _in_loop(emitter.know.bounds, usages)
        emitter.know.sp_aligned &= not any(_SP in usage.written for usage in usages)
        emitter.know.forget(set().union(*(usage.written for usage in usages)))
        loop = Loop(header, body, self._follow(header, body))
        emitter.pc = header.pc
        emitter.line("while budget > 0:")
        self.open.append(loop)
        with self._indented():
            self._piece(header)
        self.open.pop()
        emitter.know = Knowledge()
        emitter.pc = header.pc
        emitter.line("else:")
        with self._indented():
            self._exit(hex(header.pc))
        if loop.left and loop.follow is not None:
            emitter.know = Knowledge(bounds=loop.bounds_after or {})
            self._go(loop.follow)

    def _follow(self, header: Node, body: set[Node]) -> Node | None:
        """The exit of a loop that ``break`` is for: one that stays in the enclosing loop, else the nearest below."""
        exits = [
            each for node in body for each in self.pieces[node].successors if each is not None and each not in body
        ]
        enclosing = self.open[-1] if self.open else None
        within = [each for each in exits if enclosing is not None and each in enclosing.body]
        exits = within or [each for each in exits if each in self.pieces]
        below = [each for each in exits if each.pc > header.pc]
        return min(below or exits, key=lambda each: each.pc, default=None)

    def _flush(self) -> None:
        """Bring the variables up to date, for code that is reached in several ways."""
        emitter = self.emitter
        emitter.settle_flags()
        if emitter.know.ahead:
            emitter.line(f"budget -= {emitter.know.ahead}")
            emitter.know.ahead = 0

    def _exit(self, target: str) -> None:
        """Leave the region."""
        emitter = self.emitter
        emitter.settle_flags()
        emitter.line(f"pc = {target}")
        emitter.line(f"return budget - {emitter.know.ahead}" if emitter.know.ahead else "return budget")

    @contextmanager
    def _indented(self) -> Iterator[None]:
        self.emitter.indent += 1
        yield
        self.emitter.indent -= 1


def _in_loop(before: bounds.Bounds, usages: list[Usage]) -> bounds.Bounds:
    """What bounds hold at the head of a loop: on the way in, and after any of its pieces."""
    found = {name: most for name, most in before.items() if name not in {"fa", "fb"}}
    for usage in usages:
        for number, most in usage.most.items():
            name = f"r{number}"
            if name in found:
                found[name] = max(found[name], most)
    return {name: most for name, most in found.items() if most < bounds.M64}


_NAMESPACE: Final[dict[str, Any]] = {
    **{name: getattr(helpers, name) for name in helpers.__all__},
    "RARE": _RARE,
    **{
        name: struct.Struct("<" + layout).unpack_from
        for name, layout in (
            ("U2", "H"),
            ("U4", "I"),
            ("U8", "Q"),
            ("S1", "b"),
            ("S2", "h"),
            ("S4", "i"),
            ("U88", "QQ"),
            ("U44", "II"),
            ("S44", "ii"),
        )
    },
    **{
        name: struct.Struct("<" + layout).pack_into
        for name, layout in (("P2", "H"), ("P4", "I"), ("P8", "Q"), ("P88", "QQ"), ("P44", "II"))
    },
}
