# SPDX-License-Identifier: GPL-2.0-only
"""The control flow of a page of code: pieces of straight code, where they go, and the loops they form.

A function that is called from two places is two sets of nodes, as long as x30 is known to hold the return address: a
return then has one successor, and a loop that calls something is still a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_kvm_sea.cpu.bus import PAGE_MASK, PAGE_SIZE
from pytest_kvm_sea.cpu.decoder import decode
from pytest_kvm_sea.cpu.emitter import SEMANTICS, Fields, Semantics, Unsuited
from pytest_kvm_sea.cpu.region_emitter import RegionEmitter, Usage

MAX_NODES: Final = 64
MAX_INSTRUCTIONS: Final = 400


class Node(NamedTuple):
    """A place in the program: an address, and what x30 holds there if that is known."""

    pc: int
    link: int | None


@dataclass(slots=True)
class Piece:
    """The straight code at a node, and where it goes."""

    instructions: list[tuple[Semantics, Fields]]
    usage: Usage
    successors: tuple[Node | None, ...]
    """Taken branch first. None: somewhere outside."""
    code: bytes


def discover(entry: Node, view: memoryview, warm: Callable[[int], bool]) -> dict[Node, Piece]:
    """What is reachable from a node within its page by direct branches, calls, and returns whose call was seen."""
    pieces: dict[Node, Piece] = {}
    pending = [entry]
    size = 0
    while pending and len(pieces) < MAX_NODES and size < MAX_INSTRUCTIONS:
        node = pending.pop(0)
        if node in pieces:
            continue
        piece = pieces[node] = _scan(node, view)
        size += len(piece.instructions)
        pending += [
            each for each in piece.successors if each is not None and each.pc >> 12 == entry.pc >> 12 and warm(each.pc)
        ]
    return pieces


def _scan(node: Node, view: memoryview) -> Piece:
    """Decode up to a branch, or to what this emitter does not do; emit it once to see which registers it uses."""
    emitter = RegionEmitter(rough=True)
    instructions: list[tuple[Semantics, Fields]] = []
    start = node.pc & PAGE_MASK
    link = node.link
    successors: tuple[Node | None, ...] = (None,)
    for word in view[start : min(start + 4 * MAX_INSTRUCTIONS, PAGE_SIZE)].cast("I"):
        encoding = decode(word)
        if encoding is None:
            break
        emitter.begin(node.pc + 4 * len(instructions))
        semantics, fields = SEMANTICS[encoding.name], encoding.decode(word)
        try:
            semantics(emitter, fields)
        except Unsuited:
            break
        instructions.append((semantics, fields))
        if emitter.flow is not None:
            successors = _successors(emitter, link)
            break
        if emitter.wrote_link:
            link = None
    return Piece(instructions, emitter.usage, successors, bytes(view[start : start + 4 * len(instructions)]))


def _successors(emitter: RegionEmitter, link: int | None) -> tuple[Node | None, ...]:
    flow, after = emitter.flow, emitter.pc + 4
    assert flow is not None
    if flow.target is None:
        return (Node(link, None) if flow.returns and link is not None else None,)
    if emitter.wrote_link:
        link = after
    taken = Node(flow.target, link)
    return (taken,) if flow.condition is None else (taken, Node(after, link))


def loops(entry: Node, pieces: dict[Node, Piece]) -> dict[Node, set[Node]]:
    """Header -> nodes of each natural loop (with every back edge to the header)."""
    edges = {
        node: [each for each in piece.successors if each is not None and each in pieces]
        for node, piece in pieces.items()
    }
    predecessors: dict[Node, list[Node]] = {node: [] for node in pieces}
    for node, targets in edges.items():
        for target in targets:
            predecessors[target].append(node)
    bodies: dict[Node, set[Node]] = {}
    active, seen = {entry}, {entry}
    stack: list[tuple[Node, Iterator[Node]]] = [(entry, iter(edges[entry]))]
    while stack:
        node, remaining = stack[-1]
        for target in remaining:
            if target in active:
                body = bodies.setdefault(target, {target})
                _grow(body, node, predecessors)
            elif target not in seen:
                active.add(target)
                seen.add(target)
                stack.append((target, iter(edges[target])))
                break
        else:
            active.discard(node)
            stack.pop()
    return bodies


def _grow(body: set[Node], latch: Node, predecessors: dict[Node, list[Node]]) -> None:
    pending = [latch]
    while pending:
        node = pending.pop()
        if node not in body:
            body.add(node)
            pending += predecessors[node]
