# SPDX-License-Identifier: GPL-2.0-only
"""EINJ's files alone: what the kernel would have said to a program, and that several may use one tree."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kvm_sea.platforms.errors import PlatformError
from pytest_kvm_sea.platforms.loader import load_bundled
from pytest_kvm_sea.sim.fake_einj import FakeEinj, FakeInjection, Outcome
from pytest_kvm_sea.sim.host import SimHost
from tests.processes import run_at_once

TARGET = 0x8_8000_1040
MASK = 0xFFFF_FFFF_FFFF_F000
ORDER = {"error_type": "0x10", "flags": "2", "param1": f"{TARGET:#x}", "param2": f"{MASK:#x}", "notrigger": "1"}


@pytest.fixture
def fake(tmp_path: Path) -> FakeEinj:
    return FakeEinj(tmp_path / "root")


def code_of(fake: FakeEinj, name: str, text: str) -> int:
    try:
        fake.write(name, text)
    except OSError as error:
        return error.errno or -1
    return 0


def echo(fake: FakeEinj, **texts: str) -> None:
    """As a shell does it, past every check."""
    for name, text in texts.items():
        path = fake.directory / name
        path.chmod(0o600)
        path.write_text(f"{text}\n")


def test_a_program_in_this_process_gets_the_kernels_errno(fake: FakeEinj) -> None:
    for name, text in ORDER.items():
        fake.write(name, text)
    assert fake.read("param1") == f"{TARGET:#018x}\n"
    fake.write("error_inject", "1")
    (injection,) = fake.injections
    assert (injection.type, injection.flags, injection.address, injection.mask) == (0x10, 2, TARGET, MASK)
    assert (injection.poisoned, injection.triggered) == (True, False)
    assert code_of(fake, "param2", "0") == 0
    assert code_of(fake, "error_inject", "1") == errno.EINVAL
    assert code_of(fake, "error_type", "0x40") == errno.EINVAL
    assert code_of(fake, "param9", "1") == errno.ENOENT
    assert code_of(fake, "param1", "x") == errno.EINVAL
    assert len(fake.injections) == 1
    assert fake.sync() == [], "what went through the kernel needs no second look"


def test_what_was_written_past_the_kernel_is_looked_at_afterwards(fake: FakeEinj) -> None:
    echo(fake, **ORDER)
    assert {outcome.file for outcome in fake.sync() if outcome.accepted} == set(ORDER)
    assert (fake.directory / "flags").read_text() == "0x00000002\n"
    echo(fake, error_inject="1")
    assert fake.sync() == [Outcome("error_inject", "1\n", 0)]
    assert (fake.directory / "error_inject").read_text() == ""
    assert fake.injections[0].address == TARGET
    assert fake.sync() == []


def test_everything_at_once_is_injected_last(fake: FakeEinj) -> None:
    echo(fake, error_inject="1", **ORDER)
    assert [outcome.file for outcome in fake.sync()][-1] == "error_inject"
    assert len(fake.injections) == 1


def test_what_the_kernel_refuses_is_taken_back_and_told(fake: FakeEinj) -> None:
    echo(fake, **ORDER)
    fake.sync()
    echo(fake, param1="nowhere", param2="0", error_type="0x40")
    refused = {outcome.file: (outcome.text, outcome.errno) for outcome in fake.sync() if not outcome.accepted}
    assert refused == {"param1": ("nowhere\n", errno.EINVAL), "error_type": ("0x40\n", errno.EINVAL)}
    assert (fake.directory / "param1").read_text() == f"{TARGET:#018x}\n"
    assert (fake.directory / "error_type").read_text() == "0x40\n", "since 6.17 every text stays"
    echo(fake, error_inject="1")
    assert [outcome.errno for outcome in fake.sync()] == [errno.EINVAL]  # param2 is 0
    assert fake.injections == []


def test_an_empty_file_is_about_to_be_written(fake: FakeEinj) -> None:
    (fake.directory / "flags").write_text("")
    assert fake.sync() == []


def test_the_mode_of_error_inject_stays(fake: FakeEinj) -> None:
    (fake.directory / "error_inject").write_text("1")
    assert [outcome.errno for outcome in fake.sync()] == [errno.EINVAL]
    assert (fake.directory / "error_inject").stat().st_mode & 0o777 == 0o200


def test_a_shell_script_is_served(fake: FakeEinj) -> None:
    lines = [f"echo {text} > {name}" for name, text in (ORDER | {"error_inject": "1"}).items()]
    with fake.served() as outcomes:
        subprocess.run(["sh", "-ec", "\n".join(lines)], check=True, cwd=fake.directory)
        (injection,) = fake.wait_for_injections(1)
    assert (injection.type, injection.address) == (0x10, TARGET)
    assert all(outcome.accepted for outcome in outcomes)


def test_an_injection_that_does_not_come(fake: FakeEinj) -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 errors were injected within 0.01 s"):
        fake.wait_for_injections(1, timeout=0.01)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("success", 0), ("failed", errno.EBUSY), ("invalid", errno.EINVAL), ("timeout", errno.EIO)],
)
def test_the_firmwares_answers(fake: FakeEinj, outcome: str, code: int) -> None:
    fake.set_outcome(outcome)
    for name, text in ORDER.items():
        fake.write(name, text)
    assert code_of(fake, "error_inject", "1") == code
    assert len(fake.injections) == (0 if code else 1)


def test_the_trigger_is_in_the_log(fake: FakeEinj) -> None:
    for name, text in (ORDER | {"notrigger": "0"}).items():
        fake.write(name, text)
    fake.write("error_inject", "1")
    assert [injection.triggered for injection in fake.injections] == [True]


@pytest.mark.parametrize(
    ("platform", "name", "code"),
    [
        ("no-einj-table", "error_type", errno.ENOENT),
        ("einj-not-loaded", "error_type", errno.ENOENT),
        ("einj-no-parameters", "param1", errno.ENOENT),
        ("locked-down", "error_type", errno.EPERM),
        ("unprivileged", "error_type", errno.EACCES),
        ("einj-v2", "component_id0", errno.EINVAL),
    ],
)
def test_platforms(tmp_path: Path, platform: str, name: str, code: int) -> None:
    fake = FakeEinj(tmp_path, platform)
    assert code_of(fake, name, "x") == code
    assert fake.sync() == []


def test_unknown_platforms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="unknown platform 'ampere'; nearest valid name: ampereone"):
        FakeEinj(tmp_path, "ampere")


def test_ram_is_where_errors_may_go(fake: FakeEinj) -> None:
    for name, text in ORDER.items():
        fake.write(name, text)
    (last,) = fake.ram[-1:]
    for address, code in ((last.stop - 4096, 0), (last.stop, errno.EINVAL)):
        fake.write("param1", f"{address:#x}")
        assert code_of(fake, "error_inject", "1") == code


def test_it_is_the_tree_of_a_simulated_host_as_well(tmp_path: Path) -> None:
    platform = replace(load_bundled("ampereone"), name="box")
    fake, host = FakeEinj(tmp_path, platform), SimHost(platform, tree=tmp_path)
    host.open("/sys/kernel/debug/apei/einj/param1", 1).write(b"0x5")
    assert fake.read("param1") == "0x0000000000000005\n"
    host.close()


WORKER = """
    import os, sys
    from pathlib import Path
    from pytest_kvm_sea.sim.fake_einj import FakeEinj

    root, number = Path(sys.argv[1]), int(sys.argv[2])
    fake = FakeEinj(root)
    print("ready", flush=True)
    sys.stdin.readline()
    for name, text in {"error_type": "0x10", "flags": "2", "param2": "0xfffffffffffff000", "notrigger": "1"}.items():
        fake.write(name, text)
    for turn in range(20):
        fake.write("param1", hex(0x8_8000_0000 + number * 0x100000 + turn * 0x1000))
        fake.write("error_inject", "1")
        fake.sync()
        value = fake.read("param1")
        assert len(value) == 19 and value.endswith("\\n"), value
"""


def test_several_processes_use_one_tree(tmp_path: Path) -> None:
    """They make it together; no injection is lost or torn, though each may hit what another one has just written."""
    workers = run_at_once(WORKER, *((str(tmp_path), str(number)) for number in range(3)))
    injections = FakeEinj(tmp_path).injections
    written = {0x8_8000_0000 + number * 0x10_0000 + turn * 0x1000 for number in range(3) for turn in range(20)}
    assert len(injections) == 60
    assert {each.address for each in injections} <= written
    assert {(each.type, each.flags, each.mask) for each in injections} == {(0x10, 2, MASK)}
    assert sorted(each.pid for each in injections) == sorted(worker.pid for worker in workers for _ in range(20))
    assert isinstance(injections[0], FakeInjection)
