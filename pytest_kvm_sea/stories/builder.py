# SPDX-License-Identifier: GPL-2.0-only
"""The story of one test, made from what it left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_kvm_sea.reports.plain import plain, plain_lines
from pytest_kvm_sea.reports.story import Instruction, Story, Syndrome
from pytest_kvm_sea.reports.trace import Step
from pytest_kvm_sea.stories.events import Teller
from pytest_kvm_sea.stories.memory import SafeReader
from pytest_kvm_sea.stories.places import Atlas
from pytest_kvm_sea.stories.state import decoded, decoded_iss, look_at, shown
from pytest_kvm_sea.vmm.exits import NisvExit, SeaExit

if TYPE_CHECKING:
    from pytest_kvm_sea.reports.trace import Record, Who
    from pytest_kvm_sea.stories.evidence import Evidence
    from pytest_kvm_sea.vmm.vm import Vm

CONSOLE_FIRST, CONSOLE_LAST = 50, 150
KERNEL_FIRST, KERNEL_LAST = 50, 150
SYNDROMES = 16
EXPECTED_LINES = 40


def build(evidence: Evidence, *, expected: str = "", closed: bool = False) -> Story:
    """What happened. ``expected``: the failure in pytest's words; ``closed``: the VMs are, and cannot be asked."""
    trace, vms = evidence.trace, evidence.vms
    records = trace.records()
    atlas = Atlas(vms, trace)
    teller = Teller(vms, atlas)
    story = _Parts(teller)
    if trace.dropped:
        count, first, last = len(trace.dropped), trace.dropped.start, len(records) - trace.dropped.start
        story.notes.append(f"{count} steps between the first {first} and the last {last} were not kept")
    story.add_syndromes(records)
    if closed and vms:
        story.notes.append("the VMs were closed already: no registers and no code")
    elif not closed:
        for vm in vms:
            if vm.closed:
                story.notes.append(f"{teller.who(vm.who)} was closed already: no registers and no code")
            else:
                story.look_at(vm, evidence)
        story.put_last(
            next((record.who for record in reversed(records) if record.who and record.who.vcpu is not None), None)
        )
    kernel = evidence.kernel
    if kernel is None:
        story.notes.append("the kernel's messages are read from the first VM on, and there was none")
    console = [text for vm in vms for text in vm.console]
    return Story(
        target=evidence.target,
        kernel=evidence.host.release,
        events=tuple(teller.tell(records)),
        places=tuple(atlas.places(records)),
        registers=story.registers,
        code=story.code,
        syndromes=tuple(story.syndromes[-SYNDROMES:]),
        expected="\n".join(plain_lines([expected], EXPECTED_LINES // 2, EXPECTED_LINES // 2)),
        console=tuple(plain_lines(console, CONSOLE_FIRST, CONSOLE_LAST)),
        kernel_log=tuple(plain_lines(_lines(kernel.messages()), KERNEL_FIRST, KERNEL_LAST)) if kernel else (),
        taint=kernel.taint() if kernel else None,
        notes=tuple(plain(note) for note in [*story.notes, *(kernel.notes if kernel else ())]),
    )


def _lines(texts: Sequence[str]) -> list[str]:
    return [f"{text}\n" for text in texts]


class _Parts:
    """Those parts of a story that come vCPU by vCPU."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self.registers: dict[str, dict[str, str]] = {}
        self.code: dict[str, tuple[Instruction, ...]] = {}
        self.syndromes: list[Syndrome] = []
        self.notes: list[str] = []

    def add_syndromes(self, records: Sequence[Record]) -> None:
        """What KVM reported, each different one once."""
        for record in records:
            result = record.values[0] if record.step is Step.EXIT else None
            if isinstance(result, SeaExit):
                self._add(decoded("arm_sea.esr", result.esr))
            elif isinstance(result, NisvExit):
                self._add(decoded_iss("arm_nisv.esr_iss", result.esr_iss))

    def _add(self, syndrome: Syndrome) -> None:
        if syndrome not in self.syndromes:
            self.syndromes.append(syndrome)

    def put_last(self, who: Who | None) -> None:
        """The code of the vCPU that did the last step is the last: that is what people look at first."""
        name = self._teller.who(who)
        for key in [key for key in self.code if key.split(",")[0] == name]:
            self.code[key] = self.code.pop(key)

    def look_at(self, vm: Vm, evidence: Evidence) -> None:
        """The vCPUs of one VM."""
        reader = SafeReader(vm, evidence.trace)
        for vcpu in vm.vcpus:
            name = self._teller.who(vcpu.who)
            state = look_at(vcpu, reader, name)
            self.notes += state.notes
            if state.registers:
                self.registers[name] = shown(state.registers)
            for register, code in state.code.items():
                if code:
                    self.code[name if register == "PC" else f"{name}, {register}"] = tuple(code)
            if state.syndrome is not None:
                self._add(state.syndrome)
