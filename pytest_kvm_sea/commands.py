# SPDX-License-Identifier: GPL-2.0-only
"""Commands in place of a test run: explain a syndrome, look at the host, list what there is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_kvm_sea import injection
from pytest_kvm_sea.arm64 import syndrome_fields
from pytest_kvm_sea.command_line import DECODE_ESR, DOCTOR, HOST, LIST
from pytest_kvm_sea.missing import Missing
from pytest_kvm_sea.platforms.loader import bundled_names, load_platform
from pytest_kvm_sea.providers import make_host
from pytest_kvm_sea.ras.firmware import FirmwareError
from pytest_kvm_sea.reports.plain import plain
from pytest_kvm_sea.reports.story import Field, Syndrome
from pytest_kvm_sea.reports.telling import syndrome_lines
from pytest_kvm_sea.requirements import missing
from pytest_kvm_sea.targets import Target, targets
from pytest_kvm_sea.uapi.revisions import REVISIONS, Revision

if TYPE_CHECKING:
    from pytest_kvm_sea.hosts.contract import Host

GROUPS: dict[str, dict[str, str]] = {
    "KVM": {
        "arm64": "the machine is an AArch64 one",
        "kvm": "/dev/kvm can be opened and speaks the API",
        "ras": "the CPU has FEAT_RAS, and routes the external aborts of a guest to KVM",
        "sea-to-user": "KVM_CAP_ARM_SEA_TO_USER: KVM exits with a guest's external abort",
        "inject-ext-dabt": "KVM_SET_VCPU_EVENTS injects an external data abort",
        "inject-ext-iabt": "KVM_SET_VCPU_EVENTS injects an external instruction abort (the series and its follow-up)",
        "nisv-to-user": "KVM exits with an access outside memory that has no instruction syndrome",
        "serror-esr": "KVM_SET_VCPU_EVENTS injects an SError with a syndrome",
        "abort-esr": "KVM_SET_VCPU_EVENTS takes the syndrome of an abort (the follow-up only)",
        "userfault": "KVM userfault: a bitmap of pages that are kept out of stage 2 (a proposal)",
        "virtual-el2": "KVM gives a vCPU a virtual EL2: nested virtualisation (FEAT_NV2)",
        "double-fault2": "the CPU has FEAT_DoubleFault2 (SCTLR2_EL1.EASE)",
    },
    "Privilege": {
        "root": "CAP_SYS_ADMIN in the first user namespace",
        "pagemap-pfn": "/proc/self/pagemap shows host physical addresses",
        "debugfs": "debugfs is mounted and can be entered",
    },
    "Injecting memory errors": {
        "einj-table": "the firmware has an EINJ table",
        "einj-module": "the kernel's EINJ driver is loaded",
        "lockdown": "the kernel lets its files be opened",
        "einj-parameters": "EINJ takes an address",
        "einj-notrigger": "EINJ can leave the error for somebody to consume",
        "einj-memory-uer": "EINJ offers uncorrectable non-fatal memory errors",
    },
    "A firmware that plays along (emulated and simulated hosts)": {
        "firmware-stage2": "breaks stage-2 tables",
        "firmware-einj": "answers EINJ as it is told to",
        "firmware-ghes": "gives APEI an error record",
        "firmware-scrub": "reports errors that nobody has consumed",
    },
    "Pages out of service": {
        "hard-offline": "memory_failure on demand: hard_offline_page",
        "soft-offline": "a page moved and taken out of service: soft_offline_page",
    },
    "Huge pages": {
        "hugetlb-2m": "a hugetlb page of 2 MiB is free",
        "hugetlb-1g": "a hugetlb page of 1 GiB is free",
    },
}
"""Every requirement, and what it is."""

SEA_TO_USER = (
    *("sea-to-user", "ras", "inject-ext-dabt", "pagemap-pfn", "einj-table", "einj-module", "lockdown"),
    *("einj-parameters", "einj-memory-uer", "einj-notrigger"),
)
_BITS = 64
_IN_LOG = re.compile(r"esr\w*\s*[:=]?\s*(0x[0-9a-f]+)", re.IGNORECASE)
_HEXADECIMAL = re.compile(r"0x[0-9a-f]+|(?=[0-9]*[a-f])[0-9a-f]+", re.IGNORECASE)


def originals(revision: Revision) -> dict[str, tuple[str, ...]]:
    """The two selftests of the kernel's series, and what they need. Mainline has no ext_iabt_pending: there
    inject_iabt has its data aborts by KVM_SET_VCPU_EVENTS, and its instruction aborts by other ways."""
    by_events = "inject-ext-dabt" if revision.cap_inject_ext_iabt is None else "inject-ext-iabt"
    return {"sea_to_user": SEA_TO_USER, "inject_iabt": ("kvm", by_events)}


def run(config: pytest.Config) -> int | None:
    """Run the command that was given, and give the exit code; None where none was. Raises pytest.UsageError."""
    esr = config.getoption(DECODE_ESR.dest)
    if esr is not None:
        return _print(_decode(str(esr)), pytest.ExitCode.OK)
    if config.getoption(DOCTOR.dest) is not None:
        return _doctor(config)
    if config.getoption(LIST.dest) is not None:
        return _print(_list(), pytest.ExitCode.OK)
    return None


def _print(lines: Iterable[str], code: int) -> int:
    """On standard output, in one piece. Whoever reads it may stop reading."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(code)


# --kvm-sea-decode-esr


