# SPDX-License-Identifier: GPL-2.0-only
"""What a run prints: a line per stratum, what was explained, and each mismatch as assembly with both results."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pytest_kvm_sea.arm64.disassembler import disassemble
from pytest_kvm_sea.arm64.esr import EC
from tests.oracle import layout as at
from tests.oracle.case import Case, Result
from tests.oracle.compare import TO_EL2, TROUBLE, Mismatch, Tally
from tests.oracle.known import KNOWN

_REGISTERS_A_LINE = 4


def summary(tally: Tally) -> Iterator[str]:
    """Tables of a whole run."""
    yield f"{'class':<20}{'cases':>10}{'differing':>11}"
    for stratum, count in tally.cases.items():
        yield f"{stratum:<20}{count:>10,}{tally.differing[stratum]:>11,}"
    yield ""
    yield "how the cases ended, in QEMU"
    for ending, count in tally.endings.most_common():
        yield f"{count:>10,}  {_ending(ending)}"
    yield ""
    yield "differences that are explained"
    for each in KNOWN:
        details = {detail: count for (name, detail), count in tally.explained.items() if name == each.name}
        if details:
            yield f"{sum(details.values()):>10,}  {each.name}: {each.reason}"
            yield from (f"{'':>12}{count:>8,}  {detail}" for detail, count in sorted(details.items()) if detail)
    yield ""


def _ending(ending: int) -> str:
    if ending == TROUBLE:
        return "not at all"
    number = ending & ~TO_EL2
    name = next((each.name for each in EC if each == number), "?")
    return f"EC {number:#04x} {name}, taken to EL{2 if ending & TO_EL2 else 1}"


def mismatch(found: Mismatch, again: str) -> Iterator[str]:
    """A case that differs; ``again`` is the command that runs it anew."""
    case = found.case
    yield f"{case.stratum}, index {case.index}: {again}"
    code = struct.pack(f"<{len(case.words)}I", *case.words)
    # The PC may be in the middle of the code, or in another mapping of it
    first = case.pc - (case.pc - case.code_at & at.PAGE - 1)
    yield from (f"    {line}" for line in disassemble(code, first))
    yield f"  PC {case.pc:#x}, PSTATE {case.pstate:#x}, SP_EL0 {case.sp_el0:#x}, SP_EL1 {case.sp_el1:#x}" + (
        ", compiled" if case.compiled else ""
    )
    yield from _registers(case)
    yield f"    {'':<12}{'QEMU':>20}{'simulated':>20}"
    yield from _differences(found.qemu, found.simulated)


def _registers(case: Case) -> Iterator[str]:
    shown = [f"X{number} {value:#x}" for number, value in enumerate(case.x) if value]
    shown += [f"{name.upper()} {value:#x}" for name, value in case.system.items() if value]
    for start in range(0, len(shown), _REGISTERS_A_LINE):
        yield "  " + ", ".join(shown[start : start + _REGISTERS_A_LINE])


def _differences(qemu: Result, simulated: Result) -> Iterator[str]:
    if qemu.trouble or simulated.trouble:
        yield f"    QEMU: {qemu.trouble or 'ended'}; simulated: {simulated.trouble or 'ended'}"
        return
    for name in ("sp_el0", "sp_el1", "pstate", "pc", "esr_el2", "far_el2", "hpfar_el2"):
        yield from _row(name, getattr(qemu, name), getattr(simulated, name))
    for number, (theirs, ours) in enumerate(zip(qemu.x, simulated.x, strict=True)):
        yield from _row(f"x{number}", theirs, ours)
    for name, theirs, ours in zip(at.SYSTEM, qemu.system, simulated.system, strict=True):
        yield from _row(name, theirs, ours)
    theirs_changed, ours_changed = dict(qemu.changes), dict(simulated.changes)
    for address in sorted(theirs_changed.keys() | ours_changed.keys()):
        values = [each.get(address) for each in (theirs_changed, ours_changed)]
        if values[0] != values[1]:
            yield f"    [{address:#x}]{_changed(values[0]):>20}{_changed(values[1]):>20}"


def _row(name: str, theirs: int, ours: int) -> Iterator[str]:
    if theirs != ours:
        yield f"    {name:<12}{theirs:>#20x}{ours:>#20x}"


def _changed(value: int | None) -> str:
    return "unchanged" if value is None else f"{value:#x}"
