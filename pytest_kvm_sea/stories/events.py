# SPDX-License-Identifier: GPL-2.0-only
"""From the steps of a trace to the events of a story. One function for each kind of step, found by a table.

Two events are concluded rather than seen, because they are what people look for: that the processor took an abort to
EL2 (before KVM_EXIT_ARM_SEA), and that the guest is at a vector (after an injection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.arm64 import syndrome_fields
from pytest_kvm_sea.guest.ucall import Ucall, UcallCommand
from pytest_kvm_sea.ras import sigbus
from pytest_kvm_sea.ras.errors import errno_name
from pytest_kvm_sea.reports.plain import plain
from pytest_kvm_sea.reports.story import Event, Lane
from pytest_kvm_sea.reports.trace import Record, Step, Who
from pytest_kvm_sea.stories import vectors
from pytest_kvm_sea.stories.places import Atlas
from pytest_kvm_sea.vmm.exits import MemoryFaultExit, MmioExit, NisvExit, SeaExit, SigbusExit, VmExit

if TYPE_CHECKING:
    from pytest_kvm_sea.vmm.vm import Vm

Facts: TypeAlias = "list[tuple[str, str]]"
GUEST, KVM, FIRMWARE, VMM = (lane.value for lane in (Lane.GUEST, Lane.KVM, Lane.FIRMWARE, Lane.VMM))
_TEXT = 200
"""Characters of a text of the guest's or the firmware's in an event."""


class Teller:
    """Puts the steps of one test into words."""

    def __init__(self, vms: Sequence[Vm], atlas: Atlas) -> None:
        self._vms = {vm.who.vm: vm for vm in vms}
        self._atlas = atlas
        self._tellers: Mapping[Step, Callable[[Record], Iterable[Event]]] = {
            Step.VM: self._vm,
            Step.MEMSLOT: self._memslot,
            Step.CAPABILITY: self._capability,
            Step.VCPU: self._vcpu,
            Step.PROGRAM: self._program,
            Step.RUN: self._run,
            Step.EXIT: self._exit,
            Step.INTERRUPTED: self._interrupted,
            Step.RUN_FAILED: self._run_failed,
            Step.TIMEOUT: self._timeout,
            Step.UCALL: self._ucall,
            Step.EVENTS: self._events,
            Step.REGISTERS: self._registers,
            Step.WRITE: self._write,
            Step.POISONED: self._poisoned,
            Step.INJECTED: self._injected,
            Step.FIRMWARE: self._firmware,
            Step.RETIRED: self._retired,
        }

    def tell(self, records: Sequence[Record]) -> Iterator[Event]:
        """The events in order. A store to the ucall address is told once, as the ucall that it was."""
        ucalls = _ucall_exits(records)
        for record in records:
            if record.number not in ucalls:
                yield from self._tellers[record.step](record)

    def who(self, who: Who | None) -> str:
        """`vCPU 0`, or `VM 1 vCPU 0` where there are several VMs."""
        if who is None:
            return ""
        vm = f"VM {who.vm}" if len(self._vms) > 1 or who.vcpu is None else ""
        vcpu = "" if who.vcpu is None else f"vCPU {who.vcpu}"
        return f"{vm} {vcpu}".strip()

    def _at(self, record: Record, pc: int | None) -> Facts:
        """Where the guest is."""
        if pc is None:
            return []
        vm = self._vms.get(record.who.vm) if record.who else None
        place = vm.locate(GuestVA(pc)) if vm is not None and vm.program is not None else ""
        return [("pc", f"{pc:#x}"), *([("at", plain(place, _TEXT))] if place else [])]

    # Setting up

    def _vm(self, record: Record) -> Iterable[Event]:
        ipa_bits, revision = record.values
        title = f"KVM_CREATE_VM {self.who(record.who)}"
        yield _event(record, (VMM, KVM), title, [("ipa bits", str(ipa_bits)), ("uapi", revision)], "setup")

    def _memslot(self, record: Record) -> Iterable[Event]:
        slot, ipa, size, hva, readonly, backing = record.values
        facts = [("ipa", f"{ipa:#x}"), ("hva", f"{hva:#x}"), ("size", f"{size:#x}"), ("backing", backing.value)]
        facts += [("flags", "read-only")] if readonly else []
        yield _event(record, (VMM, KVM), f"memslot {slot}", facts, "setup")

    def _capability(self, record: Record) -> Iterable[Event]:
        number, flags, is_sea = record.values
        name = "KVM_CAP_ARM_SEA_TO_USER" if is_sea else f"capability {number}"
        yield _event(
            record, (VMM, KVM), f"KVM_ENABLE_CAP {name}", [("number", str(number)), ("flags", f"{flags:#x}")], "setup"
        )

    def _vcpu(self, record: Record) -> Iterable[Event]:
        (entry,) = record.values
        yield _event(record, (VMM, KVM), f"KVM_CREATE_VCPU {self.who(record.who)}", self._at(record, entry), "setup")

    def _program(self, record: Record) -> Iterable[Event]:
        entry, table = record.values
        facts = [("entry", f"{entry:#x}"), ("vectors", f"{table:#x}")]
        yield _event(record, (VMM, GUEST), "program loaded", facts, "setup")

    # Running

    def _run(self, record: Record) -> Iterable[Event]:
        yield _event(record, (VMM, GUEST), f"KVM_RUN {self.who(record.who)}", [], "run")

    def _interrupted(self, record: Record) -> Iterable[Event]:
        yield _event(record, (KVM, VMM), f"KVM_RUN {self.who(record.who)}: EINTR", [], "exit")

    def _run_failed(self, record: Record) -> Iterable[Event]:
        code, pc = record.values
        title = f"KVM_RUN {self.who(record.who)} failed: {errno_name(code)}"
        yield _event(record, (KVM, VMM), title, self._at(record, pc), "error")

    def _timeout(self, record: Record) -> Iterable[Event]:
        seconds, pc = record.values
        title = f"{self.who(record.who)} did not come back within {seconds:g} s and was interrupted"
        yield _event(record, (VMM, GUEST), title, self._at(record, pc), "error")

    def _exit(self, record: Record) -> Iterable[Event]:
        result, pc = record.values
        if isinstance(result, SeaExit):
            yield from self._sea(record, result, pc)
        elif isinstance(result, SigbusExit):
            for signal in result.signals:
                facts = self._atlas.facts(hva=signal.address)
                facts += [("si_code", f"{signal.code} {sigbus.name(signal.code)}"), ("lsb", str(signal.lsb))]
                yield _event(
                    record, (KVM, VMM), f"SIGBUS {sigbus.name(signal.code)}", facts + self._at(record, pc), "signal"
                )
        else:
            yield _event(record, (KVM, VMM), _exit_title(result), _exit_facts(result) + self._at(record, pc), "exit")

    def _sea(self, record: Record, sea: SeaExit, pc: int) -> Iterable[Event]:
        vm = record.who.vm if record.who else 0
        addresses = self._atlas.sea_facts(vm, sea)
        title = f"{self.who(record.who)}: synchronous external abort, taken to EL2"
        yield _event(record, (GUEST, KVM), title, addresses + self._at(record, pc), "sea")
        facts = [
            ("gva", f"{sea.gva:#x}" if sea.gva_valid else "not valid"),
            ("gpa", f"{sea.gpa:#x}" if sea.gpa_valid else "not valid"),
            ("esr", f"{sea.esr:#x}"),
            ("flags", f"{sea.flags:#x}"),
            ("means", syndrome_fields.summary(sea.esr)),
        ]
        yield _event(record, (KVM, VMM), "KVM_EXIT_ARM_SEA", facts, "sea")

    def _ucall(self, record: Record) -> Iterable[Event]:
        (ucall,) = record.values
        kind = "error" if ucall.cmd in (UcallCommand.ABORT, UcallCommand.UNHANDLED) else "ucall"
        title, facts = _ucall_words(ucall)
        yield _event(record, (GUEST, VMM), title, [("by", self.who(record.who)), *facts], kind)

    # Injecting into the guest

    def _events(self, record: Record) -> Iterable[Event]:
        dabt, iabt, serror, syndrome, code, state = record.values
        words = [name for name, value in (("ext_dabt_pending", dabt), ("ext_iabt_pending", iabt)) if value]
        if serror:
            words.append("serror_pending" + ("" if syndrome is None else f" esr={syndrome:#x}"))
        facts = [("to", self.who(record.who))]
        title = f"KVM_SET_VCPU_EVENTS {' '.join(words) or 'nothing pending'}"
        if code:
            yield _event(record, (VMM, KVM), f"{title}: {errno_name(code)}", facts, "error")
            return
        yield _event(record, (VMM, KVM), title, facts, "inject")
        only_serror = bool(serror) and not (dabt or iabt)
        if words and (offset := vectors.taken(state, serror=only_serror)) is not None:
            yield self._vector(record, KVM, offset)
        elif words:
            facts = self._at(record, state["pc"])
            yield _event(record, (KVM, GUEST), _pending(state, serror=only_serror), facts, "vector")

    def _registers(self, record: Record) -> Iterable[Event]:
        (state,) = record.values
        title = "an abort written by KVM_SET_ONE_REG"
        yield _event(record, (VMM, GUEST), title, [("to", self.who(record.who))], "inject")
        yield self._vector(record, VMM, state["pc"] - state[f"vbar_{vectors.level(state)}"])

    def _vector(self, record: Record, lane: str, offset: int) -> Event:
        state: Mapping[str, int] = record.values[-1]
        el = vectors.level(state)
        elr, far, esr, spsr, vbar = (f"{name}_{el}" for name in ("elr", "far", "esr", "spsr", "vbar"))
        facts = [
            ("pc", f"{state['pc']:#x}"),
            (elr, f"{state[elr]:#x}"),
            *[fact for fact in self._at(record, state[elr]) if fact[0] == "at"],
            (far, f"{state[far]:#x}"),
            (esr, f"{state[esr]:#x}"),
            (spsr, f"{state[spsr]:#x} {vectors.mode(state[spsr])}"),
            (vbar, f"{state[vbar]:#x}"),
            ("means", syndrome_fields.summary(state[esr])),
        ]
        title = f"{self.who(record.who)} is at {vectors.name(offset, el)}"
        return _event(record, (lane, GUEST), title, facts, "vector")

    # Breaking memory

    def _write(self, record: Record) -> Iterable[Event]:
        write, error = record.values
        facts = [("file", write.path), ("why", write.why)] if write.why else [("file", write.path)]
        kind = "setup" if write.restoring else "einj"
        title = f"echo {plain(write.text, _TEXT)} > {write.file}"
        if error is not None:
            yield _event(record, (VMM, KVM), f"{title}: refused", [*facts, ("error", plain(error, _TEXT))], "error")
        else:
            yield _event(record, (VMM, KVM), title, facts, kind)

    def _injected(self, record: Record) -> Iterable[Event]:
        hva, hpa, error_type, notrigger = record.values
        facts = self._atlas.facts(hva=hva, hpa=hpa)
        facts += [("type", f"{error_type:#x}"), ("notrigger", str(int(notrigger)))]
        yield _event(record, (KVM, FIRMWARE), "EINJ: the firmware reports that it injected the error", facts, "einj")

    def _poisoned(self, record: Record) -> Iterable[Event]:
        yield _event(record, (VMM, KVM), "madvise MADV_HWPOISON", self._atlas.facts(hva=record.values[0]), "einj")

    def _firmware(self, record: Record) -> Iterable[Event]:
        operation, arguments, answer = record.values
        facts = [
            (name, f"{value:#x}" if name == "hpa" else plain(str(value), _TEXT)) for name, value in arguments.items()
        ]
        ok = answer.get("ok")
        shown = {name: value for name, value in answer.items() if name != "ok"}
        facts += [(name, plain(str(value), _TEXT)) for name, value in shown.items()]
        title = f"firmware: {operation}" + ("" if ok else ": refused")
        yield _event(record, (VMM, FIRMWARE), title, facts, "einj" if ok else "error")

    def _retired(self, record: Record) -> Iterable[Event]:
        hpa, way, error = record.values
        facts = self._atlas.facts(hpa=hpa)
        if error is not None:
            yield _event(
                record, (VMM, KVM), "the page stays in service", [*facts, ("error", plain(error, _TEXT))], "error"
            )
        else:
            yield _event(record, (VMM, KVM), "the page is taken out of service", [*facts, ("by", way)], "einj")


def _event(record: Record, way: tuple[str, str], title: str, facts: Sequence[tuple[str, str]], kind: str) -> Event:
    return Event(record.time, *way, title, tuple(facts), kind)


def _ucall_exits(records: Sequence[Record]) -> set[int]:
    """The numbers of the exits that a ucall follows."""
    last: dict[Who | None, int] = {}
    found = set()
    for record in records:
        if record.step is Step.EXIT:
            last[record.who] = record.number
        elif record.step is Step.UCALL and record.who in last:
            found.add(last[record.who])
    return found


def _exit_title(result: VmExit) -> str:
    if isinstance(result, MmioExit):
        return "KVM_EXIT_MMIO"
    if isinstance(result, NisvExit):
        return "KVM_EXIT_ARM_NISV"
    if isinstance(result, MemoryFaultExit):
        return "KVM_EXIT_MEMORY_FAULT"
    return str(result)


def _exit_facts(result: VmExit) -> Facts:
    if isinstance(result, MmioExit):
        direction = f"store of {result.data.hex()}" if result.is_write else "load"
        return [("ipa", f"{result.address:#x}"), ("access", f"{direction}, {result.size} bytes")]
    if isinstance(result, NisvExit):
        return [("ipa", f"{result.fault_ipa:#x}"), ("esr_iss", f"{result.esr_iss:#x}")]
    if isinstance(result, MemoryFaultExit):
        return [("ipa", f"{result.gpa:#x}"), ("size", f"{result.size:#x}"), ("flags", f"{result.flags:#x}")]
    return []


def _ucall_words(ucall: Ucall) -> tuple[str, Facts]:
    if ucall.cmd is UcallCommand.PRINTF:
        return "ucall PRINTF", [("text", plain(ucall.text.removesuffix("\n"), _TEXT))]
    if ucall.cmd is UcallCommand.SYNC:
        return f"ucall SYNC({ucall.stage})", []
    if ucall.cmd is UcallCommand.ABORT:
        text = [("text", plain(ucall.text, _TEXT))] if ucall.text else []
        where = f"{plain(ucall.file, _TEXT)}:{ucall.line}"
        return "ucall ABORT", [("expression", plain(ucall.expression, _TEXT)), *text, ("guest's source", where)]
    if ucall.cmd is UcallCommand.UNHANDLED:
        vector = ucall.vector
        known = vectors.name(vector * vectors.SIZE) if 0 <= vector < vectors.TABLE // vectors.SIZE else str(vector)
        cause = [("class", syndrome_fields.CLASSES.get(ucall.ec, f"{ucall.ec:#x}"))] if ucall.valid_ec else []
        return "ucall UNHANDLED: an exception without a handler", [("vector", known), *cause]
    return f"ucall {ucall.cmd.name}", []


def _pending(state: Mapping[str, int], *, serror: bool) -> str:
    """What becomes of an event that was accepted and moved no register."""
    if serror and vectors.masks_serror(state["pstate"]):
        return "the SError is pending: PSTATE.A masks it"
    offset = vectors.expected_offset(state["pstate"], serror=serror)
    where = "a vector" if offset is None else vectors.name(offset, vectors.level(state))
    return f"the exception is taken at the next KVM_RUN, at {where}"
