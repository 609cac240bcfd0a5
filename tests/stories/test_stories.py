# SPDX-License-Identifier: GPL-2.0-only
"""From a guest on a simulated host to its story: the chain of addresses, the exits, the injection, the state."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.reports import telling
from pytest_kvm_sea.reports.story import Event, Story
from pytest_kvm_sea.reports.trace import FIRST, LAST
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.sim.kernel_log import Level
from pytest_kvm_sea.stories.builder import build
from pytest_kvm_sea.stories.evidence import Evidence
from pytest_kvm_sea.stories.kernel import TAINTS, KernelWatch, explain_taint
from pytest_kvm_sea.stories.memory import BrokenMemory, SafeReader
from pytest_kvm_sea.uapi import kvm
from pytest_kvm_sea.vmm.errors import GuestTimeoutError, RunError, UnhandledException
from pytest_kvm_sea.vmm.exits import SeaExit
from pytest_kvm_sea.vmm.injection import write_abort
from pytest_kvm_sea.vmm.vm import Vm

GVA = GuestVA(0x8000_0000)
CELL = GuestVA(GVA + 0x4B80)
SIZE = 0x20_0000


class Scene:
    """A host, a VM with a second memslot, and what they leave behind."""

    def __init__(self, platform: str = "ampereone", *, root: bool = True) -> None:
        model = load_platform(platform)
        self.host = SimHost(replace(model, process=replace(model.process, root=root)))
        self.evidence = Evidence(self.host.label, self.host, fresh=True)
        self.evidence.watch()
        self.einj = Einj(self.host, trace=self.evidence.trace)

    def vm(self, program: GuestProgram | None = None) -> Vm:
        vm = Vm(self.host, trace=self.evidence.trace)
        self.evidence.vms.append(vm)
        if program is not None:
            vm.load(program)
            vm.add_vcpu().timeout = 2.0
            vm.add_memory(GuestPA(0x1_0000_0000), SIZE)
            vm.map(GVA, GuestPA(0x1_0000_0000), SIZE // 4096)
        return vm

    def story(self, expected: str = "") -> Story:
        return build(self.evidence, expected=expected)

    def close(self) -> None:
        for vm in self.evidence.vms:
            vm.close()
        self.einj.close()
        self.host.close()


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(platform: str = "ampereone", *, root: bool = True) -> Scene:
        made.append(Scene(platform, root=root))
        return made[-1]

    yield make
    for each in made:
        each.close()


def reader(g: Guest) -> None:
    g.printf("reading\n")
    g.read_u64(CELL)
    g.fail("read")


READER = GuestProgram.build(reader)


def consume(scene: Scene) -> SeaExit:
    """The guest reads a cell that EINJ broke."""
    vm = scene.vm(READER)
    vm.enable_sea_to_user()
    vm.write_u64(CELL, 1)
    scene.einj.inject_at(vm.gva_to_hva(CELL))
    return vm.vcpus[0].expect_sea()


def titles(story: Story, *kinds: str) -> list[str]:
    return [event.title for event in story.events if event.kind in kinds]


def facts(event: Event) -> dict[str, str]:
    return dict(event.facts)


def find(story: Story, start: str) -> Event:
    (found,) = [event for event in story.events if event.title.startswith(start)]
    return found


@pytest.mark.parametrize("platform", ["ampereone", "neoverse-v2", "series-v1", "host-64k"])
def test_the_chain_from_the_guest_to_the_cell_and_back(scene: Callable[..., Scene], platform: str) -> None:
    stage = scene(platform)
    sea = consume(stage)
    vm = stage.evidence.vms[0]
    vm.vcpus[0].inject_data_abort()
    story = stage.story("it failed")
    (injection,) = stage.einj.injections
    chain = {
        "gva": f"{CELL:#x}",
        "ipa": f"{0x1_0000_0000 + CELL - GVA:#x}",
        "hva": f"{injection.hva:#x}",
        "hpa": f"{injection.address:#x}",
    }
    place = story.places[0]
    assert {name: getattr(place, name) for name in chain} == chain
    assert place.what.startswith("poisoned by EINJ")
    # The exit says which byte it was only where the processor tracks the address.
    assert ("reported by KVM_EXIT_ARM_SEA" in place.what) == sea.far_valid
    assert chain.items() <= facts(find(story, "EINJ: the firmware reports")).items()
    abort = facts(find(story, "vCPU 0: synchronous external abort"))
    assert (chain.items() <= abort.items()) == sea.far_valid
    exit_facts = facts(find(story, "KVM_EXIT_ARM_SEA"))
    assert exit_facts["esr"] == f"{sea.esr:#x}"
    assert exit_facts["gva"] == (f"{sea.gva:#x}" if sea.far_valid else "not valid")
    order = titles(story, "einj", "sea", "inject", "vector")
    words = [title.split()[0] for title in order[-6:]]
    assert words[:-1] == ["echo", "EINJ:", "vCPU", "KVM_EXIT_ARM_SEA", "KVM_SET_VCPU_EVENTS"]
    assert "VBAR_EL1+0x200 (SYNC_CURRENT)" in order[-1]
    if platform != "series-v1":  # which takes the exception when the vCPU runs
        vector = facts(find(story, "vCPU 0 is at"))
        assert vector["pc"] == f"{READER.vectors + 0x200:#x}"
        assert vector["elr_el1"] == abort["pc"]
        assert vector["esr_el1"] == "0x96000010"
    assert story.syndromes[0].register == "arm_sea.esr"
    assert story.syndromes[0].value == f"{sea.esr:#018x}"
    assert story.console == ("reading",)
    assert story.expected == "it failed"
    assert story.taint is not None
    assert story.taint.added == ()
    assert json.loads(json.dumps(story.as_json()))["target"] == stage.host.label


def test_a_ucall_is_told_once(scene: Callable[..., Scene]) -> None:
    stage = scene()
    consume(stage)
    assert titles(stage.story(), "exit") == []
    assert titles(stage.story(), "ucall") == ["ucall PRINTF"]


def test_abort_by_registers(scene: Callable[..., Scene]) -> None:
    stage = scene()
    sea = consume(stage)
    vcpu = stage.evidence.vms[0].vcpus[0]
    pc = vcpu.pc
    write_abort(vcpu, sea.gva, instruction=False)
    vector = facts(find(stage.story(), "vCPU 0 is at"))
    assert vector["elr_el1"] == f"{pc:#x}"
    assert vector["far_el1"] == f"{CELL:#x}"
    assert "reader+" in vector["at"]


def test_serror_that_is_masked_is_pending(scene: Callable[..., Scene]) -> None:
    stage = scene()
    vcpu = stage.vm(READER).vcpus[0]
    vcpu.inject_serror()
    assert titles(stage.story(), "inject", "vector") == [
        "KVM_SET_VCPU_EVENTS serror_pending",
        "the SError is pending: PSTATE.A masks it",
    ]
    vcpu.set_reg("pstate", 0x5)
    vcpu.inject_serror(0x1234)
    vcpu.set_reg("pc", READER.vectors + 0x200)
    vcpu.inject_serror()
    assert "VBAR_EL1+0x200" not in titles(stage.story(), "vector")[-1], "that is where the PC was before"


def test_refused_events_are_told_with_the_errno(scene: Callable[..., Scene]) -> None:
    stage = scene()
    vcpu = stage.vm(READER).vcpus[0]
    with pytest.raises(OSError, match="Invalid argument"):
        vcpu.inject_serror(1 << 40)
    assert titles(stage.story(), "inject", "vector", "error") == [
        "KVM_SET_VCPU_EVENTS serror_pending esr=0x10000000000: EINVAL"
    ]


def test_unhandled_exception(scene: Callable[..., Scene]) -> None:
    def wrong(g: Guest) -> None:
        g.read_u64(0xDEAD_0000)

    stage = scene()
    vm = stage.vm(GuestProgram.build(wrong))
    with pytest.raises(UnhandledException):
        vm.vcpus[0].resume()
    story = stage.story()
    assert facts(find(story, "ucall UNHANDLED"))["vector"] == "VBAR_EL1+0x200 (SYNC_CURRENT)"
    assert story.syndromes[-1].register == "ESR_EL1 of vCPU 0"
    (pc,) = [line for line in story.code["vCPU 0, ELR_EL1"] if line.is_pc]
    assert pc.text.startswith("ldr")
    assert pc.place.startswith("wrong+")
    registers = vm.vcpus[0].registers("pc", "elr_el1")
    assert pc.address == f"{registers['elr_el1']:#x}"
    assert story.registers["vCPU 0"]["pc"] == f"{registers['pc']:#018x}"
    text = "\n".join(telling.section(story))
    assert "translation fault, level" in text
    assert f"-> {pc.address}" in text


def test_the_pc_where_nothing_is_mapped(scene: Callable[..., Scene]) -> None:
    stage = scene()
    stage.vm(READER).vcpus[0].set_reg("pc", 0x7FFF_0000)
    story = stage.story()
    assert story.notes == ("vCPU 0: PC is 0x7fff0000, and no code is mapped there",)
    assert not story.code


def test_broken_memory_is_never_read(scene: Callable[..., Scene]) -> None:
    """On a real host that would be a SIGBUS for pytest itself."""
    stage = scene()
    consume(stage)
    vm = stage.evidence.vms[0]
    safe = SafeReader(vm, stage.evidence.trace)
    page = CELL // 4096 * 4096
    for address in (page, CELL, page + 4092):
        with pytest.raises(BrokenMemory):
            safe.word(GuestVA(address))
    assert safe.word(GuestVA(page + 4096)) == 0
    vm.vcpus[0].set_reg("pc", CELL)
    assert any("in a page that was broken" in note for note in stage.story().notes)


def test_broken_page_tables_are_never_read(scene: Callable[..., Scene]) -> None:
    stage = scene()
    vm = stage.vm(READER)
    _, descriptor, _ = vm.page_tables.walk(READER.entry)[-1]
    stage.einj.inject_at(vm.memory.hva(descriptor))
    assert any("in a page that was broken" in note for note in stage.story().notes)


def test_an_error_at_an_unknown_place_makes_all_memory_suspect(scene: Callable[..., Scene]) -> None:
    stage = scene()
    vm = stage.vm(READER)
    hpa = stage.host.process.hpa_of(vm.gva_to_hva(READER.entry))
    assert hpa is not None
    stage.einj.inject_memory_error(hpa)
    with pytest.raises(BrokenMemory):
        SafeReader(vm, stage.evidence.trace).word(CELL)


def test_a_page_that_the_kernel_took(scene: Callable[..., Scene]) -> None:
    stage = scene()
    vm = stage.vm(READER)
    vm.write_u64(CELL, 1)
    hva = vm.gva_to_hva(CELL)
    vm.poison_page(hva)
    vm.vcpus[0].expect_sigbus()
    story = stage.story()
    signal = find(story, "SIGBUS BUS_MCEERR_AR")
    assert facts(signal)["hva"] == f"{hva // 4096 * 4096:#x}"
    assert facts(signal)["si_code"] == "4 BUS_MCEERR_AR"
    assert any("Memory failure" in line for line in story.kernel_log)
    with pytest.raises(BrokenMemory):
        SafeReader(vm, stage.evidence.trace).word(CELL)


def test_what_a_guest_says_is_escaped_and_cut(scene: Callable[..., Scene]) -> None:
    def talks(g: Guest) -> None:
        g.printf("\x1b[31mred # ok 1\n")
        with g.loop(FIRST + LAST):
            g.printf("again\n")
        g.done()

    stage = scene()
    stage.vm(GuestProgram.build(talks)).vcpus[0].expect_done()
    story = stage.story()
    whole = "\n".join(telling.whole(story))
    assert all(line.isprintable() for line in whole.split("\n"))
    assert r"\x1b[31mred # ok 1" in story.console
    assert any("more lines]" in line for line in story.console)
    assert len(story.console) < 300
    assert any("steps between the first" in note for note in story.notes)
    assert len(telling.section(story)) <= 40


def test_a_guest_that_loops(scene: Callable[..., Scene]) -> None:
    def loops(g: Guest) -> None:
        g.label_here("again")
        g.asm.b("again")

    stage = scene()
    vcpu = stage.vm(GuestProgram.build(loops)).vcpus[0]
    vcpu.timeout = 0.05
    with pytest.raises(GuestTimeoutError):
        vcpu.resume()
    assert titles(stage.story(), "error") == ["vCPU 0 did not come back within 0.05 s and was interrupted"]


def test_a_vcpu_that_still_runs_is_left_alone(scene: Callable[..., Scene]) -> None:
    """KVM keeps the registers to the thread that runs it: asking would wait."""

    def loops(g: Guest) -> None:
        g.label_here("again")
        g.asm.b("again")

    stage = scene()
    vcpu = stage.vm(GuestProgram.build(loops)).vcpus[0]
    vcpu.timeout = 0.3
    failures = []

    def run() -> None:
        try:
            vcpu.resume()
        except GuestTimeoutError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not vcpu.running:
        time.sleep(0.001)
    story = stage.story()
    thread.join()
    assert story.notes == ("vCPU 0 is still running: its registers cannot be read",)
    assert len(failures) == 1


def test_several_vms_are_told_apart(scene: Callable[..., Scene]) -> None:
    stage = scene()
    for _ in range(2):
        stage.vm(READER)
    assert list(stage.story().registers) == ["VM 0 vCPU 0", "VM 1 vCPU 0"]


def test_other_exits(scene: Callable[..., Scene]) -> None:
    nowhere = 0x5000_0000

    def accesses(g: Guest) -> None:
        g.access(ACCESSES["ldr-x"], nowhere)
        g.access(ACCESSES["ldp"], nowhere, label="pair")

    stage = scene()
    vm = stage.vm(GuestProgram.build(accesses))
    vm.map(GuestVA(nowhere), GuestPA(nowhere), 1)
    vm.vcpus[0].run()
    with pytest.raises(RunError):
        vm.vcpus[0].run()
    vm.enable_cap(kvm.KVM_CAP_ARM_NISV_TO_USER)
    vm.vcpus[0].run()
    story = stage.story()
    assert facts(find(story, "KVM_EXIT_MMIO")) == {"ipa": f"{nowhere:#x}", "access": "load, 8 bytes"}
    assert facts(find(story, "KVM_RUN vCPU 0 failed: ENOSYS"))["at"].startswith("accesses+")
    assert facts(find(story, "KVM_EXIT_ARM_NISV"))["ipa"] == f"{nowhere:#x}"
    (nisv,) = [syndrome for syndrome in story.syndromes if syndrome.register == "arm_nisv.esr_iss"]
    assert [field.meaning for field in nisv.fields if field.name == "DFSC"] == ["translation fault, level 1"]


def test_closed_vms_are_not_asked(scene: Callable[..., Scene]) -> None:
    stage = scene()
    consume(stage)
    for vm in stage.evidence.vms:
        vm.close()
    for told in (build(stage.evidence, closed=True), build(stage.evidence)):
        assert not told.registers
        assert "KVM_EXIT_ARM_SEA" in titles(told, "sea")
        assert any("closed already" in note for note in told.notes)


# The kernel


def test_messages_of_a_shared_host_are_those_since_the_test_began(scene: Callable[..., Scene]) -> None:
    log = (stage := scene()).host.physical.log
    log.add(Level.ERR, "before")
    first = KernelWatch(stage.host)
    log.add(Level.ERR, "meanwhile")
    assert [line.split("] ")[1] for line in first.messages()] == ["meanwhile"]
    log.add(Level.ERR, "between")
    second = KernelWatch(stage.host)
    log.add(Level.ERR, "later")
    assert [line.split("] ")[1] for line in second.messages()] == ["later"]
    assert second.messages() == []


def test_what_cannot_be_read_is_said(scene: Callable[..., Scene]) -> None:
    story = scene("ampereone", root=False).story()
    assert any("/dev/kmsg) cannot be read: Operation not permitted; run as root" in note for note in story.notes)


def test_taint_bits() -> None:
    assert explain_taint(0) == []
    assert explain_taint(1 << 9 | 1 << 4) == [
        "M (4): a machine check: the hardware reported an error",
        "W (9): the kernel issued a warning",
    ]
    assert explain_taint(1 << 40) == ["? (40): not known here"]
    assert sorted(TAINTS) == list(range(20))
    assert len({letter for letter, _ in TAINTS.values()}) == len(TAINTS)


def test_an_abort_at_a_virtual_el2_is_told_by_its_registers(scene: Callable[..., Scene]) -> None:
    made = scene("nested")
    vm = made.vm()
    vm.load(GuestProgram.build(lambda g: g.done()))
    vcpu = vm.add_vcpu(el2=True)
    vcpu.inject_data_abort()
    write_abort(vcpu, GuestVA(0x1234), instruction=True)
    story = made.story()
    told = [event for event in story.events if event.kind == "vector"]
    assert [event.title.rpartition(" is at ")[2] for event in told] == ["VBAR_EL2+0x200 (SYNC_CURRENT)"] * 2
    assert [dict(event.facts)["esr_el2"] for event in told] == ["0x96000010", "0x86000010"]
    assert [dict(event.facts)["spsr_el2"] for event in told] == ["0x3c9 EL2h"] * 2
    (registers,) = story.registers.values()
    assert int(registers["hcr_el2"], 16) == vcpu.get_reg("hcr_el2")
    assert story.syndromes[-1].register.startswith("ESR_EL2")
