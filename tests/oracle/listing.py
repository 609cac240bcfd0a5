# SPDX-License-Identifier: GPL-2.0-only
"""The random words that differ for a known reason, one by one, as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from pytest_kvm_sea.arm64 import esr
from pytest_kvm_sea.arm64.disassembler import disassemble
from pytest_kvm_sea.cpu.decoder import decode
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.difference import ending
from tests.oracle.instructions import as_it_should_be

UNDEFINED = "UNDEFINED"


class Listed(NamedTuple):
    """A word on which the two differ, and why."""

    reason: str
    """`Known.name`."""
    detail: str
    name: str
    """The encoding class; empty where the simulated processor has none."""
    word: int
    qemu: str
    """What it did."""
    simulated: str
    case: int
    """Its index."""


def listed(case: Case, reason: str, detail: str, qemu: Result, simulated: Result) -> Listed:
    """The entry of a case, which has one instruction."""
    (word,) = case.words
    encoding = decode(word)
    name = "" if encoding is None else encoding.name
    return Listed(reason, detail, name, word, did(case, qemu), did(case, simulated), case.index)


def did(case: Case, result: Result) -> str:
    """What became of a case in a few words: "executes", "UNDEFINED", or another exception by its class."""
    if result.trouble:
        return result.trouble
    end = ending(case, result)
    if end.number is None and end.syndrome == esr.syndrome(esr.EC.SVC64, at.STOP >> 5 & 0xFFFF):
        return "executes"
    if end.number is not None and end.syndrome == esr.syndrome(esr.EC.UNKNOWN):
        return UNDEFINED
    if end.is_data_abort or end.is_instruction_abort:
        return "data abort" if end.is_data_abort else "instruction abort"
    return next((each.name for each in esr.EC if each == end.ec), f"EC {end.ec:#04x}")


def page(entries: Sequence[Listed], *, undefined: int, same: int, command: str) -> Iterator[str]:
    """Totals, a table by reason and class, and one of all words. So many are UNDEFINED in both, or do the same."""
    yield "# Random words that differ for a known reason\n"
    yield f"```sh\n{command}\n```\n"
    yield (
        f"{undefined:,} words are UNDEFINED in both, {same:,} do the same otherwise, and {len(entries):,} differ for a "
        "reason that is known.\n"
    )
    yield from by_class(entries)
    yield ""
    yield "| word | instruction | reason | class | QEMU | simulated | case |"
    yield "|---|---|---|---|---|---|---|"
    for each in sorted(entries):
        yield (
            f"| {each.word:08x} | {_text(each.word)} | {_reason(each)} | {each.name or '-'} | {each.qemu} "
            f"| {each.simulated} | {each.case} |"
        )


def by_class(entries: Sequence[Listed]) -> Iterator[str]:
    """A table with one line for each reason, class, and what the two did."""
    yield "| reason | class | words | QEMU | simulated | example |"
    yield "|---|---|---|---|---|---|"
    for (reason, name, qemu, simulated), group in groupby(sorted(entries, key=_kind), _kind):
        words = [each.word for each in group]
        example = min(words)
        yield f"| {reason} | {name} | {len(words)} | {qemu} | {simulated} | `{example:08x}` {_text(example)} |"


def _kind(entry: Listed) -> tuple[str, str, str, str]:
    return _reason(entry), entry.name or "-", entry.qemu, entry.simulated


def _reason(entry: Listed) -> str:
    return f"{entry.reason}: {entry.detail}" if entry.detail else entry.reason


def _text(word: int) -> str:
    """Where capstone does not print a word: that of the word as it should be, or that there is none."""
    for each in (word, as_it_should_be(word)):
        text = disassemble(each.to_bytes(4, "little"), 0)[0].text
        if not text.startswith("."):
            return f"`{text}`"
    return "no text"