def _decode(text: str) -> list[str]:
    esr = parse_esr(text)
    fields = tuple(
        Field(each.name, each.bits, f"{each.value:#x}", each.meaning) for each in syndrome_fields.explain(esr)
    )
    return syndrome_lines(Syndrome("ESR", f"{esr:#018x}", fields, syndrome_fields.summary(esr)))


def parse_esr(text: str) -> int:
    """The syndrome in a number or a line of a log. Raises pytest.UsageError."""
    value = text.strip()
    in_log = _IN_LOG.findall(value)
    if _HEXADECIMAL.fullmatch(value):
        esr = int(value, 16)
    elif value.isascii() and value.isdecimal() and len(value) <= _BITS:
        esr = int(value)
    elif in_log:
        esr = int(in_log[0], 16)
    else:
        raise _not_an_esr(text, "there is no syndrome in it")
    if esr >> _BITS:
        raise _not_an_esr(text, f"it has {esr.bit_length()} bits")
    return esr


def _not_an_esr(text: str, problem: str) -> pytest.UsageError:
    return pytest.UsageError(
        f"{DECODE_ESR.flag}: '{plain(text, 100)}': {problem}; valid: a number of at most {_BITS} bits, hexadecimal with"
        " 0x (0x96000010) or with a letter in it (9200007f), decimal otherwise; or a line of a log with ESR: 0x... or"
        " esr=0x..."
    )


# --kvm-sea-doctor


def _doctor(config: pytest.Config) -> int:
    """Look at every chosen host. 1 where one of them lacks something that the originals need."""
    chosen = targets(config)
    if chosen[0].host == "linux" and not sys.platform.startswith("linux"):
        cause = Missing("linux", f"this machine runs {sys.platform}", f"Linux on arm64, or {HOST.flag} sim")
        return _print([str(cause)], pytest.ExitCode.TESTS_FAILED)
    lines: list[str] = []
    complete = [_examine(config, target, lines, brief=len(chosen) > 1) for target in chosen]
    if len(chosen) > 1:
        lines.append(f"{sum(complete)} of {len(chosen)} hosts have all that the two original selftests need")
    return _print(lines, pytest.ExitCode.OK if all(complete) else pytest.ExitCode.TESTS_FAILED)


def _examine(config: pytest.Config, target: Target, lines: list[str], *, brief: bool) -> bool:
    """Put one host into words; ``brief``: only what it lacks. Whether the originals can run there."""
    host = make_host(target)
    try:
        found = {name: _causes(host, name) for names in GROUPS.values() for name in names}
        pages = f"pages of {host.page_size >> 10} KiB"
        lines.append(f"{target.id}: {host.node}, {host.machine}, Linux {host.release}, {pages}")
        for title, names in GROUPS.items():
            group = [
                line for name, text in names.items() for line in _requirement(name, text, found[name], brief=brief)
            ]
            lines += [f"  {title}", *group] if group else []
        needed = originals(host.revision)
        lacking = {name: [each for each in needs if found[each]] for name, needs in needed.items()}
        lines.append("  The original selftests")
        lines += [f"    {_verdict(name, names)}" for name, names in lacking.items()]
        lines += [f"  Before an injection: {cause.how}" for cause in injection.forbidden(config, host)]
        lines.append("")
    finally:
        host.close()
    return not any(lacking.values())


def _causes(host: Host, name: str) -> list[Missing]:
    try:
        return missing(host, [name])
    except (OSError, ValueError, FirmwareError) as error:
        return [Missing(name, f"it could not be found out: {error}", "see what is missing before it")]


def _requirement(name: str, text: str, causes: Sequence[Missing], *, brief: bool) -> Iterator[str]:
    if not causes:
        if not brief:
            yield f"    ok       {name:17}  {text}"
        return
    yield f"    missing  {name:17}  {text}"
    for cause in causes:
        if cause.name == name:
            yield f"{'':32}{plain(cause.what)}"
            yield f"{'':32}to get it: {plain(cause.how)}"
    others = [cause.name for cause in causes if cause.name != name]
    if others:
        yield f"{'':32}because of {', '.join(others)}"


def _verdict(name: str, lacking: Sequence[str]) -> str:
    return f"{name}: lacks {', '.join(lacking)}" if lacking else f"{name}: can run"


# --kvm-sea-list


def _list() -> Iterator[str]:
    yield "Platforms to simulate (--kvm-sea-platform)"
    platforms = [load_platform(name) for name in bundled_names()]
    width = max(len(platform.name) for platform in platforms)
    release = max(len(platform.kernel.release) for platform in platforms)
    for platform in platforms:
        kernel = platform.kernel
        yield f"  {platform.name:{width}}  {kernel.uapi:9}  Linux {kernel.release:{release}}  {platform.description}"
    yield ""
    yield "Revisions of KVM's user API (--kvm-sea-uapi)"
    for revision in REVISIONS.values():
        iabt = revision.cap_inject_ext_iabt or "none"
        yield (
            f"  {revision.name:{width}}  KVM_EXIT_ARM_SEA {revision.exit_arm_sea}, KVM_CAP_ARM_SEA_TO_USER"
            f" {revision.cap_sea_to_user}, KVM_CAP_ARM_INJECT_EXT_IABT {iabt}"
        )
    yield ""
    yield "Requirements (mark kvm_sea_requires)"
    for title, names in GROUPS.items():
        yield f"  {title}"
        for name, text in names.items():
            yield f"    {name:17}  {text}"
