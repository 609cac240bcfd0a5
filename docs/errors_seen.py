# SPDX-License-Identifier: GPL-2.0-only
"""The table of docs/reference/errors.md: what guest, VMM and host see of an error, from runs of each kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from pytest_kvm_sea.addresses import GuestPA, GuestVA
from pytest_kvm_sea.arm64 import syndrome_fields
from pytest_kvm_sea.arm64.esr import EC, ec
from pytest_kvm_sea.guest.access import ACCESSES
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.vectors import ExRegs, Vector
from pytest_kvm_sea.hosts.contract import MceKill
from pytest_kvm_sea.platforms.loader import load_bundled
from pytest_kvm_sea.ras.einj import Einj
from pytest_kvm_sea.ras.firmware import Firmware
from pytest_kvm_sea.ras.pagemap import Pagemap
from pytest_kvm_sea.ras.sigbus import name as signal_name
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.stories.kernel import KernelWatch
from pytest_kvm_sea.vmm.exits import SeaExit, SigbusExit
from pytest_kvm_sea.vmm.memory_errors import replay
from pytest_kvm_sea.vmm.vm import Vm

MEMORY, SIZE = 0x8000_0000, 0x20_0000
CELL = GuestVA(MEMORY + 0x40)
_MASK_SERROR = 4


def _program(kind: str, *, el0: bool) -> GuestProgram:
    """One access, and handlers that only end."""

    def guest_code(g: Guest) -> None:
        g.daifclr(_MASK_SERROR)
        g.access(ACCESSES[kind], CELL)
        g.done()

    def user_code(g: Guest) -> None:
        g.access(ACCESSES[kind], CELL)
        g.svc()

    def start(g: Guest) -> None:
        g.enter_el0()

    def over(g: Guest, _regs: ExRegs) -> None:
        g.store_global("vector", 1)
        g.done()

    vectors = (Vector.SYNC_CURRENT, Vector.SYNC_LOWER_64, Vector.ERROR_CURRENT, Vector.ERROR_LOWER_64)
    handlers = dict.fromkeys(vectors, over)
    if el0:
        return GuestProgram.build(start, user=user_code, handlers=handlers, globals={"vector": 0})
    return GuestProgram.build(guest_code, handlers=handlers, globals={"vector": 0})


@dataclass(frozen=True)
class Case:
    """One kind of error."""

    what: str
    platform: str = "ampereone"
    access: str = "ldr-x"
    el0: bool = True
    el2: bool = False
    """The guest is at a virtual EL2, and so is the owner of its user space."""
    asks: bool = True
    """The VMM enabled KVM_CAP_ARM_SEA_TO_USER, and replays."""
    broken: str = "cell"
    """cell; table: of the guest's stage 1, level 3; reported: by a patrol scrubber; offline: by the administrator."""


CASES = (
    Case("a process reads it, as today", asks=False),
    Case("a process reads it"),
    Case("a process writes it", access="str-x"),
    Case("a process fetches from it", access="fetch"),
    Case("the guest's kernel reads it", el0=False),
    Case("a process reads it; the core does not track the address", platform="neoverse-v2"),
    Case("the same, in the follow-up", platform="follow-up"),
    Case("the same, in the series", platform="series-v1-neoverse-v2"),
    Case("a parity error that a process reads, in the series", platform="series-v1-parity"),
    Case("a process of a guest at a virtual EL2 reads it", platform="nested", el2=True),
    Case("the same, in the series", platform="nested-series-v1", el2=True),
    Case("it is in a page table of the guest", broken="table"),
    Case("the host's APEI claims it", platform="apei-claims"),
    Case("APEI claims it and cannot act", platform="apei-claims-unhandled"),
    Case("a core without FEAT_RAS", platform="no-ras"),
    Case("the page went offline before anybody read it", broken="offline"),
    Case("a patrol scrubber reports it, and the VMM asked for early kill", broken="reported"),
)


def _run(case: Case, stack: ExitStack) -> tuple[str, str, str]:
    host = SimHost(load_bundled(case.platform))
    stack.callback(host.close)
    watch = KernelWatch(host)
    vm = stack.enter_context(Vm(host))
    vm.load(_program(case.access, el0=case.el0))
    vm.add_memory(GuestPA(MEMORY), SIZE)
    vm.map(GuestVA(MEMORY), GuestPA(MEMORY), SIZE // 0x1000, user=case.el0)
    vcpu = vm.add_vcpu(el2=case.el2)
    syndrome = "esr_el2" if case.el2 else "esr_el1"
    if case.asks:
        vm.enable_sea_to_user()
    vm.write_u64(CELL, 0xBAAD_CAFE)
    vmm = _break(case, vm)
    before = vcpu.get_reg(syndrome)
    result = None
    for _ in range(3):  # a claim sends a signal at every access; nobody waits for ever
        result = vcpu.resume()
        if isinstance(result, SeaExit):
            vmm.append(_exit(result))
            replay(vcpu, result)
        elif isinstance(result, SigbusExit):
            vmm.append("SIGBUS, " + ", ".join(signal_name(signal.code) for signal in result.signals))
            break
        else:
            break
    esr = vcpu.get_reg(syndrome)
    guest = "nothing" if esr == before or ec(esr) == EC.SVC64 else syndrome_fields.summary(esr)
    kernel = watch.messages()
    return guest, "; ".join(dict.fromkeys(vmm)) or "nothing", _log(kernel)


def _break(case: Case, vm: Vm) -> list[str]:
    """Put the error there; what the VMM hears of that at once."""
    hva = vm.gva_to_hva(CELL)
    if case.broken == "offline":
        vm.host.poison_page(hva)
    elif case.broken == "reported":
        vm.host.set_mce_kill(MceKill.EARLY)
        with vm.host.capture_sigbus() as signals:
            Firmware(vm.host).report(Pagemap(vm.host).translate(hva), "recoverable")
            return [f"at once SIGBUS, {signal_name(one.code)}" for one in signals()]
    else:
        target = hva if case.broken == "cell" else vm.memory.hva(vm.page_tables.walk(CELL)[3][1])
        Einj(vm.host).inject_at(target)
    return []


def _exit(sea: SeaExit) -> str:
    known = [name for name, valid in (("gva", sea.gva_valid), ("gpa", sea.gpa_valid)) if valid]
    return f"KVM_EXIT_ARM_SEA, esr {sea.esr:#x}, {' and '.join(known) or 'no address'}"


def _log(lines: list[str]) -> str:
    """The last word of the host's kernel, without times, numbers of processes and addresses, which differ each time."""
    if not lines:
        return "nothing"
    text = re.sub(r"^\[[^]]*\] ", "", lines[-1])
    return f"`{re.sub(r'0x[0-9a-f]+', '0x...', re.sub(r':[0-9]+', '', text))}`"


def rows() -> Iterator[tuple[str, ...]]:
    for case in CASES:
        with ExitStack() as stack:
            yield case.what, *_run(case, stack), f"`{case.platform}`"
